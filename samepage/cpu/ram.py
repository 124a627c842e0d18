"""Physical memory: one block of bytes, cut into frames of 4 KiB.

The block is an anonymous mapping of the host, so that frames which nobody has touched
cost the host nothing; in huge pages where the host gives them, since programs touch hundreds
of frames, and each would be a page fault of the host. It has two views of the same bytes:
`bytes` for the contents of pages, and `words` (64 bits each) for page-table entries. Frame 0
exists but is never handed out: physical address 0 in a page table then always means "no table".
"""

import ctypes
import mmap
from contextlib import suppress

from samepage.abi.mman import MapFlags

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = ~(PAGE_SIZE - 1)
WORDS_PER_PAGE = PAGE_SIZE // 8
ZERO_PAGE = bytes(PAGE_SIZE)


class Ram:
    """`size` bytes of physical memory; the size is rounded down to whole frames.

    Raises `ValueError` if that leaves less than one usable frame.
    """

    def __init__(self, size: int) -> None:
        self.n_frames = size >> PAGE_SHIFT
        if self.n_frames < 2:
            raise ValueError("RAM must hold at least two frames")
        self.size = self.n_frames << PAGE_SHIFT
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MapFlags.NORESERVE
        self._block = mmap.mmap(-1, self.size, flags)
        with suppress(OSError):  # a host without them
            self._block.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = memoryview(self._block)
        self.words = self.bytes.cast("Q")

    @property
    def host_address(self) -> int:
        """Where the block starts in this (host) process, for a CPU that maps it."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._block))

    def frame(self, pfn: int, count: int = 1) -> memoryview:
        """The bytes of `count` frames from `pfn` on; writing to the view writes to RAM."""
        start = pfn << PAGE_SHIFT
        return self.bytes[start : start + (count << PAGE_SHIFT)]

    def clear(self, pfn: int) -> None:
        """Fill a frame with zeros."""
        start = pfn << PAGE_SHIFT
        self.bytes[start : start + PAGE_SIZE] = ZERO_PAGE

    def copy(self, source: int, target: int) -> None:
        """Copy the frame `source` to the frame `target`."""
        start, end = target << PAGE_SHIFT, source << PAGE_SHIFT
        self.bytes[start : start + PAGE_SIZE] = self.bytes[end : end + PAGE_SIZE]
