"""The content of regular files, as the page cache sees it (`struct address_space`).

A page that is not cached comes from one of three kinds of storage:

- `HostMapping`: a host file, read-only. Nothing is read before a page is asked for.
- `CopiedMapping`: a file that was copied up. It is a new set of pages; those that were not
  written yet come from the host file, as far as the file was never cut shorter.
- `MemoryMapping`: a file that only exists in the model. A page that is not cached is a hole;
  pages with content are in `PageCache.written`, and are never reclaimed.

A copy-up makes a new mapping with the same device and inode number. Memory mappings made
before it keep the old one, as in overlayfs ("changes to the file are not reflected in the
memory mapping", Documentation/filesystems/overlayfs.rst). Unlike overlayfs the copy is lazy:
no page is duplicated before it is used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Container

from samepage.arch import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.mapped_file import MappedFile

MAX_OPEN_HOST_FILES = 128


class Mapping(MappedFile):
    """The content of a file in a file system: what a file asks of it besides its pages.

    `written` are the frames whose content is nowhere else (`PageCache.written`).
    """

    def copy_up(self, keep: Callable[[], bool], *, empty: bool) -> MemoryMapping:
        """Content that can be changed and starts as this one, or `empty`; `keep` is as of
        `MemoryMapping`."""
        raise NotImplementedError

    def blocks(self, written: Container[int]) -> int:
        """Blocks of 512 bytes that hold content."""
        raise NotImplementedError

    def seek_data(self, offset: int, written: Container[int]) -> int | None:
        """The first byte with content at or after `offset`, None if none follows."""
        raise NotImplementedError

    def seek_hole(self, offset: int, written: Container[int]) -> int:
        """The first byte without content at or after `offset`; the end is a hole."""
        raise NotImplementedError


class MemoryMapping(Mapping):
    """Content that lives only in the page cache.

    `keep` returns whether a name or an open file keeps it; without one it goes with the last
    memory mapping (`PageCache.release`).
    """

    backed = 0
    """Bytes from the start that are the host's where no page is cached."""

    def __init__(self, dev: int, ino: int, keep: Callable[[], bool]) -> None:
        super().__init__(dev, ino, 0)
        self._keep = keep

    def copy_up(self, keep: Callable[[], bool], *, empty: bool) -> MemoryMapping:
        """It can be changed as it is."""
        return self

    @property
    def handles(self) -> int:
        """What keeps it besides mappings."""
        return int(self._keep())

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int:
        """Fill `buffers` with what storage holds from `offset` on: zeros."""
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
        return sum(map(len, buffers))

    def cut(self, size: int) -> None:
        """The file is about to end at `size`: nothing above comes from storage again."""

    # A page in the cache may be a hole that was read. Content is in those pages
    # whose frames are in `written` (`PageCache.written`).

    def blocks(self, written: Container[int]) -> int:
        """Blocks of 512 bytes that hold content."""
        return sum(pfn in written for pfn in self.pages.values()) << PAGE_SHIFT >> 9

    def seek_data(self, offset: int, written: Container[int]) -> int | None:
        """The first byte with content at or after `offset`, None if none follows."""
        wanted = offset >> PAGE_SHIFT
        found = (index for index, pfn in self.pages.items() if index >= wanted and pfn in written)
        first = min(found, default=None)
        return None if first is None else max(offset, first << PAGE_SHIFT)

    def seek_hole(self, offset: int, written: Container[int]) -> int:
        """The first byte without content at or after `offset`; the end is a hole."""
        index = offset >> PAGE_SHIFT
        while self.pages.get(index, 0) in written:
            index += 1
        return max(offset, index << PAGE_SHIFT)


class ShmemMapping(MemoryMapping):
    """Content of a tmpfs file or a memfd: its pages count as shared memory."""

    shmem = True


