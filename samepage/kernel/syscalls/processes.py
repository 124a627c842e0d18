"""System calls that make, replace, end and wait for processes and threads."""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator

from samepage.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from samepage.abi.sched import Clone
from samepage.abi.signal import (
    CLD_CONTINUED,
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    CLD_STOPPED,
    MAX_SIGNAL,
    SIGCHLD,
    SIGKILL,
)
from samepage.arch import PAGE_SIZE, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.mapping import Mapping
from samepage.kernel.fs.path import Path
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user, put_u32
from samepage.kernel.process.clone import do_clone
from samepage.kernel.process.exec import do_execve
from samepage.kernel.process.exit import CORE_DUMPED
from samepage.kernel.process.pidfd import PidFd
from samepage.kernel.process.sigframe import pack_siginfo
from samepage.kernel.process.sigset import SigInfo, bit
from samepage.kernel.process.task import Interrupted, Process, SyscallResult, Task, Usage, Wait
from samepage.kernel.syscalls.table import I32, syscall
from samepage.kernel.syscalls.usermem import base_path, read_path, read_strings

_WNOHANG, _WUNTRACED, _WEXITED, _WCONTINUED, _WNOWAIT = 1, 2, 4, 8, 0x0100_0000
_WAIT_FLAGS = 0xE000_0000  # __WNOTHREAD, __WALL, __WCLONE
_P_ALL, _P_PID, _P_PGID, _P_PIDFD = 0, 1, 2, 3
_LOWEST_IDENT = {_P_ALL: -1 << 31, _P_PID: 1, _P_PGID: 0, _P_PIDFD: 0}
_SIGNAL_MASK = 0xFF
_CLONE_ARGS_SIZE, _KNOWN_CLONE_ARGS = 64, 88
"""Of `struct clone_args`: the first version, and all that is known today (bytes)."""


@syscall(Sys.FORK)
def sys_fork(task: Task) -> int:
    """`fork(2)`."""
    return do_clone(task, 0, exit_signal=SIGCHLD).tid


@syscall(Sys.VFORK)
def sys_vfork(task: Task) -> SyscallResult:
    """`vfork(2)`: the parent waits until the child has its own memory or is gone."""
    return _start_child(task, Clone.VFORK | Clone.VM, SIGCHLD)


@syscall(Sys.CLONE)
def sys_clone(
    task: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int
) -> SyscallResult:
    """`clone(2)`; the low byte of `flags` is the signal sent at exit."""
    exit_signal = flags & _SIGNAL_MASK
    kind = flags & 0xFFFF_FF00
    if kind & Clone.PIDFD and kind & Clone.PARENT_SETTID:
        raise SysError(errno.EINVAL)
    return _start_child(task, kind, exit_signal, stack, tls, parent_tid, child_tid, parent_tid)


@syscall(Sys.CLONE3)
def sys_clone3(task: Task, address: int, size: int) -> SyscallResult:
    """`clone3(2)`."""
    if size > PAGE_SIZE:
        raise SysError(errno.E2BIG)
    if size < _CLONE_ARGS_SIZE:
        raise SysError(errno.EINVAL)
    raw = copy_from_user(task.mm, address, size)
    if any(raw[_KNOWN_CLONE_ARGS:]):
        raise SysError(errno.E2BIG)
    flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls = struct.unpack(
        "<8Q", raw[:_CLONE_ARGS_SIZE]
    )
    if any(raw[_CLONE_ARGS_SIZE:_KNOWN_CLONE_ARGS]):
        raise SysError(errno.EINVAL)  # set_tid and cgroups
    if bool(stack) != bool(stack_size) or exit_signal > MAX_SIGNAL:
        raise SysError(errno.EINVAL)
    top = stack + stack_size if stack else 0
    return _start_child(task, flags, exit_signal, top, tls, parent_tid, child_tid, pidfd)


