"""Reading and writing open files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator

from samepage.abi.fcntl import SPLICE_F_NONBLOCK
from samepage.abi.resource import RLIM_INFINITY, Rlimit
from samepage.abi.signal import SIGPIPE, SIGXFSZ
from samepage.arch import PAGE_SHIFT, PAGE_SIZE, TASK_SIZE, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.mm.uaccess import (
    copy_from_user,
    copy_from_user_partly,
    copy_to_user_partly,
    get_u64,
    put_u64,
)
from samepage.kernel.mm.vma import VmFlags
from samepage.kernel.mm.writeback import ALL_PAGES, sync, write_back
from samepage.kernel.process.signal import send_to_task
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Interrupted, SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, I64, U32, syscall
from samepage.kernel.syscalls.usermem import MAX_RW_COUNT, UserMemoryOf, read_iovec, until_ready

_SEEK_MAX = os.SEEK_HOLE
_SYNC_FILE_RANGE_WRITE, _SYNC_FILE_RANGE_ALL = 2, 7
_RWF_APPEND, _RWF_SUPPORTED = 0x10, 0x1F
_FALLOC_FL_SUPPORTED = 0xFB
_FADV_NOREUSE = 5
_CHUNK = 1 << 20
"""How much of one large transfer is held outside of RAM at a time (bytes)."""


_Transfer = Callable[[Task, OpenFile, list[tuple[int, int]], int | None], SyscallResult]


def _declare(
    plain: int,
    vector: int,
    at_offset: int,
    vector_at_offset: int,
    transfer: _Transfer,
    *,
    writes: bool,
) -> None:
    """Declare the four forms of a transfer: one buffer or several, at the file's position or
    at an offset."""

    def parts_of(task: Task, file: OpenFile, iovec: int, count: int) -> list[tuple[int, int]]:
        if not (file.writable if writes else file.readable):
            raise SysError(errno.EBADF)
        return read_iovec(task, iovec, count)

    @syscall(plain)
    def sys_plain(task: Task, fd: I32, buffer: int, count: int) -> SyscallResult:
        file = task.process.files.get(fd)
        return transfer(task, file, [(buffer, min(count, MAX_RW_COUNT))], None)

    @syscall(vector)
    def sys_vector(task: Task, fd: I32, iovec: int, count: I32) -> SyscallResult:
        file = task.process.files.get(fd)
        return transfer(task, file, parts_of(task, file, iovec, count), None)

    @syscall(at_offset)
    def sys_at_offset(task: Task, fd: I32, buffer: int, count: int, offset: I64) -> SyscallResult:
        if offset < 0:
            raise SysError(errno.EINVAL)
        file = task.process.files.get(fd)
        return transfer(task, file, [(buffer, min(count, MAX_RW_COUNT))], offset)

    @syscall(vector_at_offset)
    def sys_vector_at_offset(
        task: Task, fd: I32, iovec: int, count: I32, offset: I64
    ) -> SyscallResult:
        if offset < 0:
            raise SysError(errno.EINVAL)
        file = task.process.files.get(fd)
        return transfer(task, file, parts_of(task, file, iovec, count), offset)


@syscall(Sys.PREADV2)
def sys_preadv2(
    task: Task, fd: I32, iovec: int, count: I32, offset: I64, high: int, flags: I32
) -> SyscallResult:
    """`preadv2(2)`; -1 as the offset means the file's position. The flags are hints, since
    nothing here waits for a disk."""
    if flags & ~_RWF_SUPPORTED or flags & _RWF_APPEND:
        raise SysError(errno.EOPNOTSUPP)
    parts = read_iovec(task, iovec, count)
    return _read_parts(task, task.process.files.get(fd), parts, None if offset == -1 else offset)


def _read_parts(
    task: Task, file: OpenFile, parts: list[tuple[int, int]], offset: int | None = None
) -> SyscallResult:
    """Read into the parts in turn; only the first read may wait.

    What does not fit into memory that is there has not been read (`filemap_read`).
    """
    if not file.seekable:
        _check_buffer(task, parts)

    def attempt() -> int:
        done = 0
        for address, length in parts:
            position = 0
            while position < length or not length:
                size = min(length - position, _CHUNK)
                try:
                    data = file.read(size) if offset is None else file.pread(size, offset + done)
                except SysError:
                    if done:
                        return done
                    raise
                copied = copy_to_user_partly(task.mm, address + position, data)
                position += copied
                done += copied
                if copied < len(data):
                    if offset is None and file.paged:
                        file.pos -= len(data) - copied
                    if not done:
                        raise SysError(errno.EFAULT)
                    return done
                if len(data) < size or not length:
                    break
            if position < length:
                break
        return done

    return _now_or_wait(task, file, attempt)


def _check_buffer(task: Task, parts: list[tuple[int, int]]) -> None:
    """Raise `SysError(EFAULT)` before a pipe gives away bytes that have nowhere to go."""
    address = next((address for address, length in parts if length), None)
    if address is None:
        return
    vma = task.mm.vmas.next_from(address)
    if vma is None or not vma.flags & VmFlags.WRITE:
        raise SysError(errno.EFAULT)
    if address < vma.start and not vma.flags & VmFlags.GROWSDOWN:
        raise SysError(errno.EFAULT)


def _now_or_wait(task: Task, file: OpenFile, attempt: Callable[[], int]) -> SyscallResult:
    """The result if it is there at once, which is the usual case, or a waiting call."""
    try:
        return attempt()
    except SysError as error:
        if error.errno != errno.EAGAIN or file.nonblocking:
            raise
    return until_ready(task, file, attempt)


@syscall(Sys.PWRITEV2)
def sys_pwritev2(
    task: Task, fd: I32, iovec: int, count: I32, offset: I64, high: int, flags: I32
) -> SyscallResult:
    """`pwritev2(2)`; -1 as the offset means the file's position, RWF_APPEND the end."""
    if flags & ~_RWF_SUPPORTED:
        raise SysError(errno.EOPNOTSUPP)
    file = task.process.files.get(fd)
    at = None if offset == -1 else offset
    if flags & _RWF_APPEND:
        at = file.inode.size
    return write_parts(task, file, read_iovec(task, iovec, count), at)


