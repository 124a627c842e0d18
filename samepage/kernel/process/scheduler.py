"""Which task runs on the one CPU, and what happens when it comes back to the kernel.

A task runs until its system call must wait, it has used its time slice, or it is gone.
Blocked tasks are asked in turn whether they can continue now. When none can, virtual time
jumps to the earliest deadline; if there is none, but a task reads a host file, the kernel
waits for that; and if there is none either, the programs are deadlocked.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable

from samepage.arch import REG_PC, REG_SP
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import put_u32
from samepage.kernel.process.deliver import (
    exit_to_user_mode,
    leave_interrupted_syscall,
    leave_syscall,
    stop_in_call,
)
from samepage.kernel.process.rseq import handle_notify_resume
from samepage.kernel.process.signal import deliverable
from samepage.kernel.process.task import Interrupted, Process, Task, TaskState
from samepage.kernel.process.timer_interrupt import next_deadlines, run_timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.process.services import Services


class Deadlock(Exception):
    """Every task waits for another one."""

    def __init__(self, tasks: list[Task]) -> None:
        names = ", ".join(f"{t.process.comm} (pid {t.process.pid})" for t in tasks)
        super().__init__(f"nothing can continue: {names} wait for events that cannot happen")


class Scheduler:
    """The run queue. `current` is the task whose registers the CPU holds; `acting` the
    process on whose behalf the kernel acts, which may be another one that is asked whether
    it can continue.

    `run_task` runs the current task until it enters the kernel, and serves it; it returns
    False once the task cannot continue.
    """

    def __init__(self, kernel: Services[Process, Task], run_task: Callable[[Task], bool]) -> None:
        self._kernel = kernel
        self._run_task = run_task
        self._queue: deque[Task] = deque()
        self.current: Task | None = None
        self.acting: Process | None = None
        self._slice_over = False
        self._blank_registers = kernel.cpu.save()

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

        Raises `Deadlock`, and what `run_task` raises.
        """
        while process.exit_status is None and not process.tracing_stop:
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
            if task.stopped or task.process.tracing_stop:
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
        self.acting = task.process
        result: int | None
        try:
            if task.was_stopped:
                task.was_stopped = False
                if not task.wait.restarts:
                    task.wait = call.throw(Interrupted())
            # What it waits for comes first: only if that has not come, a signal ends it.
            task.wait = next(call)
            if deliverable(task) and not stop_in_call(task):
                task.wait = call.throw(Interrupted())
            return False
        except StopIteration as done:
            result = done.value
        except SysError as error:
            result = -error.errno
        except Interrupted:
            result = None
        if task.state is not TaskState.BLOCKED:
            return False
        task.blocked_call = None
        task.state = TaskState.RUNNABLE
        self.switch_to(task)
        if result is None:
            leave_interrupted_syscall(task)
        else:
            leave_syscall(task, result)
        return task.runnable

    def _idle(self) -> None:
        """Let time pass, or wait for the host, until some task can continue."""
        waiting = (t for t in self._queue if t.state is TaskState.BLOCKED)
        blocked = [t for t in waiting if not t.stopped and not t.process.tracing_stop]
        deadlines = [t.wait.deadline for t in blocked if t.wait.deadline is not None]
        deadlines += next_deadlines(self._kernel.processes.values())
        host_fds = [t.wait.host_fd for t in blocked if t.wait.host_fd is not None]
        if host_fds:
            # Real input comes in real time, virtual deadlines pass only without it.
            timeout = 0.0 if deadlines else None
            if _wait_for_host(host_fds, timeout):
                return
        if not deadlines:
            raise Deadlock(blocked or list(self._queue))
        self._kernel.clock.sleep_until(min(deadlines))
        run_timers(self._kernel)

    def switch_to(self, task: Task) -> None:
        """Load a task's registers and address space into the CPU (`context_switch`)."""
        old = self.current
        if old is task:
            return
        cpu = self._kernel.cpu
        if old is not None:
            old.registers = cpu.save()
        cpu.restore(task.registers)
        task.mm.context.activate()
        task.mm.faults = task.faults
        self.current = task
        self.acting = task.process
        if task.set_child_tid:
            _put_child_tid(task)
        handle_notify_resume(task)

    def start_thread(self, task: Task, entry: int, sp: int) -> None:
        """Give a task the registers of a fresh program (`start_thread`)."""
        cpu = self._kernel.cpu
        if self.current is not None and self.current is not task:
            self.current.registers = cpu.save()
        cpu.restore(self._blank_registers)
        cpu.write(REG_PC, entry)
        cpu.write(REG_SP, sp)
        if self.current is not task:
            task.registers = cpu.save()
            self.current = None

    def yield_current(self) -> None:
        """End the time slice of the task that runs."""
        self._slice_over = True

    def _run(self, task: Task) -> None:
        self.switch_to(task)
        if not exit_to_user_mode(task):
            return
        self._slice_over = False
        for _ in range(self._kernel.config.time_slice):
            if self._slice_over:
                return
            if not self._run_task(task):
                return
            if not task.runnable or task.process.tracing_stop:
                return


def _put_child_tid(task: Task) -> None:
    """CLONE_CHILD_SETTID, done by the child itself when it first runs (`schedule_tail`)."""
    address, task.set_child_tid = task.set_child_tid, 0
    try:
        put_u32(task.mm, address, task.tid)
    except SysError:
        return


def _wait_for_host(fds: list[int], timeout: float | None) -> bool:
    """Wait until one of the host's files is readable (`timeout` in seconds)."""
    ready, _, _ = select.select(fds, [], [], timeout)
    return bool(ready)