def _start_child(
    task: Task,
    flags: int,
    exit_signal: int,
    stack: int = 0,
    tls: int = 0,
    parent_tid: int = 0,
    child_tid: int = 0,
    pidfd_at: int = 0,
) -> SyscallResult:
    child = do_clone(
        task,
        flags,
        exit_signal=exit_signal,
        stack=stack,
        tls=tls,
        parent_tid=parent_tid,
        child_tid=child_tid,
    )
    if flags & Clone.PIDFD:
        pidfd = PidFd(task.kernel.vfs.anonfs, child.process, 0)
        put_u32(task.mm, pidfd_at, task.process.files.install(pidfd, cloexec=True))
    if flags & Clone.VFORK:
        return _wait_for_vfork_done(task, child)
    return child.tid


def _wait_for_vfork_done(task: Task, child: Task) -> Generator[Wait, None, int]:
    # A vfork parent cannot be interrupted (`wait_for_vfork_done` is only killable).
    while not child.process.vfork_done:
        try:
            yield Wait()
        except Interrupted:
            if (task.pending.mask | task.process.pending.mask) & bit(SIGKILL):
                raise
    return child.tid


@syscall(Sys.EXECVE)
def sys_execve(task: Task, path: int, argv: int, envp: int) -> int:
    """`execve(2)`."""
    name = read_path(task, path)
    do_execve(task, name, read_strings(task, argv), read_strings(task, envp))
    return 0


@syscall(Sys.EXECVEAT)
def sys_execveat(task: Task, dirfd: I32, path: int, argv: int, envp: int, flags: I32) -> int:
    """`execveat(2)`."""
    if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW):
        raise SysError(errno.EINVAL)
    name = read_path(task, path)
    strings = read_strings(task, argv), read_strings(task, envp)
    if not name and flags & AT_EMPTY_PATH and dirfd != AT_FDCWD:
        files = task.process.files
        opened = files.get_raw(dirfd).path
        if files.get_cloexec(dirfd) and task.kernel.cache.read(_content(opened), 0, 2) == b"#!":
            raise SysError(errno.ENOENT)  # its interpreter could not open it
        do_execve(task, b"/dev/fd/%d" % dirfd, *strings, opened=opened)
        return 0
    if not name:
        raise SysError(errno.ENOENT)
    base = base_path(task, dirfd, name)
    if flags & AT_SYMLINK_NOFOLLOW:
        fs = task.process.fs
        if task.kernel.vfs.lookup(fs, name, follow=False, base=base).inode.is_symlink:
            raise SysError(errno.ELOOP)
    do_execve(task, name, *strings, base)
    return 0


def _content(path: Path) -> Mapping:
    if path.inode.mapping is None:
        raise SysError(errno.EACCES)
    return path.inode.mapping


@syscall(Sys.WAIT4)
def sys_wait4(task: Task, pid: I32, status: int, options: I32, usage: int) -> SyscallResult:
    """`wait4(2)`."""
    if options & ~(_WNOHANG | _WUNTRACED | _WCONTINUED | _WAIT_FLAGS):
        raise SysError(errno.EINVAL)
    if pid == -1 << 31:
        raise SysError(errno.ESRCH)
    return _wait4(task, pid, status, options, usage)


def _wait4(
    task: Task, pid: int, status: int, options: int, usage: int
) -> Generator[Wait, None, int]:
    found = yield from _wait_for_child(task, pid, options | _WEXITED)
    if found is None:
        return 0
    child, word = found
    if status:
        put_u32(task.mm, status, word)
    if usage:
        copy_to_user(task.mm, usage, pack_rusage(_usage_of_both(child)))
    _consume(task, child)
    return child.pid


def _wait_for_child(
    task: Task, pid: int, options: int
) -> Generator[Wait, None, tuple[Process, int] | None]:
    """Wait for a child with news; return it and its status word, or None if there is none
    yet, with WNOHANG (`do_wait`). Raises `SysError(ECHILD)`."""
    while True:
        children = [c for c in task.process.children if _selected(task.process, c, pid)]
        if not children:
            raise SysError(errno.ECHILD)
        for child in children:
            word = _reportable(child, options)
            if word is not None:
                return child, word
        if options & _WNOHANG:
            return None
        yield Wait()


