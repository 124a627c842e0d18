"""Regular files: read and written through the page cache, so that mmap sees the same."""

from __future__ import annotations

import errno
import os
import stat
import struct

from samepage.arch import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import (
    FIGETBSZ,
    FIONREAD,
    MAX_LFS_FILESIZE,
    OpenFile,
)
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.mapping import (
    Mapping,
    MemoryMapping,
    ShmemMapping,
)
from samepage.kernel.fs.path import Path
from samepage.kernel.mm.writeback import write_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.file import UserMemory


F_SEAL_SEAL = 1
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16
ZEROS = bytes(1 << 16)


class Regular(Inode):
    """A regular file.

    Invariant: a file that is open for writing has a `MemoryMapping`, never the host's.
    """

    mapping: Mapping

    def __init__(
        self, sb: Superblock, mode: int, mapping: Mapping | None = None, *, nlink: int = 1
    ) -> None:
        super().__init__(sb, stat.S_IFREG | stat.S_IMODE(mode), nlink=nlink)
        self.mapping = mapping or self._new_mapping()
        if self.mapping.shmem:
            self.seals = F_SEAL_SEAL
        self.opened = 0
        """How many open files there are."""

    def add_seals(self, seals: int) -> None:
        """F_ADD_SEALS. Only a memfd can be sealed: a file of a tmpfs was at birth, against
        seals (`__shmem_get_inode`)."""
        raise SysError(errno.EINVAL if self.seals is None else errno.EPERM)

    def _new_mapping(self) -> MemoryMapping:
        kind = ShmemMapping if self.sb.type_name == "tmpfs" else MemoryMapping
        return kind(self.dev, self.ino, self._is_kept)

    def _is_kept(self) -> bool:
        """Whether a name or an open file keeps the content."""
        return self.nlink > 0 or self.opened > 0 or self.executing > 0

    @property
    def size(self) -> int:
        """The length in bytes."""
        return self.mapping.size

    @property
    def blocks(self) -> int:
        """Allocated blocks of 512 bytes."""
        return self.mapping.blocks(self.sb.cache.written)

    def copy_up(self, *, empty: bool = False) -> MemoryMapping:
        """Make the content changeable, and return it (`ovl_copy_up`)."""
        self.mapping = changeable = self.mapping.copy_up(self._is_kept, empty=empty)
        return changeable

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it, copied up if for writing. Raises `SysError(ETXTBSY)`."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            if self.executing:
                raise SysError(errno.ETXTBSY)
            if flags & os.O_TRUNC:
                self.truncate(0)
            self.copy_up()
        return RegularFile(path, flags)

    def truncate(self, size: int) -> None:
        """Change the length; new bytes are zero. Raises `SysError` with EINVAL or EFBIG."""
        if size < 0:
            raise SysError(errno.EINVAL)
        if size > MAX_LFS_FILESIZE:
            raise SysError(errno.EFBIG)
        mapping = self.copy_up(empty=size == 0)
        self.sb.cache.truncate(mapping, size)
        mapping.cut(size)
        self.touch()

    def dropped(self) -> None:
        """A name or an open file went: without any, and unless it is mapped, the content goes
        too."""
        self.sb.cache.release(self.mapping)


