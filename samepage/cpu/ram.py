"""Physical memory: one block of bytes, cut into frames.

What the block is made of is the engine's choice: a mapping of the host's that only this
process has, or a memfd that another process maps too. It has two views of the same bytes:
`bytes` for the contents of pages, and `words` (64 bits each) for page-table entries. Frame 0
exists but is never handed out, and is all zeros: physical address 0 in a page table then always
means "no table".
"""

import ctypes
import mmap
from collections.abc import Callable
from contextlib import suppress

from samepage.abi.mman import MapFlags
from samepage.arch import PAGE_SHIFT, PAGE_SIZE

WORDS_PER_PAGE = PAGE_SIZE // 8
ZERO_PAGE = bytes(PAGE_SIZE)


def private_block(size: int) -> mmap.mmap:
    """Anonymous memory of this process: frames that were never touched cost the host nothing.
    In huge pages where the host has them, since programs touch hundreds of frames, and each
    would be a page fault of the host."""
    block = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MapFlags.NORESERVE)
    with suppress(OSError):  # a host without them
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


class Ram:
    """`size` bytes of physical memory; the size is rounded down to whole frames.

    `make_block` gets that size, and returns a block of zeros: `private_block`, or a mapping of
    a file that an engine shares with other processes. Raises `ValueError` if there is less than
    one usable frame.
    """

    def __init__(self, size: int, make_block: Callable[[int], mmap.mmap] = private_block) -> None:
        self.n_frames = size >> PAGE_SHIFT
        if self.n_frames < 2:
            raise ValueError("RAM must hold at least two frames")
        self.size = self.n_frames << PAGE_SHIFT
        self._block = make_block(self.size)
        self.bytes = memoryview(self._block)
        self.words = self.bytes.cast("Q")

    @property
    def host_address(self) -> int:
        """Where the block starts in this (host) process, for an engine that maps it."""
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
