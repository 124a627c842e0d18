"""System calls that make, replace, end and wait for processes and threads."""

import errno
import struct
from collections.abc import Generator

from samepage.hardware.ram import PAGE_SIZE
from samepage.hardware.registers import Reg
from samepage.kernel.errors import SysError
from samepage.kernel.fs.mapping import Mapping
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.regular import Regular
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from samepage.kernel.process import futex
from samepage.kernel.process.clone import Clone, do_clone
from samepage.kernel.process.exec import do_execve
from samepage.kernel.process.exit import do_exit, do_group_exit
from samepage.kernel.process.pidfd import PidFd
from samepage.kernel.process.sigframe import pack_siginfo
from samepage.kernel.process.sigset import (
    CLD_CONTINUED,
    CLD_EXITED,
    CLD_KILLED,
    CLD_STOPPED,
    MAX_SIGNAL,
    SIGCHLD,
    SIGKILL,
    SigInfo,
    bit,
)
from samepage.kernel.process.task import Interrupted, Process, SyscallResult, Task, Usage, Wait
from samepage.kernel.syscalls.numbers import Sys
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    base_path,
    read_path,
    read_strings,
    read_timespec,
    write_u32,
    write_u64,
)

_WNOHANG, _WUNTRACED, _WEXITED, _WCONTINUED, _WNOWAIT = 1, 2, 4, 8, 0x0100_0000
_P_ALL, _P_PID, _P_PGID, _P_PIDFD = 0, 1, 2, 3
_SIGNAL_MASK = 0xFF
_CLONE_ARGS_SIZE, _KNOWN_CLONE_ARGS = 64, 88
"""Of `struct clone_args`: the first version, and all that is known today (bytes)."""


@syscall(Sys.FORK)
def sys_fork(task: Task) -> int:
    """`fork(2)`."""
    return do_clone(task, Clone(0), exit_signal=SIGCHLD).tid


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
    kind = Clone(flags & 0xFFFF_FF00)
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
    return _start_child(task, Clone(flags), exit_signal, top, tls, parent_tid, child_tid, pidfd)


