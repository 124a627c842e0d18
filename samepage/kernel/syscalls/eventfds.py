"""System calls that make descriptors of things other than files: counters, timers, signals,
memory, processes."""

from __future__ import annotations

import errno
import os

from samepage.abi.signal import MAX_SIGNAL, SI_USER
from samepage.abi.time import Clock
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.memfd import MFD_CLOEXEC
from samepage.kernel.fs.timerfd import TimerFd
from samepage.kernel.mm.uaccess import copy_to_user, get_struct, get_u64, strncpy_from_user
from samepage.kernel.process.pidfd import PidFd
from samepage.kernel.process.signal import may_signal, send_to_process
from samepage.kernel.process.signalfd import SignalFd
from samepage.kernel.process.sigset import UNBLOCKABLE, SigInfo
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import SIGINFO, pack_itimerspec, read_itimerspec


@syscall(Sys.EVENTFD)
def sys_eventfd(task: Task, count: U32) -> int:
    """`eventfd(2)` without flags."""
    return sys_eventfd2(task, count, 0)


@syscall(Sys.EVENTFD2)
def sys_eventfd2(task: Task, count: U32, flags: I32) -> int:
    """`eventfd(2)`."""
    file = task.kernel.vfs.eventfd(count, flags)
    return task.process.files.install(file, bool(flags & os.O_CLOEXEC))


@syscall(Sys.MEMFD_CREATE)
def sys_memfd_create(task: Task, name: int, flags: U32) -> int:
    """`memfd_create(2)`."""
    try:
        text = strncpy_from_user(task.mm, name, 250)
    except SysError as error:
        raise SysError(errno.EINVAL if error.errno == errno.ENAMETOOLONG else error.errno) from None
    file = task.kernel.vfs.memfd(text, flags)
    return task.process.files.install(file, bool(flags & MFD_CLOEXEC))


@syscall(Sys.TIMERFD_CREATE)
def sys_timerfd_create(task: Task, clock: I32, flags: I32) -> int:
    """`timerfd_create(2)`."""
    clocks = task.kernel.clock
    if clock in (Clock.REALTIME, Clock.REALTIME_ALARM):
        now = clocks.realtime
    elif clock in (Clock.MONOTONIC, Clock.BOOTTIME, Clock.BOOTTIME_ALARM):
        now = clocks.monotonic
    else:
        raise SysError(errno.EINVAL)
    file = task.kernel.vfs.timerfd(now, flags)
    return task.process.files.install(file, bool(flags & os.O_CLOEXEC))


def _timer(task: Task, fd: int) -> TimerFd:
    return task.process.files.get_as(fd, TimerFd, errno.EINVAL)


@syscall(Sys.TIMERFD_SETTIME)
def sys_timerfd_settime(task: Task, fd: I32, flags: I32, new: int, old: int) -> int:
    """`timerfd_settime(2)`."""
    value, interval = read_itimerspec(task, new)
    before = _timer(task, fd).set_time(value, interval, flags)
    if old:
        copy_to_user(task.mm, old, pack_itimerspec(*before))
    return 0


@syscall(Sys.TIMERFD_GETTIME)
def sys_timerfd_gettime(task: Task, fd: I32, address: int) -> int:
    """`timerfd_gettime(2)`."""
    copy_to_user(task.mm, address, pack_itimerspec(*_timer(task, fd).get_time()))
    return 0


@syscall(Sys.SIGNALFD)
def sys_signalfd(task: Task, fd: I32, mask: int, size: int) -> int:
    """`signalfd(2)` without flags."""
    return sys_signalfd4(task, fd, mask, size, 0)


@syscall(Sys.SIGNALFD4)
def sys_signalfd4(task: Task, fd: I32, mask: int, size: int, flags: I32) -> int:
    """`signalfd(2)`: a new one, or another mask for one that is there."""
    if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK) or size != 8:
        raise SysError(errno.EINVAL)
    wanted = get_u64(task.mm, mask) & ~UNBLOCKABLE
    if fd != -1:
        task.process.files.get_as(fd, SignalFd, errno.EINVAL).mask = wanted
        return fd
    file = SignalFd(task.kernel.vfs.anonfs, task.process, wanted, flags)
    return task.process.files.install(file, bool(flags & os.O_CLOEXEC))


@syscall(Sys.PIDFD_OPEN)
def sys_pidfd_open(task: Task, pid: I32, flags: U32) -> int:
    """`pidfd_open(2)`: a descriptor for a process; it is readable when the process is gone."""
    if flags & ~os.O_NONBLOCK or pid <= 0:
        raise SysError(errno.EINVAL)
    process = task.kernel.processes.get(pid)
    if process is None:
        is_thread = task.kernel.processes.find_task(pid) is not None
        raise SysError(errno.ENOENT if is_thread else errno.ESRCH)
    file = PidFd(task.kernel.vfs.anonfs, process, flags)
    return task.process.files.install(file, cloexec=True)


@syscall(Sys.PIDFD_SEND_SIGNAL)
def sys_pidfd_send_signal(task: Task, fd: I32, signal: I32, info: int, flags: U32) -> int:
    """`pidfd_send_signal(2)`."""
    if flags or not 0 <= signal <= MAX_SIGNAL:
        raise SysError(errno.EINVAL)
    target = task.process.files.get_as(fd, PidFd, errno.EBADF).process
    if task.kernel.processes.get(target.pid) is not target:
        raise SysError(errno.ESRCH)
    if not may_signal(task.process, target):
        raise SysError(errno.EPERM)
    sent = SigInfo(signal, SI_USER, task.process.pid, task.process.cred.uid)
    if info:
        number, _, code, _, sender, uid, value = get_struct(task.mm, info, SIGINFO)
        if number != signal:
            raise SysError(errno.EINVAL)
        if target is not task.process and code >= 0:
            raise SysError(errno.EPERM)
        sent = SigInfo(signal, code, sender, uid, value=value)
    if signal:
        send_to_process(target, sent)
    return 0


@syscall(Sys.PIDFD_GETFD)
def sys_pidfd_getfd(task: Task, fd: I32, target_fd: I32, flags: U32) -> int:
    """`pidfd_getfd(2)`: another process's descriptor."""
    if flags:
        raise SysError(errno.EINVAL)
    target = task.process.files.get_as(fd, PidFd, errno.EBADF).process
    if not target.threads:
        raise SysError(errno.ESRCH)
    if not may_signal(task.process, target):
        raise SysError(errno.EPERM)
    return task.process.files.install(target.files.get(target_fd), cloexec=True)
