"""A scenario: programs, and all that decides which pages they get. It can be run again.

Nothing in it is a process or a machine, so a scenario outlives its runs: run it live, give
the model the host state that the live run found (`replace(scenario, host=...)`), write it
to a file, run it on another day.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from samepage.cpu import engines
from samepage.lab.commands import Commands
from samepage.lab.environment import CWD
from samepage.records import record, replace
from samepage.stop_at import StopAt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from samepage.kernel.fs.rootfs import RootFs
    from samepage.live.folios import Folios
    from samepage.machine.host import Host

    Resident = npt.NDArray[np.bool_]
    """For each page of a file, whether the page cache holds it."""

__all__ = ["HostState", "MachineOptions", "Scenario", "replace"]

RAM = "8G"
"""Enough that no comparison ends in the model's reclaim; unused frames cost nothing."""


@record(frozen=True)
class MachineOptions:
    """How the model's machine is made; the live kernel is what it is.

    `ram` is a size as `Machine` takes it, `root` what programs see as `/`.
    `cold`: no file is in the page cache at the start. `timeline` keeps every event, so that
    a difference can name what made a page. `max_instructions` 0 is no limit. `loader`,
    `lazy` and `user` are as in `Machine.spawn`, `engine` as in `Machine`. `kernel` is the
    version of Linux whose rules hold; None for those of the host.
    """

    ram: str = RAM
    root: str | RootFs = "/"
    cold: bool = False
    seed: int = 0
    timeline: bool = False
    max_instructions: int = 0
    loader: str = "ldso"
    lazy: bool = False
    user: tuple[int, int] | None = None
    kernel: str | None = None
    engine: str = engines.DEFAULT


@record(frozen=True)
class HostState:
    """What a run finds on its host that decides pages, by path where it is of a file.

    `folios` are a file's large folios in the page cache; `resident` has which pages of a
    file are cached: files that are not in it are cached whole. `readahead` is how many pages
    the host reads ahead, `xstate_size` how many bytes of registers its CPU saves in a signal
    frame; 0 where it is not known. `splits_updates`: its CPU faults twice where an instruction
    updates memory (`lab.host_state.splits_updates`). `root` is the directory that holds its
    files, "" for that of the machine's options; `kernel` is None for that of this system.
    """

    folios: Mapping[str, Folios] = MappingProxyType({})
    resident: Mapping[str, Resident] = MappingProxyType({})
    readahead: int = 0
    xstate_size: int = 0
    splits_updates: bool = False
    root: str = ""
    kernel: Host | None = None


@record(frozen=True)
class Scenario:
    """Programs that run one after the other up to `stop_at`, and stay resident together.

    `env` is their environment, CPU features hidden from them included (see
    `lab.environment`); `cwd` their directory; `timeout` the seconds that each may take.
    With `cold` the host drops the files that the programs map from its page cache first; of
    `cold_files` it drops only these.
    """

    commands: Commands
    env: Mapping[str, str]
    cwd: str | None = CWD
    stop_at: StopAt = StopAt.EXIT
    timeout: float | None = 60.0
    cold: bool = False
    cold_files: tuple[str, ...] = ()
    machine: MachineOptions = MachineOptions()
    host: HostState = HostState()