def _start_child(
    task: Task,
    flags: Clone,
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
        write_u32(task, pidfd_at, task.process.files.install(pidfd, cloexec=True))
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
        opened = files.get(dirfd).path
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
    if not isinstance(path.inode, Regular):
        raise SysError(errno.EACCES)
    return path.inode.mapping


@syscall(Sys.EXIT)
def sys_exit(task: Task, code: I32) -> int:
    """`exit(2)`: ends this thread."""
    do_exit(task, code)
    return 0


@syscall(Sys.EXIT_GROUP)
def sys_exit_group(task: Task, code: I32) -> int:
    """`exit_group(2)`: ends the process."""
    do_group_exit(task, (code & 0xFF) << 8)
    return 0


@syscall(Sys.WAIT4)
def sys_wait4(task: Task, pid: I32, status: int, options: I32, usage: int) -> SyscallResult:
    """`wait4(2)`."""
    if options & ~(_WNOHANG | _WUNTRACED | _WCONTINUED | 0xE000_0000):
        raise SysError(errno.EINVAL)
    return _wait4(task, pid, status, options, usage)


def _wait4(
    task: Task, pid: int, status: int, options: int, usage: int
) -> Generator[Wait, None, int]:
    found = yield from _wait_for_child(task, pid, options | _WEXITED)
    if found is None:
        return 0
    child, word = found
    if status:
        write_u32(task, status, word)
    if usage:
        copy_to_user(task.mm, usage, pack_rusage(usage_of(child)))
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
        task.kernel.reap(child)
    else:
        child.stop_report = 0


@syscall(Sys.WAITID)
def sys_waitid(
    task: Task, which: I32, ident: I32, info: int, options: I32, usage: int
) -> SyscallResult:
    """`waitid(2)`."""
    if which not in (_P_ALL, _P_PID, _P_PGID, _P_PIDFD):
        raise SysError(errno.EINVAL)
    if which == _P_PIDFD:
        file = task.process.files.get(ident)
        if not isinstance(file, PidFd):
            raise SysError(errno.EBADF)
        which, ident = _P_PID, file.process.pid
    if not options & (_WEXITED | _WUNTRACED | _WCONTINUED):
        raise SysError(errno.EINVAL)
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
        copy_to_user(task.mm, usage, pack_rusage(usage_of(child)))
    if not options & _WNOWAIT:
        _consume(task, child)
    return 0


def _child_info(child: Process, word: int) -> SigInfo:
    if word == 0xFFFF:
        code, status = CLD_CONTINUED, 18
    elif word & 0xFF == 0x7F:
        code, status = CLD_STOPPED, word >> 8
    elif word & 0x7F:
        code, status = CLD_KILLED, word & 0x7F
    else:
        code, status = CLD_EXITED, word >> 8
    return SigInfo(SIGCHLD, code, child.pid, child.cred.uid, status)


def usage_of(process: Process) -> Usage:
    """What a process has used so far."""
    faults = process.total_faults()
    peak = max(process.peak_rss_pages, process.mm.rss_pages if process.threads else 0)
    return Usage(process.cpu_time_ns, peak, faults.minor, faults.major)


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


@syscall(Sys.SET_TID_ADDRESS)
def sys_set_tid_address(task: Task, address: int) -> int:
    """`set_tid_address(2)`."""
    task.clear_child_tid = address
    return task.tid


@syscall(Sys.SET_ROBUST_LIST)
def sys_set_robust_list(task: Task, head: int, size: int) -> int:
    """`set_robust_list(2)`."""
    if size != 24:
        raise SysError(errno.EINVAL)
    task.robust_list = head
    return 0


@syscall(Sys.GET_ROBUST_LIST)
def sys_get_robust_list(task: Task, pid: I32, head: int, size: int) -> int:
    """`get_robust_list(2)`."""
    target = task if not pid else task.kernel.find_task(pid)
    if target is None:
        raise SysError(errno.ESRCH)
    write_u64(task, head, target.robust_list)
    write_u64(task, size, 24)
    return 0


_RSEQ_MIN_SIZE = 32


@syscall(Sys.RSEQ)
def sys_rseq(task: Task, address: int, size: U32, flags: I32, signature: U32) -> int:
    """`rseq(2)`: the kernel tells the thread its CPU, which is 0 always."""
    if flags & 1:
        task.rseq_area = 0
        return 0
    if flags:
        raise SysError(errno.EINVAL)
    if task.rseq_area:
        raise SysError(errno.EBUSY if task.rseq_area == address else errno.EINVAL)
    if size < _RSEQ_MIN_SIZE or address & 31:
        raise SysError(errno.EINVAL)
    task.rseq_area = address
    # On the way back to user mode: cpu_id_start, cpu_id, and node_id, mm_cid.
    copy_to_user(task.mm, address, bytes(8))
    copy_to_user(task.mm, address + 20, bytes(8))
    return 0


_FUTEX_PRIVATE, _FUTEX_REALTIME = 128, 256
_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10


@syscall(Sys.FUTEX)
def sys_futex(
    task: Task, address: int, operation: I32, value: U32, timeout: int, address2: int, value3: U32
) -> SyscallResult:
    """`futex(2)`, without priority inheritance."""
    command = operation & ~(_FUTEX_PRIVATE | _FUTEX_REALTIME)
    kernel, mm = task.kernel, task.mm
    if command in (_WAIT, _WAIT_BITSET):
        deadline = _futex_deadline(task, operation, command, timeout)
        bitset = value3 if command == _WAIT_BITSET else futex.BITSET_ANY
        if not bitset:
            raise SysError(errno.EINVAL)
        return futex.wait(task, address, value, bitset, deadline)
    if command == _WAKE:
        return futex.wake(kernel, mm, address, value)
    if command == _WAKE_BITSET:
        if not value3:
            raise SysError(errno.EINVAL)
        return futex.wake(kernel, mm, address, value, value3)
    if command in (_REQUEUE, _CMP_REQUEUE):
        if command == _CMP_REQUEUE:
            word = int.from_bytes(copy_from_user(mm, address, 4), "little")
            if word != value3:
                raise SysError(errno.EAGAIN)
        return futex.requeue(kernel, mm, address, value, timeout & 0xFFFF_FFFF, address2)
    if command == _WAKE_OP:
        return _wake_op(task, address, value, timeout & 0xFFFF_FFFF, address2, value3)
    raise SysError(errno.ENOSYS)


def _futex_deadline(task: Task, operation: int, command: int, timeout: int) -> int | None:
    if not timeout:
        return None
    ns = read_timespec(task, timeout)
    clock = task.kernel.clock
    if command == _WAIT:
        return clock.monotonic() + ns
    return ns - clock.boot_time_ns if operation & _FUTEX_REALTIME else ns


def _wake_op(
    task: Task, address: int, value: int, value2: int, address2: int, operation: int
) -> int:
    """FUTEX_WAKE_OP: change a second word, wake on the first, and perhaps on the second."""
    op, compare = operation >> 28 & 0xF, operation >> 24 & 0xF
    argument, against = operation >> 12 & 0xFFF, operation & 0xFFF
    if op & 8:
        argument = 1 << (argument & 31)
    old = int.from_bytes(copy_from_user(task.mm, address2, 4), "little")
    new = {
        0: argument,
        1: old + argument,
        2: old | argument,
        3: old & ~argument,
        4: old ^ argument,
    }.get(op & 7)
    if new is None:
        raise SysError(errno.ENOSYS)
    write_u32(task, address2, new)
    woken = futex.wake(task.kernel, task.mm, address, value)
    holds = {
        0: old == against,
        1: old != against,
        2: old < against,
        3: old <= against,
        4: old > against,
        5: old >= against,
    }.get(compare, False)
    if holds:
        woken += futex.wake(task.kernel, task.mm, address2, value2)
    return woken


_ARCH_SET_GS, _ARCH_SET_FS, _ARCH_GET_FS, _ARCH_GET_GS = 0x1001, 0x1002, 0x1003, 0x1004


@syscall(Sys.ARCH_PRCTL)
def sys_arch_prctl(task: Task, code: I32, address: int) -> int:
    """`arch_prctl(2)`: the FS and GS bases."""
    cpu = task.kernel.cpu
    if code in (_ARCH_SET_FS, _ARCH_SET_GS):
        if address >= 1 << 47:
            raise SysError(errno.EPERM)
        register = Reg.FS_BASE if code == _ARCH_SET_FS else Reg.GS_BASE
        cpu.write(register, address)
        return 0
    if code in (_ARCH_GET_FS, _ARCH_GET_GS):
        register = Reg.FS_BASE if code == _ARCH_GET_FS else Reg.GS_BASE
        write_u64(task, address, cpu.read(register))
        return 0
    raise SysError(errno.EINVAL)


@syscall(Sys.MEMBARRIER)
def sys_membarrier(task: Task, command: I32, flags: U32) -> int:
    """`membarrier(2)`: with one CPU every barrier is in place already."""
    supported = 0x1 | 0x2 | 0x4 | 0x8 | 0x10
    if flags:
        raise SysError(errno.EINVAL)
    if command == 0:
        return supported
    if command & ~supported or command & (command - 1):
        raise SysError(errno.EINVAL)
    return 0
