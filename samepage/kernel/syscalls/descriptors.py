"""System calls on file descriptors themselves: dup, close, fcntl, locks, directories, and
those that make descriptors without a path."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Generator

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.locks import END, RecordLock, locks_of
from samepage.kernel.fs.mapping import Mapping
from samepage.kernel.mm.uaccess import copy_to_user, get_struct, put_struct
from samepage.kernel.mm.vma import VmFlags
from samepage.kernel.process.task import SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, U32, syscall

_F_DUPFD_CLOEXEC = 1030
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW = 36, 37, 38
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_F_GETOWN_EX = 16
_CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_CLOEXEC = 2, 4
_ANY_FILE = (fcntl.F_DUPFD, _F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL)
"""What is allowed on a descriptor opened with O_PATH (`check_fcntl_cmd`)."""

_FLOCK = struct.Struct("<hhxxxxqqixxxx")


@syscall(Sys.CLOSE)
def sys_close(task: Task, fd: I32) -> int:
    """`close(2)`."""
    task.process.files.close(fd)
    return 0


@syscall(Sys.CLOSE_RANGE)
def sys_close_range(task: Task, first: U32, last: U32, flags: U32) -> int:
    """`close_range(2)`."""
    if flags & ~(_CLOSE_RANGE_UNSHARE | _CLOSE_RANGE_CLOEXEC) or first > last:
        raise SysError(errno.EINVAL)
    process = task.process
    if flags & _CLOSE_RANGE_UNSHARE and process.files.users > 1:
        process.files.users -= 1
        process.files = process.files.copy()
    if flags & _CLOSE_RANGE_CLOEXEC:
        process.files.cloexec |= {fd for fd in process.files if first <= fd <= last}
    else:
        process.files.close_range(first, last)
    return 0


@syscall(Sys.DUP)
def sys_dup(task: Task, fd: I32) -> int:
    """`dup(2)`."""
    return task.process.files.dup(fd)


@syscall(Sys.DUP2)
def sys_dup2(task: Task, fd: I32, target: I32) -> int:
    """`dup2(2)`."""
    return task.process.files.dup2(fd, target)


@syscall(Sys.DUP3)
def sys_dup3(task: Task, fd: I32, target: I32, flags: I32) -> int:
    """`dup3(2)`."""
    if flags & ~os.O_CLOEXEC or fd == target:
        raise SysError(errno.EINVAL)
    return task.process.files.dup2(fd, target, bool(flags & os.O_CLOEXEC))


@syscall(Sys.PIPE)
def sys_pipe(task: Task, address: int) -> int:
    """`pipe(2)`."""
    return sys_pipe2(task, address, 0)


@syscall(Sys.PIPE2)
def sys_pipe2(task: Task, address: int, flags: I32) -> int:
    """`pipe2(2)`."""
    cloexec = bool(flags & os.O_CLOEXEC)
    files = task.process.files
    reader, writer = task.kernel.vfs.pipe(flags)
    first = files.install(reader, cloexec)
    second = files.install(writer, cloexec)
    put_struct(task.mm, address, "<ii", first, second)
    return 0


@syscall(Sys.FSTAT)
def sys_fstat(task: Task, fd: I32, buffer: int) -> int:
    """`fstat(2)`."""
    copy_to_user(task.mm, buffer, task.process.files.get_raw(fd).fstat().pack())
    return 0


@syscall(Sys.GETDENTS64)
def sys_getdents64(task: Task, fd: I32, buffer: int, size: U32) -> int:
    """`getdents64(2)`."""
    data = task.process.files.get(fd).getdents64(size)
    copy_to_user(task.mm, buffer, data)
    return len(data)


@syscall(Sys.FCNTL)
def sys_fcntl(task: Task, fd: I32, command: I32, argument: int) -> SyscallResult:
    """`fcntl(2)`."""
    files = task.process.files
    file = files.get_raw(fd) if command in _ANY_FILE else files.get(fd)
    if command in (fcntl.F_DUPFD, _F_DUPFD_CLOEXEC):
        lowest = argument & 0xFFFF_FFFF
        return files.dup(fd, command == _F_DUPFD_CLOEXEC, lowest)
    if command == fcntl.F_GETFD:
        return int(files.get_cloexec(fd))
    if command == fcntl.F_SETFD:
        files.set_cloexec(fd, bool(argument & fcntl.FD_CLOEXEC))
        return 0
    if command == fcntl.F_GETFL:
        return file.flags
    if command == fcntl.F_SETFL:
        file.set_flags(argument & 0xFFFF_FFFF)
        return 0
    if command in (fcntl.F_GETLK, _F_OFD_GETLK):
        return _get_lock(task, fd, argument, command == _F_OFD_GETLK)
    if command in (fcntl.F_SETLK, fcntl.F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW):
        waits = command in (fcntl.F_SETLKW, _F_OFD_SETLKW)
        lock = _read_lock(task, fd, argument, command in (_F_OFD_SETLK, _F_OFD_SETLKW))
        return _set_lock(task, fd, lock, waits)
    if command in (_F_SETPIPE_SZ, _F_GETPIPE_SZ):
        pipe = file.pipe
        if pipe is None:
            raise SysError(errno.EBADF)
        return pipe.capacity if command == _F_GETPIPE_SZ else pipe.resize(argument)
    if command in (_F_ADD_SEALS, _F_GET_SEALS):
        return _seals(task, file, command, argument)
    if command in (fcntl.F_GETOWN, fcntl.F_GETSIG):
        return 0
    if command == _F_GETOWN_EX:  # what glibc calls for F_GETOWN
        copy_to_user(task.mm, argument, bytes(8))
        return 0
    if command == fcntl.F_GETLEASE:
        return fcntl.F_UNLCK
    if command in (fcntl.F_SETOWN, fcntl.F_SETSIG):
        return 0
    raise SysError(errno.EINVAL)


def _seals(task: Task, file: OpenFile, command: int, argument: int) -> int:
    """F_ADD_SEALS and F_GET_SEALS, on a memfd or a file of a tmpfs (`memfd_fcntl`)."""
    from samepage.kernel.fs.memfd import F_SEAL_WRITE  # few programs seal files

    if file.inode.seals is None:
        raise SysError(errno.EINVAL)
    if command == _F_GET_SEALS:
        return file.inode.seals
    if not file.writable:
        raise SysError(errno.EPERM)
    if argument & F_SEAL_WRITE and _mapped_writable(task, file.inode.mapping):
        raise SysError(errno.EBUSY)
    file.inode.add_seals(argument & 0xFFFF_FFFF)
    return 0


def _mapped_writable(task: Task, mapping: Mapping | None) -> bool:
    both = VmFlags.SHARED | VmFlags.MAYWRITE
    return any(
        vma.file is mapping and vma.flags & both == both
        for mm in task.kernel.cache.spaces
        for vma in mm.vmas
    )


def _read_lock(task: Task, fd: int, address: int, of_file: bool) -> RecordLock:
    kind, whence, start, length, pid = get_struct(task.mm, address, _FLOCK)
    file = task.process.files.get(fd)
    if of_file and pid:
        raise SysError(errno.EINVAL)
    if whence == os.SEEK_CUR:
        start += file.pos
    elif whence == os.SEEK_END:
        start += file.inode.size
    elif whence != os.SEEK_SET:
        raise SysError(errno.EINVAL)
    end = start + length if length else END
    if length < 0:
        start, end = end, start
    if start < 0:
        raise SysError(errno.EINVAL)
    if kind == fcntl.F_RDLCK and not file.readable:
        raise SysError(errno.EBADF)
    if kind == fcntl.F_WRLCK and not file.writable:
        raise SysError(errno.EBADF)
    owner = file if of_file else task.process.files
    return RecordLock(owner, -1 if of_file else task.process.pid, kind, start, end)


def _get_lock(task: Task, fd: int, address: int, of_file: bool) -> int:
    wanted = _read_lock(task, fd, address, of_file)
    held = locks_of(task.process.files.get(fd)).conflict(wanted)
    if held is None:
        put_struct(task.mm, address, "<h", fcntl.F_UNLCK)
        return 0
    length = 0 if held.end == END else held.end - held.start
    answer = _FLOCK.pack(held.kind, os.SEEK_SET, held.start, length, held.pid)
    copy_to_user(task.mm, address, answer)
    return 0


def _set_lock(task: Task, fd: int, lock: RecordLock, waits: bool) -> SyscallResult:
    locks = locks_of(task.process.files.get(fd))
    try:
        locks.set(lock)
        return 0
    except SysError as error:
        if not waits or error.errno != errno.EAGAIN:
            raise

    def wait() -> Generator[Wait, None, int]:
        while locks.conflict(lock) is not None:
            yield Wait()
        locks.set(lock)
        return 0

    return wait()


@syscall(Sys.FLOCK)
def sys_flock(task: Task, fd: I32, operation: I32) -> SyscallResult:
    """`flock(2)`."""
    file = task.process.files.get(fd)
    locks = locks_of(file)
    try:
        locks.flock(file, operation)
        return 0
    except SysError as error:
        if operation & fcntl.LOCK_NB or error.errno != errno.EAGAIN:
            raise

    def wait() -> Generator[Wait, None, int]:
        while True:
            try:
                locks.flock(file, operation)
                return 0
            except SysError as error:
                if error.errno != errno.EAGAIN:
                    raise
            yield Wait()

    return wait()
