"""Common to handlers: reading arguments from user memory, and waiting for files."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Generator

from samepage.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from samepage.abi.time import NS
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.path import Path
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.uaccess import (
    copy_from_user,
    copy_to_user,
    get_array,
    get_struct,
    get_u64,
    strncpy_from_user,
)
from samepage.kernel.process.task import Task, Wait
from samepage.kernel.process.user_stack import MAX_ARG_STRLEN
from samepage.records import record

MAX_RW_COUNT = 0x7FFF_F000
IOV_MAX = 1024
_IOVEC = struct.Struct("<QQ")
SIGINFO = struct.Struct("<iiiiiiQ")
"""`siginfo_t` as rt_sigqueueinfo takes it: signal, errno, code, padding, pid, uid, value."""


@record(frozen=True)
class UserMemoryOf:
    """The `UserMemory` of an address space, for ioctls."""

    mm: AddressSpace

    def read(self, address: int, length: int) -> bytes:
        """`copy_from_user`."""
        return copy_from_user(self.mm, address, length)

    def write(self, address: int, data: bytes) -> None:
        """`copy_to_user`."""
        copy_to_user(self.mm, address, data)


def read_path(task: Task, address: int) -> bytes:
    """A path argument (`getname`). Raises `SysError` with EFAULT or ENAMETOOLONG."""
    return strncpy_from_user(task.mm, address)


def base_path(task: Task, dirfd: int, path: bytes) -> Path | None:
    """Where a relative path starts. Raises `SysError(EBADF)`; an absolute path does not
    look at `dirfd`."""
    if dirfd == AT_FDCWD or path.startswith(b"/"):
        return None
    return task.process.files.get_raw(dirfd).path


def at_path(task: Task, dirfd: int, address: int, flags: int) -> Path:
    """The file that the arguments of an `*at` call name. Raises `SysError`."""
    name = read_path(task, address) if address or not flags & AT_EMPTY_PATH else b""
    if not name and flags & AT_EMPTY_PATH:
        if dirfd == AT_FDCWD:
            return task.process.fs.cwd
        return task.process.files.get_raw(dirfd).path
    follow = not flags & AT_SYMLINK_NOFOLLOW
    return task.kernel.vfs.lookup(
        task.process.fs, name, follow=follow, base=base_path(task, dirfd, name)
    )


def read_strings(task: Task, address: int, limit: int = 1 << 16) -> list[bytes]:
    """A NULL-terminated array of strings, as `execve` takes (a null pointer is empty)."""
    strings: list[bytes] = []
    while address:
        pointer = get_u64(task.mm, address)
        if not pointer:
            break
        if len(strings) >= limit:
            raise SysError(errno.E2BIG)
        try:
            strings.append(strncpy_from_user(task.mm, pointer, MAX_ARG_STRLEN))
        except SysError as error:
            too_long = error.errno == errno.ENAMETOOLONG
            raise SysError(errno.E2BIG if too_long else error.errno) from None
        address += 8
    return strings


def read_iovec(task: Task, address: int, count: int) -> list[tuple[int, int]]:
    """The (address, length) pairs of an iovec (`import_iovec`). Raises `SysError`."""
    if not 0 <= count <= IOV_MAX:
        raise SysError(errno.EINVAL)
    parts: list[tuple[int, int]] = []
    left = MAX_RW_COUNT
    for base, length in get_array(task.mm, address, _IOVEC, count):
        if length >> 63:
            raise SysError(errno.EINVAL)
        length = min(length, left)
        left -= length
        parts.append((base, length))
    return parts


def read_timespec(task: Task, address: int) -> int:
    """A `struct timespec` in nanoseconds. Raises `SysError(EINVAL)` if it is not valid."""
    seconds, nanoseconds = get_struct(task.mm, address, "<qq")
    if seconds < 0 or not 0 <= nanoseconds < NS:
        raise SysError(errno.EINVAL)
    return int(seconds * NS + nanoseconds)


def read_timeval(task: Task, address: int) -> int:
    """A `struct timeval` in nanoseconds. Raises `SysError(EINVAL)`."""
    seconds, microseconds = get_struct(task.mm, address, "<qq")
    if seconds < 0 or not 0 <= microseconds < 1_000_000:
        raise SysError(errno.EINVAL)
    return int(seconds * NS + microseconds * 1000)


def read_itimerspec(task: Task, address: int) -> tuple[int, int]:
    """The value and the interval of a `struct itimerspec`, in nanoseconds. Raises
    `SysError(EINVAL)` if it is not valid (`itimerspec64_valid`)."""
    raw = get_struct(task.mm, address, "<4q")
    if min(raw) < 0 or raw[1] >= NS or raw[3] >= NS:
        raise SysError(errno.EINVAL)
    return raw[2] * NS + raw[3], raw[0] * NS + raw[1]


def pack_itimerspec(value: int, interval: int) -> bytes:
    """A `struct itimerspec`."""
    return pack_timespec(interval) + pack_timespec(value)


def pack_timespec(ns: int) -> bytes:
    """A `struct timespec`."""
    return struct.pack("<qq", ns // NS, ns % NS)


def pack_timeval(ns: int) -> bytes:
    """A `struct timeval`."""
    return struct.pack("<qq", ns // NS, ns % NS // 1000)


def until_ready(
    task: Task, file: OpenFile, attempt: Callable[[], int], *, nonblocking: bool = False
) -> Generator[Wait, None, int]:
    """Try until the file does not answer EAGAIN any more; with O_NONBLOCK once."""
    while True:
        try:
            return attempt()
        except SysError as error:
            if error.errno != errno.EAGAIN or nonblocking or file.nonblocking:
                raise
        left = file.time_left
        deadline = None if left is None else task.kernel.clock.monotonic() + left
        yield Wait(deadline, file.host_fd)
