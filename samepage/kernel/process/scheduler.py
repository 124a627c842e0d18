"""Which task runs on the one CPU, and what happens when it comes back to the kernel.

A task runs until its system call must wait, it has used its time slice, or it is gone.
Blocked tasks are asked in turn whether they can go on now. When none can, virtual time
jumps to the earliest deadline; if there is none, but a task reads a host file, the kernel
waits for that; and if there is none either, the programs have locked each other up.
"""

from __future__ import annotations

import select
from collections import deque

from samepage.kernel.errors import SysError
from samepage.kernel.process.rseq import handle_notify_resume
from samepage.kernel.process.signal import deliverable
from samepage.kernel.process.task import Interrupted, Process, Task, TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.kernel import Kernel

TIME_SLICE = 256
"""How many system calls a task may make while others could run."""


class Deadlock(Exception):
    """Every task waits for another one."""

    def __init__(self, tasks: list[Task]) -> None:
        names = ", ".join(f"{t.process.comm} (pid {t.process.pid})" for t in tasks)
        super().__init__(f"nothing can go on: {names} wait for events that cannot happen")


class Scheduler:
    """The run queue. `current` is the task whose registers the CPU holds."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._queue: deque[Task] = deque()
        self.current: Task | None = None
        self._slice_over = False
        self.time_slice = TIME_SLICE

    @property
    def tasks(self) -> list[Task]:
        """All tasks that are not gone."""
        return list(self._queue)

    def add(self, task: Task) -> None:
        """A new task: it runs after those that wait already."""
        self._queue.append(task)

    def remove(self, task: Task) -> None:
        """A task that is gone."""
        self._queue.remove(task)
        if self.current is task:
            self.current = None

    def run_until_exit(self, process: Process) -> None:
        """Run tasks until `process` has exited or was stopped by the machine.

        Raises `Deadlock`, and what the kernel's `check_limits` raises.
        """
        while process.exit_status is None and not process.held:
            task = self._next()
            if task is None:
                self._idle()
            else:
                self._run(task)

    def _next(self) -> Task | None:
        """The first task in the queue that can run; it goes to the queue's end."""
        for _ in range(len(self._queue)):
            task = self._queue[0]
            self._queue.rotate(-1)
            if task.process.held:
                continue
            if task.state is TaskState.RUNNABLE:
                return task
            if task.state is TaskState.BLOCKED and self._try_wake(task):
                return task
        return None

    def _try_wake(self, task: Task) -> bool:
        """Resume a blocked system call; True if the task can run now."""
        call = task.blocked_call
        assert call is not None
        task.mm.faults = task.faults
        self._kernel.acting = task.process
        interrupted = False
        try:
            # What it waits for comes first: only if that has not come, a signal ends it.
            task.wait = next(call)
            if deliverable(task):
                task.wait = call.throw(Interrupted())
            return False
        except StopIteration as done:
            result = done.value
        except SysError as error:
            result = -error.errno
        except Interrupted:
            result, interrupted = 0, True
        if task.state is not TaskState.BLOCKED:
            return False
        task.blocked_call = None
        task.state = TaskState.RUNNABLE
        self.switch_to(task)
        self._kernel.leave_syscall(task, result, interrupted=interrupted)
        return task.state is TaskState.RUNNABLE

    def _idle(self) -> None:
        """Let time pass, or wait for the host, until some task can go on."""
        blocked = [t for t in self._queue if t.state is TaskState.BLOCKED and not t.process.held]
        deadlines = [t.wait.deadline for t in blocked if t.wait.deadline is not None]
        for process in self._kernel.processes.values():
            deadline = process.timers.next_deadline() if process.threads else None
            if deadline is not None:
                deadlines.append(deadline)
        host_fds = [t.wait.host_fd for t in blocked if t.wait.host_fd is not None]
        if host_fds:
            # Real input comes in real time, virtual deadlines pass only without it.
            timeout = 0.0 if deadlines else None
            if self._kernel.wait_for_host(host_fds, timeout):
                return
        if not deadlines:
            raise Deadlock(blocked or list(self._queue))
        self._kernel.clock.sleep_until(min(deadlines))
        self._kernel.check_timers()

    def switch_to(self, task: Task) -> None:
        """Load a task's registers and address space into the CPU (`context_switch`)."""
        old = self.current
        if old is task:
            return
        cpu = self._kernel.cpu
        if old is not None:
            old.registers = cpu.save()
        cpu.restore(task.registers)
        cpu.load_page_table(task.mm.table.root)
        task.mm.faults = task.faults
        self.current = task
        if task.set_child_tid:
            self._kernel.put_child_tid(task)
        handle_notify_resume(task)

    def yield_current(self) -> None:
        """End the time slice of the task that runs."""
        self._slice_over = True

    def _run(self, task: Task) -> None:
        self.switch_to(task)
        if not self._kernel.deliver_pending(task):
            return
        self._slice_over = False
        for _ in range(self.time_slice):
            if self._slice_over:
                return
            if not self._kernel.run_task(task):
                return
            if task.state is not TaskState.RUNNABLE or task.process.held:
                return


def wait_for_host_fds(fds: list[int], timeout: float | None) -> bool:
    """Wait until one of the host's files is readable (`timeout` in seconds)."""
    ready, _, _ = select.select(fds, [], [], timeout)
    return bool(ready)
