"""System calls that move data between pipes, and between the memory of processes."""

import errno
from collections.abc import Generator

from samepage.kernel.errors import SysError
from samepage.kernel.fs.pipe import PipeFile
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from samepage.kernel.process.signal import may_signal
from samepage.kernel.process.task import Process, SyscallResult, Task, Wait
from samepage.kernel.syscalls.files import write_parts
from samepage.kernel.syscalls.numbers import Sys
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import read_iovec

_SPLICE_F_NONBLOCK = 2


def _pipe(task: Task, fd: int) -> PipeFile:
    file = task.process.files.get(fd)
    if not isinstance(file, PipeFile):
        raise SysError(errno.EINVAL)
    return file


@syscall(Sys.TEE)
def sys_tee(task: Task, source_fd: I32, target_fd: I32, count: int, flags: U32) -> SyscallResult:
    """`tee(2)`: what is in one pipe goes into another, and stays in the first."""
    source, target = _pipe(task, source_fd), _pipe(task, target_fd)
    if not source.readable or not target.writable:
        raise SysError(errno.EBADF)
    if source.pipe is target.pipe:
        raise SysError(errno.EINVAL)
    return _tee(source, target, count, bool(flags & _SPLICE_F_NONBLOCK))


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


def _other(task: Task, pid: int, flags: int) -> Process:
    if flags:
        raise SysError(errno.EINVAL)
    found = task.kernel.find_task(pid)
    if found is None:
        raise SysError(errno.ESRCH)
    if not may_signal(task.process, found.process):
        raise SysError(errno.EPERM)
    return found.process


@syscall(Sys.PROCESS_VM_READV)
def sys_process_vm_readv(
    task: Task, pid: I32, mine: int, n_mine: int, theirs: int, n_theirs: int, flags: int
) -> int:
    """`process_vm_readv(2)`."""
    other = _other(task, pid, flags)
    sources = read_iovec(task, theirs, n_theirs)
    data = b"".join(copy_from_user(other.mm, address, length) for address, length in sources)
    done = 0
    for address, length in read_iovec(task, mine, n_mine):
        part = data[done : done + length]
        copy_to_user(task.mm, address, part)
        done += len(part)
    return done


@syscall(Sys.PROCESS_VM_WRITEV)
def sys_process_vm_writev(
    task: Task, pid: I32, mine: int, n_mine: int, theirs: int, n_theirs: int, flags: int
) -> int:
    """`process_vm_writev(2)`."""
    other = _other(task, pid, flags)
    sources = read_iovec(task, mine, n_mine)
    data = b"".join(copy_from_user(task.mm, address, length) for address, length in sources)
    done = 0
    for address, length in read_iovec(task, theirs, n_theirs):
        part = data[done : done + length]
        copy_to_user(other.mm, address, part)
        done += len(part)
    return done