class HostMapping(Mapping):
    """The content of a host file. `size` is the length at the time it was first seen, and
    `n_blocks` the space that it took on the host then, in blocks of 512 bytes."""

    unchanging = True

    def __init__(
        self, files: HostFiles, dev: int, ino: int, size: int, path: bytes, n_blocks: int
    ) -> None:
        super().__init__(dev, ino, size)
        self._files = files
        self.path = path
        self._n_blocks = n_blocks

    @property
    def shown_path(self) -> str:
        """Where it was found on the host."""
        return os.fsdecode(self.path)

    def copy_up(self, keep: Callable[[], bool], *, empty: bool) -> MemoryMapping:
        """A copy to change; the host's file stays as it is."""
        return CopiedMapping(self, keep, empty=empty)

    def blocks(self, written: Container[int]) -> int:
        """Blocks of 512 bytes, as the host reports them."""
        return self._n_blocks

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int:
        """Fill `buffers` from the host file; zeros past its end.

        Raises `SysError` with the host's errno, or EIO if the file is another by now.
        """
        length = sum(map(len, buffers))
        done = 0
        if offset < self.size:
            done = min(_preadv(self._files.get(self), buffers, offset), self.size - offset)
        _clear_from(buffers, done)
        return length

    def seek(self, offset: int, whence: int) -> int | None:
        """`lseek` with SEEK_DATA or SEEK_HOLE in the host file; None if no data follows."""
        try:
            return os.lseek(self._files.get(self), offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise SysError(error.errno or errno.EIO) from error

    def seek_data(self, offset: int, written: Container[int] = ()) -> int | None:
        """The first byte with content at or after `offset`, None if none follows."""
        return self.seek(offset, os.SEEK_DATA)

    def seek_hole(self, offset: int, written: Container[int] = ()) -> int:
        """The first byte without content at or after `offset`; the end is a hole."""
        place = self.seek(offset, os.SEEK_HOLE)
        return self.size if place is None else place


class CopiedMapping(MemoryMapping):
    """The content of a host file that the guest may change.

    Invariant: bytes from `backed` on are not the host's; `backed` never grows.
    """

    def __init__(
        self, lower: HostMapping, keep: Callable[[], bool], *, empty: bool = False
    ) -> None:
        super().__init__(lower.dev, lower.ino, keep)
        self._lower = lower
        self.backed = 0 if empty else lower.size
        self.size = self.backed

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int:
        """Fill `buffers` from the host file up to `backed`, then with zeros."""
        if offset >= self.backed:
            return super().read_backing(offset, buffers)
        done = self._lower.read_backing(offset, buffers)
        _clear_from(buffers, self.backed - offset)
        return done

    def cut(self, size: int) -> None:
        """The file is about to end at `size`: nothing above comes from the host again."""
        self.backed = min(self.backed, size)

    def blocks(self, written: Container[int]) -> int:
        """Blocks of 512 bytes that hold content."""
        lower = (self.backed + PAGE_SIZE - 1) >> PAGE_SHIFT
        above = sum(index >= lower and pfn in written for index, pfn in self.pages.items())
        return (lower + above) << PAGE_SHIFT >> 9

    def seek_data(self, offset: int, written: Container[int]) -> int | None:
        """The first byte with content at or after `offset`, None if none follows."""
        own = super().seek_data(offset, written)
        lower = self._lower.seek_data(offset) if offset < self.backed else None
        if lower is None or lower >= self.backed:
            return own
        return lower if own is None else min(own, lower)

    def seek_hole(self, offset: int, written: Container[int]) -> int:
        """The first byte without content at or after `offset`; the end is a hole."""
        while True:
            hole = super().seek_hole(offset, written)
            if hole < self.backed:
                hole = min(self._lower.seek_hole(hole), self.backed)
            if hole == offset:
                return hole
            offset = hole


class HostFiles:
    """Host files that are open for reading, at most `MAX_OPEN_HOST_FILES` of them.

    A file is opened without following a link at its end, checked to be the regular file
    that was looked up, and only then opened for reading: a FIFO or a device of the host
    is never opened, even if it took the file's name in the meantime.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[HostMapping, int] = OrderedDict()

    def get(self, mapping: HostMapping) -> int:
        """A host file descriptor for `mapping`, valid until the next call."""
        fd = self._open.get(mapping)
        if fd is not None:
            self._open.move_to_end(mapping)
            return fd
        fd = _open_checked(mapping)
        self._open[mapping] = fd
        if len(self._open) > MAX_OPEN_HOST_FILES:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return fd

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()


def _open_checked(mapping: HostMapping) -> int:
    try:
        handle = os.open(mapping.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SysError(error.errno or errno.EIO) from error
    try:
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) != (mapping.dev, mapping.ino) or not stat.S_ISREG(
            found.st_mode
        ):
            raise SysError(errno.EIO)
        return reopen(handle, os.O_RDONLY)
    finally:
        os.close(handle)


def reopen(handle: int, flags: int) -> int:
    """Open what an O_PATH descriptor refers to, without touching its access time where
    that is allowed. Raises `SysError` with the host's errno."""
    link = f"/proc/self/fd/{handle}"
    flags |= os.O_CLOEXEC
    try:
        return os.open(link, flags | os.O_NOATIME)
    except PermissionError:
        pass  # O_NOATIME is the owner's right only
    except OSError as error:
        raise SysError(error.errno or errno.EIO) from error
    try:
        return os.open(link, flags)
    except OSError as error:
        raise SysError(error.errno or errno.EIO) from error


def _preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
    try:
        return os.preadv(fd, buffers, offset)
    except OSError as error:
        raise SysError(error.errno or errno.EIO) from error


def _clear_from(buffers: list[memoryview], start: int) -> None:
    """Zero all bytes of `buffers` from the `start`th on."""
    for buffer in buffers:
        if start < len(buffer):
            first = max(start, 0)
            buffer[first:] = bytes(len(buffer) - first)
        start -= len(buffer)
