"""On the way back to user mode: the result of a system call, and the signals that are due
(kernel/entry/common.c, `arch_do_signal_or_restart`).

A signal is acted on when its task is about to run user code: its handler gets a frame, or
the default action is done. A system call that a signal interrupted is restarted or fails with
EINTR, as the first handler's SA_RESTART decides; without a handler it is restarted.
"""

import errno

from samepage.abi.signal import (
    CLD_STOPPED,
    SA_RESETHAND,
    SA_RESTART,
    SIG_DFL,
    SIG_IGN,
    SIGKILL,
    SIGSEGV,
    SIGSTOP,
)
from samepage.arch import REG_PC, REG_RESULT, REG_SYSCALL, SYSCALL_SIZE
from samepage.kernel.process.exit import end_by_signal
from samepage.kernel.process.sigframe import FrameFault, setup_rt_frame
from samepage.kernel.process.signal import force_signal, notify_parent_cldstop
from samepage.kernel.process.sigset import (
    IGNORED_BY_DEFAULT,
    STOP_BY_DEFAULT,
    SYNCHRONOUS,
    UNBLOCKABLE,
    SigInfo,
    bit,
)
from samepage.kernel.process.task import Process, Task

ERESTARTSYS = 512
"""What an interrupted call returns inside of the kernel; tracers see it."""
_ALL = (1 << 64) - 1


def leave_syscall(task: Task, result: int) -> None:
    """Give the current task the result of its call (`syscall_exit_to_user_mode`);
    -ERESTART has it executed again."""
    task.kernel.tracers.on_syscall_exit(task, result)
    if result == -errno.ERESTART:
        _restart_syscall(task)
    elif task.syscall_number >= 0:
        task.kernel.cpu.write(REG_RESULT, result & _ALL)
    task.syscall_number = -1


def leave_interrupted_syscall(task: Task) -> None:
    """End a call of the current task that waited until a signal came."""
    task.kernel.tracers.on_syscall_exit(task, -ERESTARTSYS)
    task.kernel.cpu.write(REG_RESULT, -errno.EINTR & _ALL)
    _deliver_signals(task, restart=True)
    task.syscall_number = -1


def exit_to_user_mode(task: Task) -> bool:
    """Act on the signals of the current task before it runs on; False if it cannot."""
    if task.runnable and (task.pending.mask or task.process.pending.mask):
        _deliver_signals(task, restart=False)
    return task.runnable


def stop_in_call(task: Task) -> bool:
    """Act on a stop signal while the task waits in a system call; False if the next signal is
    another one. The call would be restarted when the task continues, so it waits on
    then, with the same deadline (ERESTARTSYS, ERESTART_RESTARTBLOCK)."""
    process = task.process
    for pending in (task.pending, process.pending):
        allowed = _ALL & ~task.blocked
        while (signal := pending.next(allowed)) and process.actions.ignores(signal):
            allowed &= ~bit(signal)
        if signal:
            if signal not in STOP_BY_DEFAULT or process.actions[signal].handler != SIG_DFL:
                return False
            pending.take(bit(signal))
            _stop(process, signal)
            return True
    return False


def _restart_syscall(task: Task) -> None:
    """Let the program execute its `syscall` instruction again."""
    cpu = task.kernel.cpu
    cpu.write(REG_SYSCALL, task.syscall_number)
    cpu.write(REG_PC, cpu.pc - SYSCALL_SIZE)


def _deliver_signals(task: Task, restart: bool) -> None:
    """Act on pending signals before `task` runs user code.

    `restart`: a system call was interrupted which may be executed again. The
    CPU holds the registers of `task`.
    """
    process = task.process
    while task.runnable:
        allowed = _ALL & ~task.blocked | UNBLOCKABLE
        info = task.pending.take(allowed) or process.pending.take(allowed)
        if info is None:
            break
        signal, action = info.signal, process.actions[info.signal]
        if action.handler == SIG_IGN:
            continue
        if action.handler == SIG_DFL:
            _default_action(task, info)
            continue
        if restart and action.flags & SA_RESTART:
            _restart_syscall(task)
        restart = False
        mask = task.blocked if task.saved_mask is None else task.saved_mask
        task.saved_mask = None
        try:
            setup_rt_frame(task, task.kernel.cpu, info, action, mask)
        except FrameFault:
            if signal == SIGSEGV:
                process.actions[SIGSEGV] = type(action)(SIG_DFL)
            force_signal(task, SigInfo(SIGSEGV, code=0x80))
            continue
        if action.flags & SA_RESETHAND:
            process.actions[signal] = type(action)(SIG_DFL)
    if restart and task.runnable:
        _restart_syscall(task)
    if task.saved_mask is not None and task.runnable:
        task.blocked, task.saved_mask = task.saved_mask, None


def _default_action(task: Task, info: SigInfo) -> None:
    process, signal = task.process, info.signal
    if signal in IGNORED_BY_DEFAULT:
        return
    if signal in STOP_BY_DEFAULT:
        _stop(process, signal)
        return
    if signal in SYNCHRONOUS or signal == SIGKILL:
        task.killed_by = signal
    end_by_signal(task, info)


def _stop(process: Process, signal: int) -> None:
    """Stop all threads of a process (`do_signal_stop`). The signals of job control have no
    effect in an orphaned process group, SIGSTOP has it always (`get_signal`)."""
    if signal != SIGSTOP and process.kernel.processes.is_orphaned(process.pgid):
        return
    for task in process.threads.values():
        task.stopped = True
    process.stop_report = signal << 8 | 0x7F
    notify_parent_cldstop(process, CLD_STOPPED, signal)
