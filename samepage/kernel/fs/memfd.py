"""memfd: a file in memory without a name, which can be sealed (mm/memfd.c)."""

import errno
import os

from samepage.abi.fcntl import O_LARGEFILE
from samepage.kernel.errors import SysError
from samepage.kernel.fs.inode import Superblock
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.regular import F_SEAL_SEAL, Regular, RegularFile

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL, MFD_EXEC = 1, 2, 8, 16
KNOWN_FLAGS = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC
F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 2, 4, 8
F_SEAL_FUTURE_WRITE, F_SEAL_EXEC = 16, 32
ALL_SEALS = 63
NAME_LIMIT = 249


class Memfd(Regular):
    """The inode, whose `seals` can be added to."""

    seals: int

    @property
    def write_sealed(self) -> bool:
        """Whether a seal forbids writing."""
        return bool(self.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))

    def add_seals(self, seals: int) -> None:
        """F_ADD_SEALS. Raises `SysError` with EINVAL, or EPERM if sealing is over.

        A writable shared mapping forbids F_SEAL_WRITE (EBUSY): the caller knows of those.
        """
        if seals & ~ALL_SEALS:
            raise SysError(errno.EINVAL)
        if self.seals & F_SEAL_SEAL:
            raise SysError(errno.EPERM)
        self.seals |= seals

    def truncate(self, size: int) -> None:
        """Change the length. Raises `SysError(EPERM)` if a seal forbids it."""
        if (size < self.size and self.seals & F_SEAL_SHRINK) or (
            size > self.size and self.seals & F_SEAL_GROW
        ):
            raise SysError(errno.EPERM)
        super().truncate(size)

    def open(self, path: Path, flags: int) -> RegularFile:
        """Open it once more, as by /proc/self/fd."""
        if flags & os.O_TRUNC:
            self.truncate(0)
        return MemfdFile(path, flags)


class MemfdFile(RegularFile):
    """An open memfd."""

    inode: Memfd

    def _write_at(self, data: bytes, offset: int) -> int:
        if self.inode.write_sealed:
            raise SysError(errno.EPERM)
        if self.inode.seals & F_SEAL_GROW:
            data = data[: max(self.inode.size - offset, 0)]
            if not data:
                raise SysError(errno.EPERM)
        return super()._write_at(data, offset)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """As for any file, within the seals. Raises `SysError(EPERM)` beyond them."""
        if mode & ~1 and self.inode.write_sealed:
            raise SysError(errno.EPERM)
        super().fallocate(mode, offset, length)


class CreatedMemfd(MemfdFile):
    """What memfd_create returns. It was not opened (`alloc_file_pseudo`), so it does not take the
    write access that forbids execution; one opened by /proc/self/fd does."""

    takes_write_access = False


def make_memfd(sb: Superblock, name: bytes, flags: int) -> MemfdFile:
    """`memfd_create`. Raises `SysError(EINVAL)`; huge pages are not supported."""
    both = MFD_NOEXEC_SEAL | MFD_EXEC
    if flags & ~KNOWN_FLAGS or len(name) > NAME_LIMIT or flags & both == both:
        raise SysError(errno.EINVAL)
    mode = 0o666 if flags & MFD_NOEXEC_SEAL else 0o777
    inode = Memfd(sb, mode, nlink=0)
    if flags & MFD_NOEXEC_SEAL:
        inode.seals = F_SEAL_EXEC
    elif flags & MFD_ALLOW_SEALING:
        inode.seals = 0
    path = Path(inode, b"/memfd:" + name + b" (deleted)", mount_id=0)
    return CreatedMemfd(path, os.O_RDWR | O_LARGEFILE)
