"""Sending signals, and acting on them before a task goes back to its program.

Sending only makes a signal pending (`send_signal_locked`); the target acts on it when it
is about to run user code (`get_signal`). A task that waits in a system call is woken for
it by the scheduler.
"""

from samepage.abi.signal import (
    CLD_CONTINUED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SA_RESETHAND,
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGSEGV,
)
from samepage.kernel.process import exit as exiting
from samepage.kernel.process.sigframe import FrameFault, setup_rt_frame
from samepage.kernel.process.sigset import (
    IGNORED_BY_DEFAULT,
    STOP_BY_DEFAULT,
    SYNCHRONOUS,
    UNBLOCKABLE,
    SigInfo,
    bit,
    lowest,
)
from samepage.kernel.process.task import Process, Task, TaskState

_ALL = (1 << 64) - 1
_STOP_MASK = sum(bit(s) for s in STOP_BY_DEFAULT)


def may_signal(sender: Process, target: Process) -> bool:
    """Whether one process may send another a signal (`kill_ok_by_cred`)."""
    mine, theirs = sender.cred, target.cred
    return mine.euid == 0 or bool({mine.euid, mine.uid} & {theirs.uid, theirs.suid})


def send_to_process(process: Process, info: SigInfo) -> None:
    """Make a signal pending for a whole process."""
    if process.threads and _prepare(process, info, process.leader.blocked):
        process.pending.add(info)


def send_to_task(task: Task, info: SigInfo) -> None:
    """Make a signal pending for one thread (`tgkill`)."""
    if task.state is not TaskState.ZOMBIE and _prepare(task.process, info, task.blocked):
        task.pending.add(info)


def force_signal(task: Task, info: SigInfo) -> None:
    """A signal for what the thread's own instruction did (`force_sig_info`): if it is
    blocked or ignored, it kills."""
    signal = info.signal
    action = task.action(signal)
    if task.blocked & bit(signal) or action.handler == SIG_IGN:
        task.process.actions[signal] = type(action)(SIG_DFL)
        task.blocked &= ~bit(signal)
    task.pending.add(info)


def _prepare(process: Process, info: SigInfo, blocked: int) -> bool:
    """Side effects of sending (`prepare_signal`); False if it has no other effect."""
    signal = info.signal
    if signal == SIGCONT:
        _discard(process, _STOP_MASK)
        _continue(process)
    elif signal in STOP_BY_DEFAULT:
        _discard(process, bit(SIGCONT))
    elif signal == SIGKILL:
        for task in process.threads.values():
            if task.state is TaskState.STOPPED:
                task.state = TaskState.BLOCKED if task.blocked_call else TaskState.RUNNABLE
    return not (process.actions.ignores(signal) and not blocked & bit(signal))


def _discard(process: Process, mask: int) -> None:
    process.pending.discard(mask)
    for task in process.threads.values():
        task.pending.discard(mask)


def _continue(process: Process) -> None:
    stopped = [t for t in process.threads.values() if t.state is TaskState.STOPPED]
    for task in stopped:
        task.state = TaskState.BLOCKED if task.blocked_call else TaskState.RUNNABLE
    if stopped:
        process.stop_report = 0xFFFF
        _notify_parent(process, CLD_CONTINUED, SIGCONT)


def _stop(process: Process, signal: int) -> None:
    for task in process.threads.values():
        task.state = TaskState.STOPPED
    process.stop_report = signal << 8 | 0x7F
    _notify_parent(process, CLD_STOPPED, signal)


def _notify_parent(process: Process, code: int, status: int) -> None:
    parent = process.parent
    if parent is not None and not parent.actions[SIGCHLD].flags & SA_NOCLDSTOP:
        info = SigInfo(SIGCHLD, code, process.pid, process.cred.uid, status)
        send_to_process(parent, info)


def deliverable(task: Task) -> bool:
    """Whether a pending signal would make a waiting task act (`signal_pending`)."""
    pending = (task.pending.mask | task.process.pending.mask) & ~task.blocked
    while pending:
        signal = lowest(pending)
        if not task.process.actions.ignores(signal):
            return True
        pending &= ~bit(signal)
    return False


def deliver_signals(task: Task, restart: bool) -> None:
    """Act on pending signals before `task` runs user code (`arch_do_signal_or_restart`).

    `restart` says that a system call was interrupted which may be executed again. The
    CPU holds the registers of `task`.
    """
    process = task.process
    cpu = task.kernel.cpu
    while task.state is TaskState.RUNNABLE:
        allowed = _ALL & ~task.blocked | UNBLOCKABLE
        info = task.pending.take(allowed) or process.pending.take(allowed)
        if info is None:
            break
        signal, action = info.signal, process.actions[info.signal]
        if action.handler == SIG_IGN:
            continue
        if action.handler == SIG_DFL:
            _default_action(task, signal)
            continue
        if restart:
            task.kernel.finish_interrupted(task, action.flags)
            restart = False
        mask = task.blocked if task.saved_mask is None else task.saved_mask
        task.saved_mask = None
        try:
            setup_rt_frame(task, cpu, info, action, mask)
        except FrameFault:
            if signal == SIGSEGV:
                process.actions[SIGSEGV] = type(action)(SIG_DFL)
            force_signal(task, SigInfo(SIGSEGV, code=0x80))
            continue
        if action.flags & SA_RESETHAND:
            process.actions[signal] = type(action)(SIG_DFL)
    if restart and task.state is TaskState.RUNNABLE:
        task.kernel.restart_syscall(task)
    if task.saved_mask is not None and task.state is TaskState.RUNNABLE:
        task.blocked, task.saved_mask = task.saved_mask, None


def _default_action(task: Task, signal: int) -> None:
    process = task.process
    if signal in IGNORED_BY_DEFAULT:
        return
    if signal in STOP_BY_DEFAULT:
        _stop(process, signal)
        return
    if signal in SYNCHRONOUS or signal == SIGKILL:
        task.killed_by = signal
    exiting.do_group_exit(task, signal)
