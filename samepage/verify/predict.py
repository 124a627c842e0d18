"""The model's side: run the same group of programs on a machine of ours.

The machine gets what decides the pages of the live run: the same paths, arguments,
environment and directory, standard streams on /dev/null, and a page cache that is as warm
as the host's was made.

The instant must be the same too. On the host each process of a tree leaves a ghost that
keeps its address space when it ends (see `samepage.trace.ghost`); here it is enough to keep
one more user of the address space (`mm_users`), which is what a ghost is.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.process.rseq import handle_notify_resume
from samepage.kernel.process.task import Process
from samepage.live.folios import Folios
from samepage.machine import Guest, Machine
from samepage.machine import StopAt as ModelStopAt
from samepage.snapshot.tables import Snapshot
from samepage.trace.traced import StopAt
from samepage.verify.environment import CWD
from samepage.verify.faults import with_faults
from samepage.verify.keys import Key

RAM = "8G"
"""Enough that no comparison ends in the model's reclaim; unused frames cost nothing."""


@dataclass(slots=True)
class Prediction:
    """What the model has in memory for a group; fields as in `Observation`."""

    snapshot: Snapshot
    pids: dict[Key, int] = field(default_factory=dict)
    lost: dict[Key, str] = field(default_factory=dict)
    unimplemented: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


def predict(
    commands: Sequence[Sequence[str]],
    env: Mapping[str, str],
    *,
    stop_at: StopAt = StopAt.EXIT,
    timeout: float | None = None,
    residency: Mapping[tuple[int, int], npt.NDArray[np.bool_]] | None = None,
    timeline: bool = False,
    folios: Mapping[tuple[int, int], Folios] | None = None,
    xstate_size: int = 0,
) -> Prediction:
    """Run the commands together on the model, and return what they have in memory.

    With `timeline` every event is kept, so that a difference can say what made a page.
    `folios` are the large folios of the host's page cache by (device, inode), `xstate_size`
    the bytes of registers that the host's CPU saves in a signal frame. `residency` says
    which pages of a file are cached; files that are not in it are cached whole.
    Raises `SamepageError` if one cannot be started or does not end.
    """
    machine = Machine(RAM, timeline=timeline, timeout=timeout)
    for key, pages in (residency or {}).items():
        machine.kernel.cache.residency[key] = _is_in(pages)
    for key, cut in (folios or {}).items():
        machine.kernel.cache.folios[key] = FolioMap(cut)
    machine.kernel.xstate_size = max(xstate_size, machine.kernel.xstate_size)
    family = _Family(machine)
    for argv in commands:
        guest = machine.spawn(argv, env=env, cwd=CWD)
        _use_null(guest)
        machine.run(guest, ModelStopAt(stop_at.value))
        family.finish(guest)
    return family.prediction()


def _is_in(pages: npt.NDArray[np.bool_]) -> Callable[[int], bool]:
    return lambda index: index < len(pages) and bool(pages[index])


def _use_null(guest: Guest) -> None:
    """Put the standard streams on /dev/null: the guest's own one, since some programs
    (grep) compare their output with that file, and do less if they find it."""
    process = guest.process
    null = guest.machine.kernel.vfs.open(process.fs, os.fsencode(os.devnull), os.O_RDWR)
    for fd in range(3):
        process.files.close(fd)
    process.files.install(null)
    process.files.dup2(0, 1)
    process.files.dup2(0, 2)


@dataclass(slots=True)
class _Member:
    """A process that was seen, and the pid of the process that forked it (0: the machine)."""

    process: Process
    forked_by: int
    faults: tuple[int, int] = (0, 0)
    kept: bool = False


class _Family:
    """Follows all processes of a machine, and keeps their memory beyond their end.

    A process is seen when it ends, or when its parent does, whichever comes first: by then
    nobody has adopted it, so its parent is the one that forked it.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._members: dict[int, _Member] = {}
        machine.kernel.on_exit = self._on_exit
        # The tracer stops the parent at each fork event: it loses the CPU, and writes to its
        # rseq area when it comes back.
        machine.kernel.on_fork = handle_notify_resume
        # It also stops each process of a tree at every system call, where others go on.
        machine.kernel.scheduler.time_slice = 1

    def _see(self, process: Process) -> _Member:
        return self._members.setdefault(process.pid, _Member(process, process.ppid))

    def _on_exit(self, process: Process) -> None:
        member = self._see(process)
        for child in process.children:
            self._see(child)
        self._count(member)
        parent = process.parent
        borrowed = parent is not None and parent.mm is process.mm
        if not process.started_by_machine and not borrowed:
            process.mm.users += 1
            self._machine.guests.append(Guest(self._machine, process, None))
        member.kept = not borrowed

    def _count(self, member: _Member) -> None:
        faults = member.process.total_faults()
        member.faults = (faults.minor, faults.major)

    def finish(self, guest: Guest) -> None:
        """Let what a program left running in the background come to its end as well."""
        if guest.process.held:
            member = self._see(guest.process)
            member.kept = True
            self._count(member)
            return
        kernel = self._machine.kernel
        for process in list(kernel.processes.values()):
            if process.threads and not process.held:
                kernel.scheduler.run_until_exit(process)

    def prediction(self) -> Prediction:
        """The snapshot of all that was kept, by their places in the trees."""
        keys: dict[int, Key] = {}
        born: dict[int, int] = {}
        for pid, member in sorted(self._members.items()):
            above = keys.get(member.forked_by, ())
            keys[pid] = (*above, born.get(member.forked_by, 0))
            born[member.forked_by] = born.get(member.forked_by, 0) + 1
        kept = {pid: member for pid, member in self._members.items() if member.kept}
        faults = {pid: member.faults for pid, member in kept.items()}
        return Prediction(
            with_faults(self._machine.snapshot(), faults),
            pids={keys[pid]: pid for pid in kept},
            unimplemented=self._machine.unimplemented_syscalls,
            log=self._machine.log,
        )
