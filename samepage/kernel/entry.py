"""The ways into the kernel, and back to user mode (arch/x86/entry/).

    run_task --- CPU runs ---> system call   -> handler, or a blocked task
                               page fault    -> handle_mm_fault (on the way, in the MMU
                                                hook), or a signal if it cannot be resolved
                               exception     -> a signal
                               breakpoint    -> the tracers
                               timer         -> tick
             <-- signals are delivered, and the program continues

What each of these does is in `mm`, `process` and `syscalls`; this module connects them.
"""

from __future__ import annotations

import errno
from collections import Counter

from samepage.abi.signal import SIGKILL, SIGSEGV
from samepage.arch import REG_PC, SYSCALL_SIZE, Access, Sys, syscall_name
from samepage.cpu.engine import CpuStop, Stop
from samepage.kernel.clock import SYSCALL_NS, TICK_PERIOD_NS
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault
from samepage.kernel.mm.frames import OutOfFrames
from samepage.kernel.mm.oom import kill_message, select_bad_process
from samepage.kernel.process.deliver import exit_to_user_mode, leave_syscall
from samepage.kernel.process.exec import ExecFatal
from samepage.kernel.process.exit import do_group_exit
from samepage.kernel.process.task import Process, Task, TaskState
from samepage.kernel.process.timer_interrupt import check_cpu_limit, run_timers
from samepage.kernel.stop_request import StopRequest
from samepage.kernel.syscalls.table import HANDLERS, find_handler
from samepage.kernel.traps import bad_access, exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from samepage.kernel.process.services import Services

    class Checks(Protocol):
        """Where the kernel calls its checks (`debug.Debug`)."""

        def after_page_fault(self, mm: AddressSpace, address: int, access: Access) -> None: ...
        def at_exit(self) -> None: ...


_MAY_FAIL = {Sys.MMAP, Sys.BRK, Sys.MREMAP, Sys.FORK, Sys.VFORK, Sys.CLONE, Sys.CLONE3}
"""Calls that answer a lack of memory with ENOMEM; in any other the OOM killer acts."""