def write_parts(
    task: Task, file: OpenFile, parts: list[tuple[int, int]], offset: int | None = None
) -> Generator[Wait, None, int]:
    """Write all parts, waiting as often as need be; an error after some bytes went is a
    short write (`vfs_write`, `pipe_write`)."""
    if not file.writable:
        raise SysError(errno.EBADF)
    room = _room_to_write(task, file, offset)
    total = sum(length for _, length in parts)
    if not total:
        _put(task, file, b"", offset)
        return 0
    if any(address > TASK_SIZE - length for address, length in parts):
        raise SysError(errno.EFAULT)
    unseen = file.write_unseen(total)
    if unseen is not None:
        return unseen
    done = 0
    try:
        for address, length in parts:
            position = 0
            while position < length:
                size = min(length - position, _CHUNK, room - done)
                if size <= 0:
                    return done
                data = _fetch(task, file, address + position, size)
                while data:
                    try:
                        written = _put(task, file, data, None if offset is None else offset + done)
                    except SysError as error:
                        if error.errno != errno.EAGAIN or file.nonblocking:
                            raise
                        yield Wait()
                        continue
                    done += written
                    position += written
                    data = data[written:]
    except (SysError, Interrupted):
        if not done:
            raise
    return done


_declare(Sys.READ, Sys.READV, Sys.PREAD64, Sys.PREADV, _read_parts, writes=False)
_declare(Sys.WRITE, Sys.WRITEV, Sys.PWRITE64, Sys.PWRITEV, write_parts, writes=True)


def _fetch(task: Task, file: OpenFile, address: int, size: int) -> bytes:
    """What is to be written; into a regular file, as far as it is there
    (`generic_perform_write`). Raises `SysError(EFAULT)`."""
    if not file.paged:
        return copy_from_user(task.mm, address, size)
    data = copy_from_user_partly(task.mm, address, size)
    if not data:
        raise SysError(errno.EFAULT)
    return data


def _room_to_write(task: Task, file: OpenFile, offset: int | None) -> int:
    """How many bytes RLIMIT_FSIZE leaves (`generic_write_check_limits`). Raises
    `SysError(EFBIG)` after SIGXFSZ if that is none."""
    limit = task.process.limit(Rlimit.FSIZE)
    if limit == RLIM_INFINITY or not stat.S_ISREG(file.inode.mode):
        return RLIM_INFINITY
    if file.flags & os.O_APPEND:
        offset = file.inode.size
    left = limit - (file.pos if offset is None else offset)
    if left <= 0:
        check_file_size(task, limit + 1)
    return left


