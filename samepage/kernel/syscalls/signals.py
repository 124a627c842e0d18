"""System calls on signals."""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator

from samepage.abi.signal import (
    MAX_SIGNAL,
    SI_KERNEL,
    SI_TKILL,
    SI_USER,
    SIGKILL,
    SIGSEGV,
    SIGSTOP,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
)
from samepage.arch import REG_RESULT, REG_SP, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user, get_struct, get_u64, put_u64
from samepage.kernel.process.sigframe import FrameFault, pack_siginfo, rt_sigreturn
from samepage.kernel.process.signal import (
    force_signal,
    may_signal,
    send_to_process,
    send_to_task,
)
from samepage.kernel.process.sigset import UNBLOCKABLE, SigAction, SigAltStack, SigInfo, bit
from samepage.kernel.process.task import Interrupted, Process, SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, syscall
from samepage.kernel.syscalls.usermem import SIGINFO, read_timespec

_SIG_BLOCK, _SIG_UNBLOCK, _SIG_SETMASK = 0, 1, 2
_SIGACTION = struct.Struct("<QQQQ")
_STACK = struct.Struct("<QIiQ")


def _check_size(size: int) -> None:
    if size != 8:
        raise SysError(errno.EINVAL)


@syscall(Sys.RT_SIGACTION)
def sys_rt_sigaction(task: Task, signal: I32, new: int, old: int, size: int) -> int:
    """`sigaction(2)`."""
    _check_size(size)
    if not 1 <= signal <= MAX_SIGNAL or (new and signal in (SIGKILL, SIGSTOP)):
        raise SysError(errno.EINVAL)
    actions = task.process.actions
    before = actions[signal]
    if new:
        handler, flags, restorer, mask = get_struct(task.mm, new, _SIGACTION)
        actions[signal] = SigAction(handler, flags, restorer, mask & ~UNBLOCKABLE)
        if actions.ignores(signal):
            task.process.pending.discard(bit(signal))
            for thread in task.process.threads.values():
                thread.pending.discard(bit(signal))
    if old:
        packed = _SIGACTION.pack(before.handler, before.flags, before.restorer, before.mask)
        copy_to_user(task.mm, old, packed)
    return 0


@syscall(Sys.RT_SIGPROCMASK)
def sys_rt_sigprocmask(task: Task, how: I32, new: int, old: int, size: int) -> int:
    """`sigprocmask(2)`."""
    _check_size(size)
    before = task.blocked
    if new:
        mask = get_u64(task.mm, new) & ~UNBLOCKABLE
        if how == _SIG_BLOCK:
            task.blocked |= mask
        elif how == _SIG_UNBLOCK:
            task.blocked &= ~mask
        elif how == _SIG_SETMASK:
            task.blocked = mask
        else:
            raise SysError(errno.EINVAL)
    if old:
        put_u64(task.mm, old, before)
    return 0


@syscall(Sys.RT_SIGRETURN)
def sys_rt_sigreturn(task: Task) -> int:
    """`sigreturn(2)`: all registers come from the frame, RAX too."""
    try:
        rt_sigreturn(task, task.kernel.cpu)
    except FrameFault:
        force_signal(task, SigInfo(SIGSEGV, SI_KERNEL))
    task.syscall_number = -1
    return task.kernel.cpu.read(REG_RESULT)


@syscall(Sys.RT_SIGPENDING)
def sys_rt_sigpending(task: Task, address: int, size: int) -> int:
    """`sigpending(2)`."""
    put_u64(task.mm, address, (task.pending.mask | task.process.pending.mask) & task.blocked)
    return 0


@syscall(Sys.RT_SIGSUSPEND)
def sys_rt_sigsuspend(task: Task, address: int, size: int) -> SyscallResult:
    """`sigsuspend(2)`."""
    _check_size(size)
    mask = get_u64(task.mm, address)
    task.saved_mask, task.blocked = task.blocked, mask & ~UNBLOCKABLE
    return _pause()


@syscall(Sys.PAUSE)
def sys_pause(task: Task) -> SyscallResult:
    """`pause(2)`."""
    return _pause()


def _pause() -> Generator[Wait, None, int]:
    while True:
        try:
            yield Wait()
        except Interrupted:
            raise SysError(errno.EINTR) from None


@syscall(Sys.RT_SIGTIMEDWAIT)
def sys_rt_sigtimedwait(
    task: Task, address: int, info: int, timeout: int, size: int
) -> SyscallResult:
    """`sigtimedwait(2)`."""
    _check_size(size)
    wanted = get_u64(task.mm, address)
    deadline = None
    if timeout:
        deadline = task.kernel.clock.monotonic() + read_timespec(task, timeout)
    return _sigtimedwait(task, wanted, info, deadline)


def _sigtimedwait(
    task: Task, wanted: int, info: int, deadline: int | None
) -> Generator[Wait, None, int]:
    while True:
        found = task.pending.take(wanted) or task.process.pending.take(wanted)
        if found is not None:
            if info:
                copy_to_user(task.mm, info, pack_siginfo(found))
            return found.signal
        if deadline is not None and task.kernel.clock.monotonic() >= deadline:
            raise SysError(errno.EAGAIN)
        try:
            yield Wait(deadline, restarts=False)
        except Interrupted:
            raise SysError(errno.EINTR) from None


