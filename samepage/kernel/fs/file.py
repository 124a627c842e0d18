"""Open files: what a file descriptor refers to (`struct file`).

Nothing here ever waits. Where Linux would block (an empty pipe, nothing on stdin), the
method raises `SysError(EAGAIN)` with or without O_NONBLOCK; the system-call layer decides
whether to wait and try again.
"""

from __future__ import annotations

import errno
import os
import struct

from samepage.abi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from samepage.kernel.errors import SysError
from samepage.kernel.fs.inode import Inode
from samepage.kernel.fs.mapping import Mapping
from samepage.kernel.fs.namei import path_name
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.stat import Stat
from samepage.kernel.mm.readahead import FileRa

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from samepage.kernel.fs.pipe import Pipe

    class UserMemory(Protocol):
        """How an ioctl reaches its argument. Both raise `SysError(EFAULT)`."""

        def read(self, address: int, length: int) -> bytes: ...

        def write(self, address: int, data: bytes) -> None: ...


OPEN_ONLY_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC
"""Flags of `open` that are not kept in the open file (`do_dentry_open`)."""
SETTABLE_FLAGS = os.O_APPEND | os.O_NONBLOCK | os.O_NDELAY | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME
"""Flags that F_SETFL may change (`SETFL_MASK`)."""

POLL_ALWAYS = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM
"""What a file without a poll method answers (`DEFAULT_POLLMASK`)."""

FIONREAD = 0x541B
FIONBIO = 0x5421
FIGETBSZ = 2
MAX_LFS_FILESIZE = (1 << 63) - 1