class RegularFile(OpenFile):
    """An open regular file.

    `read` and `write` use the inode's content as it is now; `mmap` takes the content that
    the file had when it was opened, which differs after a copy-up (`ovl_mmap`).
    """

    paged = True
    inode: Regular
    takes_write_access = True
    """Whether a program that it may write to cannot be executed meanwhile (`FMODE_WRITER`)."""

    def __init__(self, path: Path, flags: int) -> None:
        super().__init__(path, flags)
        self._mapping = self.inode.mapping
        self.inode.opened += 1
        self.inode.writers += self.writable and self.takes_write_access

    @property
    def mappable(self) -> Mapping:
        """The content that mmap maps."""
        return self._mapping

    def _read_at(self, length: int, offset: int) -> bytes:
        return self.inode.sb.cache.read(self.inode.mapping, offset, length, self.ra)

    def _write_at(self, data: bytes, offset: int) -> int:
        if offset + len(data) > MAX_LFS_FILESIZE:
            raise SysError(errno.EFBIG)
        if not data:
            return 0
        mapping = self.inode.mapping
        if offset > mapping.size:
            self.inode.truncate(offset)
        done = self.inode.sb.cache.write(mapping, offset, data)
        self._changed()
        if self.flags & os.O_DSYNC:
            first, last = offset >> PAGE_SHIFT, (offset + done - 1) >> PAGE_SHIFT
            write_back(self.inode.sb.cache, mapping, first, last + 1)  # `generic_write_sync`
        return done

    def _changed(self) -> None:
        self.inode.touch()
        if not self.privileged:
            self.inode.remove_privileges()

    def _seek_target(self, offset: int, whence: int) -> int:
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            return super()._seek_target(offset, whence)
        mapping, written = self.inode.mapping, self.inode.sb.cache.written
        if not 0 <= offset < mapping.size:
            raise SysError(errno.ENXIO)
        if whence == os.SEEK_HOLE:
            return min(mapping.seek_hole(offset, written), mapping.size)
        place = mapping.seek_data(offset, written)
        if place is None or place >= mapping.size:
            raise SysError(errno.ENXIO)
        return place

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """FIONREAD and FIGETBSZ (`do_vfs_ioctl`)."""
        if request == FIONREAD:
            left = self.inode.size - self.pos
            memory.write(argument, struct.pack("<i", max(min(left, 0x7FFF_FFFF), -(1 << 31))))
            return 0
        if request == FIGETBSZ:
            memory.write(argument, struct.pack("<i", self.inode.blksize))
            return 0
        return super().ioctl(request, argument, memory)

    def ftruncate(self, size: int) -> None:
        """Change the length. Raises `SysError(EINVAL)` if not open for writing."""
        if not self.writable:
            raise SysError(errno.EINVAL)
        self.inode.truncate(size)
        self._changed()

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Extend, or zero a range. Space itself is not reserved: RAM is given when written.

        Raises `SysError` with EFBIG or EOPNOTSUPP.
        """
        if offset + length > MAX_LFS_FILESIZE:
            raise SysError(errno.EFBIG)
        keep = mode & FALLOC_FL_KEEP_SIZE
        action = mode & ~FALLOC_FL_KEEP_SIZE
        if action not in (0, FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE) or (
            action == FALLOC_FL_PUNCH_HOLE and not keep
        ):
            raise SysError(errno.EOPNOTSUPP)
        end = offset + length
        if action:
            self._zero(offset, min(end, self.inode.size))
        if not keep and end > self.inode.size:
            self.inode.truncate(end)
        self._changed()

    def _zero(self, start: int, end: int) -> None:
        """Make [start, end) zero: whole pages without storage behind them go, others are
        overwritten."""
        mapping, cache = self.inode.copy_up(), self.inode.sb.cache
        first = max(start, mapping.backed)
        first = min((first + PAGE_SIZE - 1) & PAGE_MASK, end)
        last = max(end & PAGE_MASK, first)
        cache.punch(mapping, first >> PAGE_SHIFT, last >> PAGE_SHIFT)
        for position, stop in ((start, first), (last, end)):
            while position < stop:
                size = min(stop - position, len(ZEROS))
                position += cache.write(mapping, position, ZEROS[:size])

    def fsync(self) -> None:
        """Make the file's pages clean."""
        write_back(self.inode.sb.cache, self.inode.mapping)

    def release(self) -> None:
        """The last descriptor is closed, which may free a file without a name."""
        self.inode.opened -= 1
        self.inode.writers -= self.writable and self.takes_write_access
        self.inode.dropped()
