"""System calls that move data between pipes, and between the memory of processes."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Generator, Iterator

from samepage.abi.fcntl import SPLICE_F_NONBLOCK
from samepage.arch import PAGE_SIZE, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.pipe import PipeFile
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from samepage.kernel.process.signal import may_signal
from samepage.kernel.process.task import SyscallResult, Task, Wait
from samepage.kernel.syscalls.files import write_parts
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import read_iovec

_Parts = list[tuple[int, int]]
"""What `read_iovec` returns: addresses and lengths."""


def _pipe(task: Task, fd: int) -> PipeFile:
    return task.process.files.get_as(fd, PipeFile, errno.EINVAL)


@syscall(Sys.TEE)
def sys_tee(task: Task, source_fd: I32, target_fd: I32, count: int, flags: U32) -> SyscallResult:
    """`tee(2)`: what is in one pipe goes into another, and stays in the first."""
    source, target = _pipe(task, source_fd), _pipe(task, target_fd)
    if not source.readable or not target.writable:
        raise SysError(errno.EBADF)
    if source.pipe is target.pipe:
        raise SysError(errno.EINVAL)
    return _tee(source, target, count, bool(flags & SPLICE_F_NONBLOCK))


def _tee(
    source: PipeFile, target: PipeFile, count: int, nonblocking: bool
) -> Generator[Wait, None, int]:
    while True:
        try:
            return target.write(source.pipe.peek(count)) if count else 0
        except SysError as error:
            if error.errno != errno.EAGAIN or nonblocking:
                raise
        yield Wait()


@syscall(Sys.VMSPLICE)
def sys_vmsplice(task: Task, fd: I32, iovec: int, count: int, flags: U32) -> SyscallResult:
    """`vmsplice(2)` into a pipe, by copying."""
    file = _pipe(task, fd)
    if not file.writable:
        raise SysError(errno.EBADF)
    return write_parts(task, file, read_iovec(task, iovec, count & 0x7FFF_FFFF))


def _other(task: Task, pid: int, flags: int) -> AddressSpace:
    """The memory of another process. Raises `SysError` (ESRCH, EPERM)."""
    if flags:
        raise SysError(errno.EINVAL)
    found = task.kernel.processes.find_task(pid)
    if found is None:
        raise SysError(errno.ESRCH)
    if not may_signal(task.process, found.process):
        raise SysError(errno.EPERM)
    return found.mm


@syscall(Sys.PROCESS_VM_READV)
def sys_process_vm_readv(
    task: Task, pid: I32, mine: int, n_mine: int, theirs: int, n_theirs: int, flags: int
) -> int:
    """`process_vm_readv(2)`."""
    other = _other(task, pid, flags)
    targets, sources = read_iovec(task, mine, n_mine), read_iovec(task, theirs, n_theirs)
    return _copy(other, sources, task.mm, targets)


@syscall(Sys.PROCESS_VM_WRITEV)
def sys_process_vm_writev(
    task: Task, pid: I32, mine: int, n_mine: int, theirs: int, n_theirs: int, flags: int
) -> int:
    """`process_vm_writev(2)`."""
    other = _other(task, pid, flags)
    sources, targets = read_iovec(task, mine, n_mine), read_iovec(task, theirs, n_theirs)
    return _copy(task.mm, sources, other, targets)


def _copy(source: AddressSpace, sources: _Parts, target: AddressSpace, targets: _Parts) -> int:
    """Copy between two memories, as much as both sides have. What was copied before a bad
    address counts, if it is anything (`process_vm_rw_core`). Raises `SysError(EFAULT)`."""
    done = 0
    for read_at, write_at, size in _pieces(sources, targets):
        try:
            copy_to_user(target, write_at, copy_from_user(source, read_at, size))
        except SysError:
            if done:
                return done
            raise
        done += size
    return done


def _pieces(sources: _Parts, targets: _Parts) -> Iterator[tuple[int, int, int]]:
    """(from, to, length) for two vectors laid beside each other, cut where either moves on to
    another part or page."""
    left, right = deque(sources), deque(targets)
    while left and right:
        (source, rest), (target, room) = left.popleft(), right.popleft()
        size = min(rest, room, *(PAGE_SIZE - at % PAGE_SIZE for at in (source, target)))
        if size:
            yield source, target, size
        if size < rest:
            left.appendleft((source + size, rest - size))
        if size < room:
            right.appendleft((target + size, room - size))
