"""What a side has in memory for the programs of a scenario."""

from __future__ import annotations

from samepage.lab.keys import Key
from samepage.lab.scenario import HostState
from samepage.records import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.snapshot.columns import Snapshot

    Smaps = dict[int, dict[int, dict[bytes, int]]]
    """pid -> start of the VMA -> field -> kB."""


@record
class Observation:
    """The memory of a group of programs at their instant.

    `pids` gives the pid in `snapshot` of each process by its key; `lost` names those that
    could not be held, with the reason. `host` is the state that the run found, which another
    side needs to run the same. `smaps` are the kernel's own sums by pid, where a kernel
    prints them. `notes` are lines that a reader must know of this run. `statuses` has the exit
    status of each command as a shell has it, None for one that is held before its end; they
    are empty if it was not run (`was_run`) but recorded.
    """

    snapshot: Snapshot
    pids: dict[Key, int]
    lost: dict[Key, str] = field(default_factory=dict)
    host: HostState = HostState()
    smaps: Smaps = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    was_run: bool = True
