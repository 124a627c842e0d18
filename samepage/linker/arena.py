"""Memory for the private copies of segments, in huge pages.

A program with its libraries has thousands of pages of data. The kernel takes 0.7
microseconds to give out a page of 4 KiB, and more to copy one that is stored to; a page of
2 MiB costs a tenth of the 512 small ones (where the kernel grants them: see
/sys/kernel/mm/transparent_hugepage/enabled, "always" or "madvise").
"""

import mmap
import os

from samepage.abi.mman import MapFlags

_CHUNK = 64 << 20
"""Bytes of address space that are taken at a time; untouched, they are no memory."""

_ALIGN = 64


class Arena:
    """Gives out memory that is never given back to it: it lives as long as any view of it."""

    __slots__ = ("_at", "_chunk", "_view")

    def __init__(self) -> None:
        self._chunk: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._at = 0

    def take(self, length: int) -> tuple[mmap.mmap, int]:
        """A buffer, and where in it `length` bytes are that are zero and not used otherwise."""
        at = (self._at + _ALIGN - 1) & -_ALIGN
        if self._chunk is None or at + length > len(self._chunk):
            at = 0
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MapFlags.NORESERVE
            self._chunk = mmap.mmap(-1, max(_CHUNK, length), flags)
            self._chunk.madvise(mmap.MADV_HUGEPAGE)
            self._view = memoryview(self._chunk)
        self._at = at + length
        return self._chunk, at

    def read(self, fd: int, offset: int, length: int) -> tuple[mmap.mmap, int, int]:
        """Take memory and read a part of a file into it; also returns how much there was."""
        buffer, at = self.take(length)
        return buffer, at, os.preadv(fd, [self._view[at : at + length]], offset)