class Entry:
    """Runs tasks, and serves them when they enter the kernel.

    `unimplemented` counts system calls that the kernel does not have, by name.
    """

    def __init__(self, kernel: Services[Process, Task], stop_request: StopRequest) -> None:
        self._kernel = kernel
        self._stop_request = stop_request
        self.unimplemented: Counter[str] = Counter()
        self._fault = FaultResult.OK
        """Why the page fault that has just ended the run was not resolved."""
        self._out_of_frames = False
        self.in_user_fault = False
        """A program's own access is being resolved, not one of the kernel for it
        (`FAULT_FLAG_USER`)."""
        self.debug: Checks | None = None
        """The checks of the kernel's invariants, if the machine was booted with them."""
        self._instructions_left = kernel.config.max_instructions
        self._entries_at_tick = -1
        self._cpu_at_tick = 0

    def run_task(self, task: Task) -> bool:
        """Run the current task until it enters the kernel, and serve it; False once it
        cannot continue. Raises `LimitReached` or `KeyboardInterrupt` if that was requested."""
        kernel = self._kernel
        cpu = kernel.cpu
        kernel.scheduler.acting = task.process
        stop = cpu.run(self._instructions_left)
        if self._instructions_left:
            self._count_instructions()
        if stop.reason is Stop.SYSCALL and self._stop_request.interrupted:
            # It might block in a write to the host; it is made when the task runs again.
            cpu.write(REG_PC, cpu.pc - SYSCALL_SIZE)
        elif stop.reason is Stop.SYSCALL:
            self._syscall(task)
        elif stop.reason is Stop.PAGE_FAULT:
            self._unresolved_fault(task, stop)
        elif stop.reason is Stop.EXCEPTION:
            exception(task, stop)
        elif stop.reason is Stop.BREAKPOINT:
            kernel.tracers.on_breakpoint(task, stop.address)
        elif stop.reason is Stop.INTERRUPT:
            self._tick(task)
        if self._stop_request.pending:
            self._stop_request.raise_pending()
        runnable = exit_to_user_mode(task)
        if self.debug is not None:
            self.debug.at_exit()
        return runnable

    def _count_instructions(self) -> None:
        self._instructions_left -= self._kernel.cpu.executed
        if self._instructions_left <= 0:
            self._instructions_left = 1
            limit = self._kernel.config.max_instructions
            self._stop_request.reach(f"the limit of {limit:,} instructions")

    def _syscall(self, task: Task) -> None:
        kernel = self._kernel
        task.process.cpu_time_ns += SYSCALL_NS
        if kernel.clock.system_call():
            self.update_vdso()
            run_timers(kernel)
        registers = kernel.cpu.syscall_arguments()
        task.syscall_number = registers[0]
        kernel.tracers.on_syscall_entry(task, registers)
        if task.seccomp is not None:
            from samepage.kernel.process.seccomp import permits

            if not permits(task, registers):
                return
        handler = HANDLERS.get(registers[0]) or find_handler(registers[0])
        if registers[0] > kernel.config.rules.last_syscall:
            leave_syscall(task, -errno.ENOSYS)  # as that version: nothing is missing
            return
        if handler is None:
            self.unimplemented[syscall_name(registers[0])] += 1
            leave_syscall(task, -errno.ENOSYS)
            return
        try:
            result = handler.call(task, registers)
            if not isinstance(result, int):
                try:
                    task.wait = next(result)
                except StopIteration as done:
                    result = done.value
                else:
                    task.blocked_call = result
                    task.state = TaskState.BLOCKED
                    return
        except SysError as error:
            result = -error.errno
        except OutOfFrames:
            if registers[0] in _MAY_FAIL:
                result = -errno.ENOMEM
            else:
                self._out_of_memory()
                result = -errno.ERESTART
        except ExecFatal as error:
            process = task.process
            kernel.log.append(f"{process.comm}[{process.pid}]: exec failed: {error.reason}")
            task.killed_by = SIGSEGV
            do_group_exit(task, SIGSEGV)
            return
        if task.state is TaskState.RUNNABLE:
            leave_syscall(task, result)

    def page_fault(self, address: int, access: Access) -> bool:
        """The MMU could not translate; True if the access may be tried again."""
        task = self._kernel.scheduler.current
        assert task is not None, "the CPU runs without a task"
        self.in_user_fault = True
        try:
            self._fault = handle_mm_fault(task.mm, address, access)
            if self.debug is not None and self._fault is FaultResult.OK:
                self.debug.after_page_fault(task.mm, address, access)
        except OutOfFrames:
            self._out_of_frames = True
            return False
        finally:
            self.in_user_fault = False
        return self._fault is FaultResult.OK

    def _unresolved_fault(self, task: Task, stop: CpuStop) -> None:
        if self._out_of_frames:
            self._out_of_frames = False
            self._out_of_memory()
            return
        fault, self._fault = self._fault, FaultResult.OK
        bad_access(task, stop, fault)

    def _out_of_memory(self) -> None:
        """Kill the process that has most memory (`out_of_memory`)."""
        kernel = self._kernel
        victim = select_bad_process(p for p in kernel.processes.values() if p.threads)
        kernel.log.append(kill_message(victim, kernel.frames.ram.size))
        kernel.reclaim.victim_killed()
        victim.leader.killed_by = SIGKILL
        do_group_exit(victim.leader, SIGKILL)

    def _tick(self, task: Task) -> None:
        """The timer interrupt, which comes in real time (`sched_tick`).

        It affects only a program that has computed for a whole period without a system call:
        then time has passed for it, and others run.
        """
        kernel = self._kernel
        entries, self._entries_at_tick = self._entries_at_tick, kernel.clock.system_calls
        now = kernel.cpu.cpu_time_ns()
        if entries != kernel.clock.system_calls:
            self._cpu_at_tick = now
            return
        # What the host did meanwhile with its CPU is not the program's time.
        if now - self._cpu_at_tick < TICK_PERIOD_NS // 2:
            return
        self._cpu_at_tick = now
        kernel.clock.advance(TICK_PERIOD_NS)
        task.process.cpu_time_ns += TICK_PERIOD_NS
        self.update_vdso()
        run_timers(kernel)
        check_cpu_limit(task.process)
        kernel.scheduler.yield_current()

    def update_vdso(self) -> None:
        """Write the time into the `[vvar]` pages (`update_vsyscall`)."""
        kernel = self._kernel
        if kernel.vdso is not None:
            kernel.vdso.update(kernel.clock.realtime(), kernel.clock.monotonic())