def _selected(process: Process, child: Process, pid: int) -> bool:
    if pid == -1:
        return True
    if pid > 0:
        return child.pid == pid
    return child.pgid == (process.pgid if pid == 0 else -pid)


def _reportable(child: Process, options: int) -> int | None:
    """The status word to report, None if there is nothing new."""
    if child.exit_status is not None:
        return child.exit_status if options & _WEXITED else None
    report = child.stop_report
    if report == 0xFFFF:
        return report if options & _WCONTINUED else None
    return report if report and options & _WUNTRACED else None


def _consume(task: Task, child: Process) -> None:
    if child.exit_status is not None:
        task.process.children_usage.add(_usage_of_both(child))
        task.kernel.processes.reap(child)
    else:
        child.stop_report = 0


@syscall(Sys.WAITID)
def sys_waitid(
    task: Task, which: I32, ident: I32, info: int, options: I32, usage: int
) -> SyscallResult:
    """`waitid(2)`."""
    news = _WEXITED | _WUNTRACED | _WCONTINUED
    if options & ~(_WNOHANG | _WNOWAIT | news | _WAIT_FLAGS) or not options & news:
        raise SysError(errno.EINVAL)
    if ident < _LOWEST_IDENT.get(which, ident + 1):
        raise SysError(errno.EINVAL)
    if which == _P_PIDFD:
        target = task.process.files.get_as(ident, PidFd, errno.EBADF).process
        which, ident = _P_PID, target.pid
    pid = -1 if which == _P_ALL else ident if which == _P_PID else -ident
    return _waitid(task, pid, info, options, usage)


def _waitid(
    task: Task, pid: int, info: int, options: int, usage: int
) -> Generator[Wait, None, int]:
    found = yield from _wait_for_child(task, pid, options)
    if found is None:
        if info:
            copy_to_user(task.mm, info, bytes(128))
        return 0
    child, word = found
    if info:
        copy_to_user(task.mm, info, pack_siginfo(_child_info(child, word)))
    if usage:
        copy_to_user(task.mm, usage, pack_rusage(_usage_of_both(child)))
    if not options & _WNOWAIT:
        _consume(task, child)
    return 0


def _child_info(child: Process, word: int) -> SigInfo:
    if word == 0xFFFF:
        code, status = CLD_CONTINUED, 18
    elif word & 0xFF == 0x7F:
        code, status = CLD_STOPPED, word >> 8
    elif word & 0x7F:
        code = CLD_DUMPED if word & CORE_DUMPED else CLD_KILLED
        status = word & 0x7F
    else:
        code, status = CLD_EXITED, word >> 8
    return SigInfo(SIGCHLD, code, child.pid, child.cred.uid, status)


def usage_of(process: Process) -> Usage:
    """What a process has used so far."""
    faults = process.total_faults()
    peak = max(process.peak_rss_pages, process.mm.rss_pages if process.mm is not None else 0)
    return Usage(process.cpu_time_ns, peak, faults.minor, faults.major)


def _usage_of_both(process: Process) -> Usage:
    """What a process has used, and its children that it has waited for (RUSAGE_BOTH)."""
    usage = usage_of(process)
    usage.add(process.children_usage)
    return usage


def pack_rusage(usage: Usage) -> bytes:
    """`struct rusage` (144 bytes): CPU time, peak memory, faults."""
    us = usage.cpu_time_ns // 1000
    return struct.pack(
        "<qqqq14q",
        us // 1_000_000,
        us % 1_000_000,
        0,
        0,
        usage.peak_rss_pages * 4,
        0,
        0,
        0,
        usage.minor_faults,
        usage.major_faults,
        *([0] * 8),
    )