class OpenFile:
    """An open file description: position, status flags and how to read and write.

    `refs` counts the descriptors (of all tables) that refer to it; `FdTable` keeps it, and
    calls `release` when it falls to 0.

    What a kind of file can do is an attribute or a method with a default, as in Linux's
    `file_operations`.
    """

    seekable = True
    pollable = False
    """Whether it can be waited for (`file_can_poll`)."""
    paged = False
    """Its content is in the page cache: of a read or write that meets a bad address, the part
    before it counts (`filemap_read`, `generic_perform_write`)."""
    pipe: Pipe | None = None
    """The pipe that it is an end of."""

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.inode: Inode = path.inode
        self.flags = flags & ~OPEN_ONLY_FLAGS
        self.pos = 0
        self.refs = 0
        self.privileged = True
        """Opened by root: writing leaves the set-user-id bits alone."""
        self.ra = FileRa()
        """The readahead state; a VMA gets it as `filp`."""

    @property
    def readable(self) -> bool:
        """Opened for reading."""
        return self.flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)

    @property
    def writable(self) -> bool:
        """Opened for writing."""
        return self.flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)

    @property
    def shown_name(self) -> str:
        """Its path as it is now, or with " (deleted)" as it was (`d_path`)."""
        return os.fsdecode(path_name(self.path))

    @property
    def nonblocking(self) -> bool:
        """O_NONBLOCK is set."""
        return bool(self.flags & os.O_NONBLOCK)

    @property
    def opening(self) -> bool:
        """Whether `open` must still wait before it gives out a descriptor (a FIFO without
        its other end)."""
        return False

    @property
    def wakeups(self) -> int | None:
        """How often something happened that a waiting task would be woken for; None if
        that is not counted."""
        return None

    @property
    def mappable(self) -> Mapping | None:
        """What mmap maps; None for a file that has no pages."""
        return None

    @property
    def unlinked(self) -> bool:
        """Whether no name is left of it."""
        return self.inode.nlink == 0

    @property
    def write_sealed(self) -> bool:
        """Whether new writable shared mappings and writes are forbidden for good."""
        return self.inode.write_sealed

    @property
    def maps_anonymous(self) -> bool:
        """Whether mmap gives anonymous memory (`/dev/zero`)."""
        return False

    @property
    def time_left(self) -> int | None:
        """In how many ns it becomes ready by itself, if it does."""
        return None

    @property
    def host_fd(self) -> int | None:
        """A descriptor of the host that becomes readable when this may; None if none does."""
        return None

    def watched(self) -> list[OpenFile] | None:
        """The files that it waits for, of an epoll set; None for any other."""
        return None

    def set_flags(self, flags: int) -> None:
        """F_SETFL: change the flags that may change. Raises `SysError`."""
        self.flags = self.flags & ~SETTABLE_FLAGS | flags & SETTABLE_FLAGS

    def read(self, length: int) -> bytes:
        """Read up to `length` bytes at the position, and advance it.

        Raises `SysError`: EBADF if not open for reading, EAGAIN if it would block.
        """
        if not self.readable:
            raise SysError(errno.EBADF)
        data = self._read_at(length, self.pos)
        if self.seekable:
            self.pos += len(data)
        return data

    def write(self, data: bytes) -> int:
        """Write `data` at the position, and advance it; return how much was written.

        Raises `SysError`: EBADF if not open for writing, EAGAIN if it would block, EPIPE.
        """
        if not self.writable:
            raise SysError(errno.EBADF)
        if self.flags & os.O_APPEND and self.seekable:
            self.pos = self.inode.size
        done = self._write_at(data, self.pos)
        if self.seekable:
            self.pos += done
        return done

    def pread(self, length: int, offset: int) -> bytes:
        """Read at `offset`. Raises `SysError` with EBADF, EINVAL or ESPIPE."""
        self._check_positional(offset)
        if not self.readable:
            raise SysError(errno.EBADF)
        return self._read_at(length, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Write at `offset`; with O_APPEND at the end of the file, as in Linux."""
        self._check_positional(offset)
        if not self.writable:
            raise SysError(errno.EBADF)
        if self.flags & os.O_APPEND:
            offset = self.inode.size
        return self._write_at(data, offset)

    def _check_positional(self, offset: int) -> None:
        if offset < 0:
            raise SysError(errno.EINVAL)
        if not self.seekable:
            raise SysError(errno.ESPIPE)

    def _read_at(self, length: int, offset: int) -> bytes:
        raise SysError(errno.EINVAL)

    def _write_at(self, data: bytes, offset: int) -> int:
        raise SysError(errno.EINVAL)

    def lseek(self, offset: int, whence: int) -> int:
        """Move the position, and return it. Raises `SysError` with ESPIPE, EINVAL or ENXIO."""
        if not self.seekable:
            raise SysError(errno.ESPIPE)
        self.pos = self._seek_target(offset, whence)
        return self.pos

    def _seek_target(self, offset: int, whence: int) -> int:
        if whence == os.SEEK_CUR:
            offset += self.pos
        elif whence == os.SEEK_END:
            offset += self.inode.size
        elif whence in (os.SEEK_DATA, os.SEEK_HOLE):
            # Without a notion of holes, all is data up to the end (`generic_file_llseek`).
            if not 0 <= offset < self.inode.size:
                raise SysError(errno.ENXIO)
            return offset if whence == os.SEEK_DATA else self.inode.size
        elif whence != os.SEEK_SET:
            raise SysError(errno.EINVAL)
        if not 0 <= offset <= MAX_LFS_FILESIZE:
            raise SysError(errno.EINVAL)
        return offset

    def getdents64(self, size: int) -> bytes:
        """Directory entries, at most `size` bytes of them. Raises `SysError(ENOTDIR)`."""
        raise SysError(errno.ENOTDIR)

    def poll(self) -> int:
        """The POLL* bits that hold now."""
        return POLL_ALWAYS

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """Do a device-specific request. Raises `SysError(ENOTTY)` for an unknown one."""
        if request == FIONBIO:
            on = struct.unpack("<i", memory.read(argument, 4))[0]
            self.flags = self.flags & ~os.O_NONBLOCK | (os.O_NONBLOCK if on else 0)
            return 0
        raise SysError(errno.ENOTTY)

    def fstat(self) -> Stat:
        """The attributes of the file."""
        return self.inode.stat()

    def ftruncate(self, size: int) -> None:
        """Change the length. Raises `SysError(EINVAL)`."""
        raise SysError(errno.EINVAL)

    def write_unseen(self, length: int) -> int | None:
        """Write without looking at the data, none of which has to be present: how many
        bytes were taken, or None if they must be seen. Raises `SysError`."""
        return None

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Give or take space. Raises `SysError`."""
        raise SysError(errno.ENODEV)

    def fsync(self) -> None:
        """Write back what is dirty. Raises `SysError(EINVAL)` for a file without storage."""
        raise SysError(errno.EINVAL)

    def release(self) -> None:
        """The last descriptor is gone."""

    def get(self) -> OpenFile:
        """Count one more reference (`get_file`)."""
        self.refs += 1
        return self

    def put(self) -> None:
        """Drop one reference; the last one releases the file (`fput`)."""
        self.refs -= 1
        if self.refs == 0:
            if self.inode.locks is not None:
                self.inode.locks.release(self)
            self.release()


class PathFile(OpenFile):
    """A file opened with O_PATH: a place in the tree, of which nothing can be read.

    The calls that need more of a file do not get one (`FdTable.get`).
    """

    seekable = False

    @property
    def readable(self) -> bool:
        """Never."""
        return False

    @property
    def writable(self) -> bool:
        """Never."""
        return False
