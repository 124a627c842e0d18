"""Questions to the host that Python's `os` does not ask: getdents64, statfs, birth times,
sysctls."""

import ctypes
import struct

from samepage.abi.dirent import DIRENT64
from samepage.abi.fcntl import AT_FDCWD, AT_SYMLINK_NOFOLLOW
from samepage.kernel.errors import SysError
from samepage.kernel.fs.directory import DirEntry
from samepage.kernel.fs.stat import STATX_BTIME, StatFs

_libc = ctypes.CDLL(None, use_errno=True)


def _failed() -> SysError:
    return SysError(ctypes.get_errno())


def list_directory(fd: int) -> list[DirEntry]:
    """All entries of an open host directory in its own order (getdents64).

    Raises `SysError` with the host's errno.
    """
    buffer = ctypes.create_string_buffer(1 << 16)
    entries: list[DirEntry] = []
    while True:
        length = _libc.getdents64(fd, buffer, len(buffer))
        if length < 0:
            raise _failed()
        if length == 0:
            return entries
        data = buffer.raw[:length]
        at = 0
        while at < length:
            ino, cookie, record, kind = DIRENT64.unpack_from(data, at)
            name = data[at + DIRENT64.size : at + record]
            entries.append(DirEntry(name[: name.index(0)], ino, kind, cookie))
            at += record


def statfs(path: bytes) -> StatFs:
    """The host's figures for the file system that holds `path`. Raises `SysError`."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(path, buffer) < 0:
        raise _failed()
    return StatFs.unpack(buffer.raw)


def birth_time(path: bytes) -> int | None:
    """When the host file was made, in ns since the epoch; None if the host does not know."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, buffer) < 0:
        return None
    mask, seconds, nanoseconds = struct.unpack_from("<I76xqI", buffer.raw)
    return seconds * 1_000_000_000 + nanoseconds if mask & STATX_BTIME else None


def sysctl(name: str, default: int) -> int:
    """A number of the host's /proc/sys, `default` where it cannot be read."""
    try:
        with open(f"/proc/sys/{name}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return default