def check_file_size(task: Task, size: int) -> None:
    """Raise `SysError(EFBIG)` after SIGXFSZ if a file may not have that size
    (`inode_newsize_ok`)."""
    if size > task.process.limit(Rlimit.FSIZE):
        send_to_task(task, SigInfo(SIGXFSZ, pid=task.process.pid, uid=task.process.cred.uid))
        raise SysError(errno.EFBIG)


def _put(task: Task, file: OpenFile, data: bytes, offset: int | None) -> int:
    try:
        return file.write(data) if offset is None else file.pwrite(data, offset)
    except SysError as error:
        if error.errno == errno.EPIPE:
            send_to_task(task, SigInfo(SIGPIPE, pid=task.process.pid, uid=task.process.cred.uid))
        raise


@syscall(Sys.LSEEK)
def sys_lseek(task: Task, fd: I32, offset: I64, whence: I32) -> int:
    """`lseek(2)`."""
    file = task.process.files.get(fd)
    if not 0 <= whence <= _SEEK_MAX:
        raise SysError(errno.EINVAL)
    return file.lseek(offset, whence)


@syscall(Sys.IOCTL)
def sys_ioctl(task: Task, fd: I32, request: I32, argument: int) -> int:
    """`ioctl(2)`."""
    file = task.process.files.get(fd)
    if request & 0xFFFF_FFFF in (_FIOCLEX, _FIONCLEX):
        task.process.files.set_cloexec(fd, request & 0xFFFF_FFFF == _FIOCLEX)
        return 0
    return file.ioctl(request & 0xFFFF_FFFF, argument, UserMemoryOf(task.mm))


_FIOCLEX, _FIONCLEX = 0x5451, 0x5450


@syscall(Sys.FTRUNCATE)
def sys_ftruncate(task: Task, fd: I32, length: I64) -> int:
    """`ftruncate(2)`."""
    if length < 0:
        raise SysError(errno.EINVAL)
    file = task.process.files.get(fd)
    if length > file.inode.size:
        check_file_size(task, length)
    file.ftruncate(length)
    return 0


@syscall(Sys.FALLOCATE)
def sys_fallocate(task: Task, fd: I32, mode: I32, offset: I64, length: I64) -> int:
    """`fallocate(2)`; the checks come in the order of `vfs_fallocate`."""
    file = task.process.files.get(fd)
    if offset < 0 or length <= 0:
        raise SysError(errno.EINVAL)
    if mode & ~_FALLOC_FL_SUPPORTED:
        raise SysError(errno.EOPNOTSUPP)
    if not file.writable:
        raise SysError(errno.EBADF)
    if stat.S_ISFIFO(file.inode.mode):
        raise SysError(errno.ESPIPE)
    file.fallocate(mode, offset, length)
    return 0


@syscall(Sys.FSYNC, Sys.FDATASYNC)
def sys_fsync(task: Task, fd: I32) -> int:
    """`fsync(2)`, `fdatasync(2)`: there is nothing to wait for, but pages become clean."""
    task.process.files.get(fd).fsync()
    return 0


@syscall(Sys.SYNC_FILE_RANGE)
def sys_sync_file_range(task: Task, fd: I32, offset: I64, length: I64, flags: U32) -> int:
    """`sync_file_range(2)`."""
    file = task.process.files.get(fd)
    if flags & ~_SYNC_FILE_RANGE_ALL or offset < 0 or length < 0:
        raise SysError(errno.EINVAL)
    if not file.seekable:
        raise SysError(errno.ESPIPE)
    content = file.mappable
    if flags & _SYNC_FILE_RANGE_WRITE and content is not None:
        end = (offset + length + PAGE_SIZE - 1) >> PAGE_SHIFT if length else ALL_PAGES
        write_back(task.kernel.cache, content, offset >> PAGE_SHIFT, end)
    return 0


@syscall(Sys.SYNCFS)
def sys_syncfs(task: Task, fd: I32) -> int:
    """`syncfs(2)`."""
    sync(task.kernel.cache, task.process.files.get(fd).inode.dev)
    return 0