@syscall(Sys.SIGALTSTACK)
def sys_sigaltstack(task: Task, new: int, old: int) -> int:
    """`sigaltstack(2)`."""
    stack = task.altstack
    active = stack.holds(task.kernel.cpu.read(REG_SP))
    before = _STACK.pack(stack.base, SS_ONSTACK if active else stack.flags, 0, stack.size)
    if new:
        base, flags, _, size = get_struct(task.mm, new, _STACK)
        if active:
            raise SysError(errno.EPERM)
        if flags & ~SS_AUTODISARM not in (0, SS_ONSTACK, SS_DISABLE):
            raise SysError(errno.EINVAL)
        if flags & SS_DISABLE:
            task.altstack = SigAltStack()
        else:
            if size < task.kernel.config.min_sigstack_size and size < 2048:
                raise SysError(errno.ENOMEM)
            task.altstack = SigAltStack(base, flags & SS_AUTODISARM, size)
    if old:
        copy_to_user(task.mm, old, before)
    return 0


def _check_signal(signal: int) -> None:
    if not 0 <= signal <= MAX_SIGNAL:
        raise SysError(errno.EINVAL)


def _info(task: Task, signal: int, code: int) -> SigInfo:
    return SigInfo(signal, code, task.process.pid, task.process.fs.cred.uid)


@syscall(Sys.KILL)
def sys_kill(task: Task, pid: I32, signal: I32) -> int:
    """`kill(2)`: reaches the processes of this machine only."""
    _check_signal(signal)
    me, everyone = task.process, task.kernel.processes
    if pid > 0:
        targets = [everyone[pid]] if pid in everyone else []
    elif pid == -1:
        targets = [p for p in everyone.values() if p is not me]
    else:
        group = -pid if pid else me.pgid
        targets = [p for p in everyone.values() if p.pgid == group]
    if not targets:
        raise SysError(errno.ESRCH)
    allowed = [p for p in targets if may_signal(task.process, p)]
    if not allowed:
        raise SysError(errno.EPERM)
    for target in allowed:
        if signal:
            send_to_process(target, _info(task, signal, SI_USER))
    return 0


@syscall(Sys.TGKILL)
def sys_tgkill(task: Task, pid: I32, tid: I32, signal: I32) -> int:
    """`tgkill(2)`."""
    if pid <= 0:
        raise SysError(errno.EINVAL)
    return _send_to_thread(task, pid, tid, signal)


def _find_thread(task: Task, pid: int, tid: int) -> Task:
    """A thread, of the process `pid` unless that is 0. Raises `SysError(ESRCH)`."""
    target = task.kernel.processes.find_task(tid)
    if target is None or (pid and target.process.pid != pid):
        raise SysError(errno.ESRCH)
    return target


def _send_to_thread(task: Task, pid: int, tid: int, signal: int) -> int:
    if tid <= 0:
        raise SysError(errno.EINVAL)
    _check_signal(signal)
    target = _find_thread(task, pid, tid)
    if not may_signal(task.process, target.process):
        raise SysError(errno.EPERM)
    if signal:
        send_to_task(target, _info(task, signal, SI_TKILL))
    return 0


@syscall(Sys.TKILL)
def sys_tkill(task: Task, tid: I32, signal: I32) -> int:
    """`tkill(2)`."""
    return _send_to_thread(task, 0, tid, signal)


@syscall(Sys.RT_SIGQUEUEINFO)
def sys_rt_sigqueueinfo(task: Task, pid: I32, signal: I32, info: int) -> int:
    """`sigqueue(2)`."""
    _check_signal(signal)
    target = task.kernel.processes.get(pid)
    if target is None:
        raise SysError(errno.ESRCH)
    if not may_signal(task.process, target):
        raise SysError(errno.EPERM)
    sent = _read_siginfo(task, target, signal, info)
    if signal:
        send_to_process(target, sent)
    return 0


@syscall(Sys.RT_TGSIGQUEUEINFO)
def sys_rt_tgsigqueueinfo(task: Task, pid: I32, tid: I32, signal: I32, info: int) -> int:
    """`pthread_sigqueue(3)`."""
    if pid <= 0 or tid <= 0:
        raise SysError(errno.EINVAL)
    _check_signal(signal)
    target = _find_thread(task, pid, tid)
    sent = _read_siginfo(task, target.process, signal, info)
    if not may_signal(task.process, target.process):
        raise SysError(errno.EPERM)
    if signal:
        send_to_task(target, sent)
    return 0


def _read_siginfo(task: Task, target: Process, signal: int, address: int) -> SigInfo:
    """What a program wants a signal to carry; only the kernel may claim that it is from the
    kernel, or from `kill`. Raises `SysError` with EFAULT or EPERM."""
    _, _, code, _, sender, uid, value = get_struct(task.mm, address, SIGINFO)
    if (code >= 0 or code == SI_TKILL) and target is not task.process:
        raise SysError(errno.EPERM)
    return SigInfo(signal, code, sender, uid, value=value)
