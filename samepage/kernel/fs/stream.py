"""The guest's standard input and output: a descriptor of the host, or a Python function.

The host descriptor is read only when the guest reads, and never waited for: if nothing is
there, the answer is EAGAIN, and the scheduler may wait on `host_fd` when every task waits.
The guest sees the type that the host's descriptor has (a terminal, a pipe, a file), so that
programs choose their buffering and their colours as they do natively. ioctls never reach
the host: a terminal's settings are the model's own, only its window size is asked for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Callable

from samepage.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import FIONBIO, FIONREAD, POLL_ALWAYS, OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.mapping import Mapping
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.stat import Stat
from samepage.kernel.fs.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from samepage.kernel.fs.file import UserMemory

    T = TypeVar("T")


class HostStream(Inode):
    """A file that the host gave to samepage, by one or more descriptors.

    `host_fd` is the one that its attributes are read from. `mapping` is the content for mmap if it
    is a regular file of the guest's tree.
    """

    def __init__(self, sb: Superblock, host_fd: int, mapping: Mapping | None = None) -> None:
        super().__init__(sb, stat.S_IFIFO)
        found = os.fstat(host_fd)
        self.adopt(found, b"")
        self.host = None
        self.dev = found.st_dev
        self.mode = found.st_mode
        self.host_fd = host_fd
        self.mapping = mapping
        self.terminal = Terminal(host_fd) if os.isatty(host_fd) else None
        self._descriptors: list[tuple[int, int]] = []
        """(access mode, host descriptor)"""

    def add_descriptor(self, host_fd: int) -> int:
        """Another host descriptor of the file; its access mode."""
        access = fcntl.fcntl(host_fd, fcntl.F_GETFL) & os.O_ACCMODE
        self._descriptors.append((access, host_fd))
        return access

    @property
    def size(self) -> int:
        """The length as it is now."""
        return os.fstat(self.host_fd).st_size

    @property
    def blocks(self) -> int:
        """Allocated blocks as they are now."""
        return os.fstat(self.host_fd).st_blocks

    def stat(self) -> Stat:
        """The host's attributes; the size and times of a file may change as it is written."""
        found = os.fstat(self.host_fd)
        self.atime, self.mtime, self.ctime = (
            found.st_atime_ns,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )
        return super().stat()

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it once more, as `/dev/stdout` does.

        Raises `SysError(EACCES)` if the host gave no descriptor with that access.
        """
        wanted = flags & os.O_ACCMODE
        for access, host_fd in self._descriptors:
            if access in (wanted, os.O_RDWR):
                return HostStreamFile(path, flags, host_fd)
        raise SysError(errno.EACCES)


class HostStreamFile(OpenFile):
    """An open host descriptor. Its position is the host's."""

    inode: HostStream

    def __init__(self, path: Path, flags: int, host_fd: int) -> None:
        super().__init__(path, flags)
        self._host_fd = host_fd
        self.seekable = stat.S_ISREG(self.inode.mode)
        self.pollable = not self.seekable and not self.inode.is_dir

    @property
    def host_fd(self) -> int:
        """The host's descriptor."""
        return self._host_fd

    @property
    def mappable(self) -> Mapping | None:
        """The content, if it is a regular file."""
        return self.inode.mapping

    def _events(self, wanted: int) -> int:
        poller = select.poll()
        poller.register(self.host_fd, wanted)
        found = poller.poll(0)
        return found[0][1] if found else 0

    def read(self, length: int) -> bytes:
        """Read what the host has. Raises `SysError(EAGAIN)` if that would wait."""
        if not self.readable:
            raise SysError(errno.EBADF)
        if not self.seekable and not self._events(select.POLLIN):
            raise SysError(errno.EAGAIN)
        return _host(lambda: os.read(self.host_fd, length))

    def write(self, data: bytes) -> int:
        """Write to the host. Raises `SysError`, EPIPE among others."""
        if not self.writable:
            raise SysError(errno.EBADF)
        return _host(lambda: os.write(self.host_fd, data))

    def _read_at(self, length: int, offset: int) -> bytes:
        return _host(lambda: os.pread(self.host_fd, length, offset))

    def _write_at(self, data: bytes, offset: int) -> int:
        return _host(lambda: os.pwrite(self.host_fd, data, offset))

    def lseek(self, offset: int, whence: int) -> int:
        """Move the host's position. Raises `SysError(ESPIPE)` unless it is a file."""
        if not self.seekable:
            raise SysError(errno.ESPIPE)
        self.pos = _host(lambda: os.lseek(self.host_fd, offset, whence))
        return self.pos

    def poll(self) -> int:
        """What the host's poll reports."""
        if self.seekable:
            return POLL_ALWAYS
        found = self._events(select.POLLIN | select.POLLOUT)
        mask = found & (POLLIN | POLLOUT | POLLERR | POLLHUP)
        if mask & POLLIN:
            mask |= POLLRDNORM
        if mask & POLLOUT:
            mask |= POLLWRNORM
        return mask

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """A terminal's requests if it is one, answered by the model."""
        if request == FIONREAD:
            memory.write(argument, _host(lambda: fcntl.ioctl(self.host_fd, FIONREAD, bytes(4))))
            return 0
        if self.inode.terminal is not None and request != FIONBIO:
            return self.inode.terminal.ioctl(request, argument, memory)
        return super().ioctl(request, argument, memory)

    def fsync(self) -> None:
        """Nothing to do for a file. Raises `SysError(EINVAL)` for others."""
        if not self.seekable:
            raise SysError(errno.EINVAL)


class BufferStream(Inode):
    """Input from bytes, output to a function: looks like a pipe.

    `sink` gets each write; `feed` adds input, and `finish` ends it.
    """

    def __init__(
        self,
        sb: Superblock,
        *,
        source: bytes | None = None,
        sink: Callable[[bytes], object] | None = None,
    ) -> None:
        super().__init__(sb, stat.S_IFIFO | 0o600)
        self.input = bytearray(source or b"")
        self.ended = source is not None
        self.sink = sink

    def feed(self, data: bytes) -> None:
        """Add input."""
        self.input += data

    def finish(self) -> None:
        """No more input will come."""
        self.ended = True

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it once more."""
        return BufferStreamFile(path, flags)


class BufferStreamFile(OpenFile):
    """An open `BufferStream`."""

    seekable = False
    pollable = True
    inode: BufferStream

    def _read_at(self, length: int, offset: int) -> bytes:
        data = bytes(self.inode.input[:length])
        if not data and not self.inode.ended:
            raise SysError(errno.EAGAIN)
        del self.inode.input[:length]
        return data

    def _write_at(self, data: bytes, offset: int) -> int:
        if self.inode.sink is None:
            raise SysError(errno.EPIPE)
        self.inode.sink(data)
        return len(data)

    def poll(self) -> int:
        """Input that is available, and output always."""
        mask = 0
        if self.readable:
            if self.inode.input:
                mask |= POLLIN | POLLRDNORM
            if self.inode.ended:
                mask |= POLLHUP
        if self.writable:
            mask |= POLLOUT | POLLWRNORM
        return mask

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """FIONREAD."""
        if request == FIONREAD:
            memory.write(argument, struct.pack("<i", len(self.inode.input)))
            return 0
        return super().ioctl(request, argument, memory)


def _host(call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise SysError(error.errno or errno.EIO) from error
