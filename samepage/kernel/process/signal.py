"""Sending signals (kernel/signal.c).

Sending only makes a signal pending (`send_signal_locked`); the target acts on it when it is
about to run user code (see `deliver`). A task that waits in a system call is woken for it by
the scheduler.
"""

import errno

from samepage.abi.resource import Rlimit
from samepage.abi.signal import (
    CLD_CONTINUED,
    SA_NOCLDSTOP,
    SI_TIMER,
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGRTMIN,
)
from samepage.kernel.errors import SysError
from samepage.kernel.process.sigset import (
    STOP_BY_DEFAULT,
    PendingSignals,
    SigInfo,
    bit,
    lowest,
)
from samepage.kernel.process.task import Process, Task, TaskState

_STOP_MASK = sum(bit(s) for s in STOP_BY_DEFAULT)


def may_signal(sender: Process, target: Process) -> bool:
    """Whether one process may send another a signal (`kill_ok_by_cred`)."""
    mine, theirs = sender.cred, target.cred
    return mine.euid == 0 or bool({mine.euid, mine.uid} & {theirs.uid, theirs.suid})


def send_to_process(process: Process, info: SigInfo) -> None:
    """Make a signal pending for a whole process. Raises as `_queue`."""
    if process.threads and _prepare(process, info, process.leader.blocked):
        _queue(process, process.pending, info)


def send_to_task(task: Task, info: SigInfo) -> None:
    """Make a signal pending for one thread (`tgkill`). Raises as `_queue`."""
    if task.state is not TaskState.ZOMBIE and _prepare(task.process, info, task.blocked):
        _queue(task.process, task.pending, info)


def _queue(process: Process, pending: PendingSignals, info: SigInfo) -> None:
    """Queue a signal, as far as RLIMIT_SIGPENDING allows it (`__send_signal_locked`).

    The limit does not hold for what the kernel and `kill` send of the old signals, nor for
    timers, which have their records from the start. Where there is no room for the record, the
    signal is still pending, but a real-time one with a value is refused: only then raises
    `SysError(EAGAIN)`.
    """
    realtime = info.signal >= SIGRTMIN
    limited = (realtime or info.code < 0) and info.code != SI_TIMER and info.signal != SIGKILL
    if not limited or process.sig_queued < process.limit(Rlimit.SIGPENDING):
        pending.add(info)
    elif realtime and info.code < 0:
        raise SysError(errno.EAGAIN)
    else:
        pending.mark(info.signal)


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
            task.stopped = False
    return not (process.actions.ignores(signal) and not blocked & bit(signal))


def _discard(process: Process, mask: int) -> None:
    process.pending.discard(mask)
    for task in process.threads.values():
        task.pending.discard(mask)


def _continue(process: Process) -> None:
    stopped = [task for task in process.threads.values() if task.stopped]
    for task in stopped:
        task.stopped = False
        task.was_stopped = task.state is TaskState.BLOCKED
    if stopped:
        process.stop_report = 0xFFFF
        notify_parent_cldstop(process, CLD_CONTINUED, SIGCONT)


def notify_parent_cldstop(process: Process, code: int, status: int) -> None:
    """Notify the parent that its child has stopped or continued (`do_notify_parent_cldstop`)."""
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
