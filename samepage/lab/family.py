"""All processes that programs on the model become, kept at the instants of their ends.

On the host each process of a tree leaves a ghost that keeps its address space when it ends
(see `samepage.trace.ghost`); here it is enough to keep one more user of the address space
(`mm_users`), which is what a ghost is.
"""

from __future__ import annotations

from samepage.kernel.process.rseq import handle_notify_resume
from samepage.kernel.process.task import Process, Task
from samepage.kernel.process.tracer import Tracer
from samepage.lab.keys import Key
from samepage.machine import Guest, Machine
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.snapshot.columns import Snapshot


@record
class _Member:
    """A process that was seen, and the pid of the process that forked it (0: the machine)."""

    process: Process
    forked_by: int
    faults: tuple[int, int] = (0, 0)
    kept: bool = False


class Family(Tracer):
    """Follows all processes of a machine, and keeps their memory beyond their end.

    A process is seen when it ends, or when its parent does, whichever comes first: by then
    no reaper has adopted it, so its parent is the one that forked it.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._members: dict[int, _Member] = {}
        machine.kernel.tracers.attach(self)

    def _see(self, process: Process) -> _Member:
        return self._members.setdefault(process.pid, _Member(process, process.ppid))

    def on_fork(self, parent: Task, child: Task) -> None:
        """The live side's tracer stops the parent at each fork event: it loses the CPU, and
        writes to its rseq area when it comes back."""
        handle_notify_resume(parent)

    def on_exit(self, process: Process) -> bool:
        """Keep the memory of a process that is not the machine's program itself."""
        member = self._see(process)
        for child in process.children:
            self._see(child)
        self._count(member)
        parent = process.parent
        borrowed = parent is not None and parent.mm is process.mm
        if not self._machine.debugger.holds(process) and not borrowed:
            kept = self._machine.kernel.tracers.keep_memory(process)
            self._machine.guests.append(Guest(self._machine, process, None, kept))
        member.kept = not borrowed
        return False

    def _count(self, member: _Member) -> None:
        faults = member.process.total_faults()
        member.faults = (faults.minor, faults.major)

    def finish(self, guest: Guest) -> None:
        """Let what a program left running in the background come to its end as well."""
        if guest.exit_code is None:
            member = self._see(guest.process)
            member.kept = True
            self._count(member)
            return
        kernel = self._machine.kernel
        for process in list(kernel.processes.values()):
            if process.threads and not process.tracing_stop:
                kernel.scheduler.run_until_exit(process)

    def count(self, snapshot: Snapshot) -> tuple[Snapshot, dict[Key, int]]:
        """A snapshot of the machine with the fault counts of all that was kept, and their
        pids by their places in the trees."""
        from samepage.lab.faults import with_faults

        keys: dict[int, Key] = {}
        born: dict[int, int] = {}
        for pid, member in sorted(self._members.items()):
            above = keys.get(member.forked_by, ())
            keys[pid] = (*above, born.get(member.forked_by, 0))
            born[member.forked_by] = born.get(member.forked_by, 0) + 1
        kept = {pid: member for pid, member in self._members.items() if member.kept}
        faults = {pid: member.faults for pid, member in kept.items()}
        return with_faults(snapshot, faults), {keys[pid]: pid for pid in kept}
