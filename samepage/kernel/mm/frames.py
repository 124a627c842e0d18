"""Physical frames: which are free, and how often each is used.

The allocator hands out frames from a stack of freed ones, and else from the untouched end
of RAM, so that a large RAM costs nothing until it is used. Every frame has a reference
count and a map count, as `struct page` has:

- `references`: how many owners keep the frame allocated: each page table entry that maps
  it, plus the page cache if it is a file's page, plus one for a page table or the kernel.
- `mapcount`: how many page table entries map it (`_mapcount`).
- `exclusive`: 1 for an anonymous frame that certainly one process alone owns
  (`PageAnonExclusive`): set when the frame is made, taken away by fork, and given back by
  the write fault that finds the others gone.

Invariants: a frame is free if and only if its reference count is 0; `mapcount` is never
larger than `references`; a free frame is in no page table; an exclusive frame is
anonymous and mapped at most once.
"""

import enum
import mmap
from collections.abc import Callable, Iterable

from samepage.cpu.ram import Ram


class OutOfFrames(Exception):
    """No frame is free, and none could be reclaimed; the kernel's OOM path takes over."""


class FrameKind(enum.IntEnum):
    """What a frame holds."""

    FREE = 0
    KERNEL = 1
    """The kernel's own, also the `[vvar]` pages that it shows to programs."""
    PAGE_TABLE = 2
    ANONYMOUS = 3
    FILE = 4
    ZERO = 5
    VDSO = 6
    SHMEM = 7
    """A page of shared anonymous memory (tmpfs): it has no storage to come back from."""


_FREE = int(FrameKind.FREE)


class Frames:
    """The frame allocator of one machine.

    `reclaim` is called when nothing is free; it returns how many frames it freed.
    `rewrite` is called with a frame that is about to get new content.
    """

    def __init__(self, ram: Ram, rewrite: Callable[[int], None]) -> None:
        self.ram = ram
        self.reclaim: Callable[[], int] = lambda: 0
        self.rewrite = rewrite
        self._free: list[int] = []
        self._next = 1
        # Anonymous mappings of the host: zero pages until a frame is used.
        count = ram.n_frames
        self.references = memoryview(mmap.mmap(-1, 4 * count)).cast("i")
        self.mapcount = memoryview(mmap.mmap(-1, 4 * count)).cast("i")
        self.kinds = memoryview(mmap.mmap(-1, count))
        self.exclusive = memoryview(mmap.mmap(-1, count))
        self.lazy: set[int] = set()
        """Anonymous frames that reclaim may take: those given up by MADV_FREE while their
        entry is still clean, those of MAP_DROPPABLE always."""
        self.zero_pfn = self.allocate(FrameKind.ZERO)
        ram.clear(self.zero_pfn)

    @property
    def n_free(self) -> int:
        """Frames that can be allocated without reclaim."""
        return len(self._free) + self.ram.n_frames - self._next

    @property
    def n_touched(self) -> int:
        """All frames from this one on were never allocated."""
        return self._next

    @property
    def n_used(self) -> int:
        """Frames in use, the zero page included, frame 0 not."""
        return self._next - 1 - len(self._free)

    def allocate(self, kind: int) -> int:
        """Take a frame of a `FrameKind`, with one reference and undefined content.

        Raises `OutOfFrames`.
        """
        while True:
            if self._free:
                pfn = self._free.pop()
                self.rewrite(pfn)
                break
            if self._next < self.ram.n_frames:
                pfn = self._next
                self._next += 1
                break
            if not self.reclaim():
                raise OutOfFrames
        self.references[pfn] = 1
        self.kinds[pfn] = kind
        return pfn

    def allocate_many(self, kind: int, count: int) -> list[int]:
        """Take `count` frames as `allocate` does, fewer if there are no more."""
        pfns: list[int] = []
        try:
            for _ in range(count):
                pfns.append(self.allocate(kind))
        except OutOfFrames:
            pass
        return pfns

    def allocate_zeroed(self, kind: int) -> int:
        """Take a frame filled with zeros. Raises `OutOfFrames`."""
        pfn = self.allocate(kind)
        self.ram.clear(pfn)
        return pfn

    def put(self, pfn: int) -> None:
        """Drop one reference; the last one frees the frame (`put_page`)."""
        left = self.references[pfn] - 1
        self.references[pfn] = left
        if left == 0:
            self._release(pfn)

    def _release(self, pfn: int) -> None:
        self.kinds[pfn] = _FREE
        self.exclusive[pfn] = 0
        if self.lazy:
            self.lazy.discard(pfn)
        self._free.append(pfn)

    def map(self, pfn: int) -> None:
        """Count one more page table entry for the frame."""
        self.references[pfn] += 1
        self.mapcount[pfn] += 1

    def unmap(self, pfn: int) -> None:
        """Count one page table entry less; frees the frame if nothing else holds it."""
        self.mapcount[pfn] -= 1
        self.put(pfn)

    def unmap_all(self, pfns: Iterable[int]) -> None:
        """`unmap` each frame of a list: the inner loop of munmap and exit."""
        references, mapcount = self.references, self.mapcount
        for pfn in pfns:
            mapcount[pfn] -= 1
            left = references[pfn] - 1
            references[pfn] = left
            if not left:
                self._release(pfn)
