"""Tracing: what ptrace and tracepoints are to Linux.

A tracer is called at certain places in the life of each process, and may hold it there.
`Tracer` has a method for each of these places that does nothing; a tool overrides those that
it needs, and is attached to a machine's `Tracers`:

    on_syscall_entry, on_syscall_exit    PTRACE_SYSCALL's two stops
    on_fork                              PTRACE_EVENT_FORK, and those of vfork and clone
    on_exit                              PTRACE_EVENT_EXIT
    on_breakpoint                        SIGTRAP at an address given to `Engine.add_breakpoint`
    on_event                             tracepoints of mm (if `KernelConfig.events` is set)

A process that `stop` holds is in a tracing stop, and does not run until `resume`. One that
is held in `on_exit` ends all the same, as far as others can see: its files are closed, its
parent gets its signal. But it keeps its memory as its last instruction left it, as if it
was stopped at PTRACE_EVENT_EXIT, until `process.exit.release_memory`.
"""

from __future__ import annotations

from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.process.task import Process, Task
from samepage.kernel.process.timeline import TimelineEvent


class Tracer:
    """A tracer that looks at nothing. The kernel has not done yet what a method is called
    for, except `on_fork` and `on_event`."""

    def on_syscall_entry(self, task: Task, registers: list[int]) -> None:
        """A task makes a system call: its number and its six arguments."""

    def on_syscall_exit(self, task: Task, result: int) -> None:
        """A system call returns: its result, -ERESTARTSYS if a signal interrupted it."""

    def on_fork(self, parent: Task, child: Task) -> None:
        """A task has made another one, and has not continued itself."""

    def on_exit(self, process: Process) -> bool:
        """A process exits, and has given nothing back. True holds it there."""
        return False

    def on_breakpoint(self, task: Task, address: int) -> None:
        """A task is about to execute the instruction at a breakpoint."""

    def on_event(self, process: Process, event: TimelineEvent) -> None:
        """Something has happened to the address space of a process."""


class Tracers:
    """The tracers of one machine, which are called in the order in which they came."""

    def __init__(self) -> None:
        self._attached: list[Tracer] = []
        self.kept: list[AddressSpace] = []
        """What `keep_memory` holds."""

    def attach(self, tracer: Tracer) -> None:
        """Call a tracer from now on."""
        self._attached.append(tracer)

    def keep_memory(self, process: Process) -> AddressSpace:
        """Keep the address space of a process beyond its end, as another process that shares
        it would; `drop_memory` undoes it."""
        assert process.mm is not None, "a zombie has no memory to keep"
        self.kept.append(process.mm.get())
        return process.mm

    def drop_memory(self, mm: AddressSpace) -> None:
        """Undo `keep_memory`."""
        self.kept.remove(mm)
        mm.put()

    def detach(self, tracer: Tracer) -> None:
        """Call it no more."""
        self._attached.remove(tracer)

    def on_syscall_entry(self, task: Task, registers: list[int]) -> None:
        """See `Tracer`."""
        for tracer in self._attached:
            tracer.on_syscall_entry(task, registers)

    def on_syscall_exit(self, task: Task, result: int) -> None:
        """See `Tracer`."""
        for tracer in self._attached:
            tracer.on_syscall_exit(task, result)

    def on_fork(self, parent: Task, child: Task) -> None:
        """See `Tracer`."""
        for tracer in self._attached:
            tracer.on_fork(parent, child)

    def on_exit(self, process: Process) -> bool:
        """See `Tracer`; True if any of them holds it."""
        held = [tracer.on_exit(process) for tracer in self._attached]  # each is asked
        return any(held)

    def on_breakpoint(self, task: Task, address: int) -> None:
        """See `Tracer`."""
        for tracer in self._attached:
            tracer.on_breakpoint(task, address)

    def on_event(self, process: Process, event: TimelineEvent) -> None:
        """See `Tracer`."""
        for tracer in self._attached:
            tracer.on_event(process, event)


def stop(process: Process) -> None:
    """Hold a process: no thread of it runs (`ptrace_stop`). If this is in a page fault, the
    fault is resolved, and the instruction has not been executed again."""
    process.tracing_stop = True
    process.kernel.cpu.pause()


def resume(process: Process) -> None:
    """Let a process run on (PTRACE_CONT); one that has exited stays where it is held."""
    if process.exit_status is None:
        process.tracing_stop = False