@syscall(Sys.SYNC)
def sys_sync(task: Task) -> int:
    """`sync(2)`."""
    sync(task.kernel.cache)
    return 0


@syscall(Sys.FADVISE64)
def sys_fadvise64(task: Task, fd: I32, offset: I64, length: I64, advice: I32) -> int:
    """`posix_fadvise(2)`: advice that the model's cache does not need."""
    file = task.process.files.get(fd)
    if stat.S_ISFIFO(file.inode.mode):
        raise SysError(errno.ESPIPE)
    if length < 0 or not 0 <= advice <= _FADV_NOREUSE:
        raise SysError(errno.EINVAL)
    return 0


@syscall(Sys.READAHEAD)
def sys_readahead(task: Task, fd: I32, offset: I64, count: int) -> int:
    """`readahead(2)`: likewise."""
    file = task.process.files.get(fd)
    if not file.readable:
        raise SysError(errno.EBADF)
    if not stat.S_ISREG(file.inode.mode):
        raise SysError(errno.EINVAL)
    return 0


@syscall(Sys.SENDFILE)
def sys_sendfile(task: Task, out_fd: I32, in_fd: I32, offset: int, count: int) -> SyscallResult:
    """`sendfile(2)`."""
    files = task.process.files
    return _transfer(task, files.get(in_fd), files.get(out_fd), offset, 0, count)


@syscall(Sys.COPY_FILE_RANGE)
def sys_copy_file_range(
    task: Task, in_fd: I32, in_offset: int, out_fd: I32, out_offset: int, count: int, flags: int
) -> SyscallResult:
    """`copy_file_range(2)`."""
    source, target = task.process.files.get(in_fd), task.process.files.get(out_fd)
    modes = source.inode.mode, target.inode.mode
    if flags:
        raise SysError(errno.EINVAL)
    if any(map(stat.S_ISDIR, modes)):
        raise SysError(errno.EISDIR)
    if not all(map(stat.S_ISREG, modes)):
        raise SysError(errno.EINVAL)
    if target.flags & os.O_APPEND:
        raise SysError(errno.EBADF)
    return _transfer(task, source, target, in_offset, out_offset, count)


@syscall(Sys.SPLICE)
def sys_splice(
    task: Task, in_fd: I32, in_offset: int, out_fd: I32, out_offset: int, count: int, flags: U32
) -> SyscallResult:
    """`splice(2)`, by copying."""
    files = task.process.files
    source, target = files.get(in_fd), files.get(out_fd)
    nonblocking = bool(flags & SPLICE_F_NONBLOCK)
    return _transfer(task, source, target, in_offset, out_offset, count, nonblocking=nonblocking)


def _transfer(
    task: Task,
    source: OpenFile,
    target: OpenFile,
    in_at: int,
    out_at: int,
    count: int,
    *,
    nonblocking: bool = False,
) -> Generator[Wait, None, int]:
    """Copy from file to file; `in_at` and `out_at` are addresses of positions, or 0."""
    if not source.readable or not target.writable:
        raise SysError(errno.EBADF)
    read_from = get_u64(task.mm, in_at) if in_at else None
    write_to = get_u64(task.mm, out_at) if out_at else None
    done = 0
    while done < count:
        size = min(count - done, _CHUNK)
        if read_from is None:
            data = b""
            while not data:
                try:
                    data = source.read(size)
                    break
                except SysError as error:
                    if error.errno != errno.EAGAIN or done or nonblocking or source.nonblocking:
                        raise
                yield Wait(host_fd=source.host_fd)
        else:
            data = source.pread(size, read_from)
            read_from += len(data)
        if not data:
            break
        position = 0
        while position < len(data):
            try:
                part = data[position:]
                written = _put(task, target, part, write_to)
            except SysError as error:
                if error.errno != errno.EAGAIN or nonblocking or target.nonblocking:
                    raise
                yield Wait()
                continue
            position += written
            if write_to is not None:
                write_to += written
        done += len(data)
        if not source.seekable:
            break
    if read_from is not None:
        put_u64(task.mm, in_at, read_from)
    if write_to is not None:
        put_u64(task.mm, out_at, write_to)
    return done
