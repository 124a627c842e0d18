"""Character devices of the model: null, zero, full, random, urandom, tty.

The host's devices are never opened. A device node is found by its number (`rdev`), wherever
it lies; a number without a driver gives ENXIO.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path

Opener = Callable[[Path, int], OpenFile]
Drivers = dict[int, Opener]
"""Device number -> what opens it."""

NULL, ZERO, FULL = os.makedev(1, 3), os.makedev(1, 5), os.makedev(1, 7)
RANDOM, URANDOM = os.makedev(1, 8), os.makedev(1, 9)
TTY = os.makedev(5, 0)


class Device(Inode):
    """A device node (`init_special_inode`)."""

    def __init__(self, sb: Superblock, mode: int, drivers: Drivers, rdev: int = 0) -> None:
        super().__init__(sb, mode, rdev=rdev)
        self._drivers = drivers

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open by number. Raises `SysError(ENXIO)` if there is no driver."""
        opener = self._drivers.get(self.rdev)
        if opener is None or not self.mode & 0o020000:
            raise SysError(errno.ENXIO)
        return opener(path, flags)

    def truncate(self, size: int) -> None:
        """`truncate` of a device is an error, O_TRUNC is ignored."""
        raise SysError(errno.EINVAL)


class NullFile(OpenFile):
    """`/dev/null`: nothing to read, everything may be written."""

    def _read_at(self, length: int, offset: int) -> bytes:
        return b""

    def _write_at(self, data: bytes, offset: int) -> int:
        return len(data)

    def write_unseen(self, length: int) -> int | None:
        """All of it (`write_null`)."""
        return length

    def lseek(self, offset: int, whence: int) -> int:
        """Always 0 (`null_lseek`)."""
        self.pos = 0
        return 0


class ZeroFile(NullFile):
    """`/dev/zero`: zeros; mapping it gives anonymous memory."""

    @property
    def maps_anonymous(self) -> bool:
        """Yes (`mmap_zero`)."""
        return True

    def _read_at(self, length: int, offset: int) -> bytes:
        return bytes(length)


class FullFile(ZeroFile):
    """`/dev/full`: zeros to read, no space to write."""

    @property
    def maps_anonymous(self) -> bool:
        """No: only zero can be mapped."""
        return False

    def _write_at(self, data: bytes, offset: int) -> int:
        raise SysError(errno.ENOSPC)

    def write_unseen(self, length: int) -> int | None:
        """Raises `SysError(ENOSPC)` (`write_full`)."""
        raise SysError(errno.ENOSPC)


class RandomFile(OpenFile):
    """`/dev/random` and `/dev/urandom`: bytes of the machine's generator, the same in
    every run with the same seed."""

    def __init__(self, path: Path, flags: int, generator: random.Random) -> None:
        super().__init__(path, flags)
        self.pollable = self.inode.rdev == RANDOM  # `urandom_fops` has no poll
        self._generator = generator

    def _read_at(self, length: int, offset: int) -> bytes:
        return self._generator.randbytes(length)

    def _write_at(self, data: bytes, offset: int) -> int:
        return len(data)  # would be mixed in; the sequence stays that of the seed

    def lseek(self, offset: int, whence: int) -> int:
        """Accepted and without effect (`noop_llseek`)."""
        return self.pos


def memory_drivers(generator: random.Random) -> Drivers:
    """The drivers of major number 1."""

    def open_random(path: Path, flags: int) -> OpenFile:
        return RandomFile(path, flags, generator)

    return {
        NULL: NullFile,
        ZERO: ZeroFile,
        FULL: FullFile,
        RANDOM: open_random,
        URANDOM: open_random,
    }
