"""The machine's own tracer: holds programs where a user wants to look at them.

It is to `kernel.process.tracer` what gdb is to ptrace. A program is held at its exit always
(so that all programs are resident together), and at instructions and events while `stopping`
is in effect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from samepage.kernel.boot import Kernel
from samepage.kernel.process.task import Process, Task
from samepage.kernel.process.timeline import TimelineEvent
from samepage.kernel.process.tracer import Tracer, stop

Condition = Callable[[TimelineEvent], bool]
"""Asked at each event of a process whether it is to be held there."""


class Debugger(Tracer):
    """The tracer of one machine. `timeline` has all events since boot, in their order."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._programs: set[Process] = set()
        self._addresses: dict[Process, frozenset[int]] = {}
        self._conditions: dict[Process, Condition] = {}
        self.timeline: list[TimelineEvent] = []
        kernel.tracers.attach(self)

    def add_program(self, process: Process) -> None:
        """Hold a process when it exits."""
        self._programs.add(process)

    def remove_program(self, process: Process) -> None:
        """Let a process exit as any other."""
        self._programs.discard(process)

    def holds(self, process: Process) -> bool:
        """Whether a process is held when it exits."""
        return process in self._programs

    @contextmanager
    def stopping(
        self,
        process: Process,
        addresses: Collection[int] = (),
        condition: Condition | None = None,
    ) -> Iterator[None]:
        """Hold a process before it executes an instruction at `addresses`, and at an event
        for which `condition` answers True."""
        cpu = self._kernel.cpu
        self._addresses[process] = frozenset(addresses)
        if condition is not None:
            self._conditions[process] = condition
        for address in self._addresses[process]:
            cpu.add_breakpoint(address)
        try:
            yield
        finally:
            self._conditions.pop(process, None)
            for address in self._addresses.pop(process):
                cpu.remove_breakpoint(address)

    def on_breakpoint(self, task: Task, address: int) -> None:
        """Breakpoints are at an address of any process: hold the one that it was set for."""
        if address in self._addresses.get(task.process, ()):
            stop(task.process)

    def on_event(self, process: Process, event: TimelineEvent) -> None:
        """Keep the event, and hold the process if its condition is met."""
        self.timeline.append(event)
        condition = self._conditions.get(process)
        if condition is not None and condition(event):
            stop(process)

    def on_exit(self, process: Process) -> bool:
        """Hold the machine's own programs, not what they have forked."""
        return self.holds(process)
