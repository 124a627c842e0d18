"""Opening the streams that a guest starts with, and the controlling terminal."""

import errno
import fcntl
import os
from collections.abc import Callable

from samepage.kernel.errors import SysError
from samepage.kernel.fs import devtree
from samepage.kernel.fs.directory import Directory
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.hostfs import HostFs
from samepage.kernel.fs.inode import Superblock
from samepage.kernel.fs.mapping import Mapping
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.stream import BufferStream, BufferStreamFile, HostStream, HostStreamFile


class Stdio:
    """Makes streams; the first terminal among them becomes `/dev/tty`.

    Descriptors that are the same host file (a terminal as stdin and stdout) share one inode.
    `dev` is the root of /dev, where terminals get their names.
    """

    def __init__(self, sb: Superblock, hostfs: HostFs, dev: Directory) -> None:
        self._sb = sb
        self._hostfs = hostfs
        self._dev = dev
        self._streams: dict[tuple[int, int], tuple[Path, HostStream]] = {}
        self._tty: Path | None = None

    def open_host(self, host_fd: int) -> OpenFile:
        """The guest's end of a host descriptor, with the host's access mode. The
        descriptor must stay open. Raises `SysError(EBADF)` if it is not open."""
        try:
            found = os.fstat(host_fd)
            append = fcntl.fcntl(host_fd, fcntl.F_GETFL) & os.O_APPEND
        except OSError as error:
            raise SysError(errno.EBADF) from error
        key = (found.st_dev, found.st_ino)
        if key not in self._streams:
            self._streams[key] = self._make(host_fd)
        path, inode = self._streams[key]
        return HostStreamFile(path, inode.add_descriptor(host_fd) | append, host_fd)

    def _make(self, host_fd: int) -> tuple[Path, HostStream]:
        name = os.readlink(b"/proc/self/fd/%d" % host_fd)
        inode = HostStream(self._sb, host_fd, self._mapping(name, host_fd))
        path = Path(inode, name, mount_id=0)
        if inode.terminal is not None:
            devtree.add_terminal(self._dev, name, inode)
            self._tty = self._tty or path
        return path, inode

    def _mapping(self, name: bytes, host_fd: int) -> Mapping | None:
        """The pages of the file, the same as for a guest that opens it by name."""
        inode = self._hostfs.inode(name)
        found = os.fstat(host_fd)
        if inode is None or (inode.dev, inode.ino) != (found.st_dev, found.st_ino):
            return None
        return inode.mapping

    def open_bytes(self, source: bytes = b"") -> OpenFile:
        """A stdin that gives `source` and then ends."""
        return self._buffer(BufferStream(self._sb, source=source), os.O_RDONLY)

    def open_sink(self, sink: Callable[[bytes], object]) -> OpenFile:
        """A stdout whose writes go to a function."""
        return self._buffer(BufferStream(self._sb, sink=sink), os.O_WRONLY)

    def _buffer(self, inode: BufferStream, access: int) -> OpenFile:
        return BufferStreamFile(Path(inode, b"pipe:[%d]" % inode.ino, mount_id=0), access)

    def open_tty(self, path: Path, flags: int) -> OpenFile:
        """`/dev/tty`. Raises `SysError(ENXIO)` without a terminal."""
        if self._tty is None:
            raise SysError(errno.ENXIO)
        return self._tty.inode.open(self._tty, flags)
