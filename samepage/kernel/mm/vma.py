"""Virtual memory areas: what a range of addresses of one process means.

A `Vma` is plain data; the set of them is kept sorted by address in `VmaSet`, which also
does what Linux does to neighbours: `split` at an address, and `merge` where flags, file
and offset continue (`can_vma_merge_before` and `can_vma_merge_after` in mm/vma.c).
"""

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from samepage.hardware.ram import PAGE_SHIFT


class MappedFile(Protocol):
    """What memory management needs of an inode.

    `pages` maps the index of a file page to its frame; it is the page cache, and only
    `page_cache` changes it. `read_backing` fills buffers from a byte offset with what the
    storage holds, and zeros past its end.
    """

    dev: int
    ino: int
    size: int
    pages: dict[int, int]

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int: ...


class VmFlags(enum.IntFlag):
    """`vm_flags`, with Linux's values (include/linux/mm.h)."""

    READ = 0x1
    WRITE = 0x2
    EXEC = 0x4
    SHARED = 0x8
    MAYREAD = 0x10
    MAYWRITE = 0x20
    MAYEXEC = 0x40
    MAYSHARE = 0x80
    GROWSDOWN = 0x100
    PFNMAP = 0x400
    LOCKED = 0x2000
    DONTCOPY = 0x20000
    DONTEXPAND = 0x40000
    ACCOUNT = 0x100000
    NORESERVE = 0x200000
    DONTDUMP = 0x4000000
    WIPEONFORK = 0x2000000


ACCESS_FLAGS = VmFlags.READ | VmFlags.WRITE | VmFlags.EXEC


@dataclass(slots=True, eq=False)
class Vma:
    """Addresses from `start` up to `end` (bytes, page-aligned).

    `file` and `pgoff` (pages) say what backs it; without a file it is anonymous.
    `special` names pages that the kernel installs: `[vdso]`, `[vvar]`. `anon_vma` is true
    once a page of it was written privately: from then on fork copies its page tables.

    Invariants: start < end; VMAs of one address space never overlap.
    """

    start: int
    end: int
    flags: VmFlags
    file: Any = None
    pgoff: int = 0
    path: str = ""
    special: str = ""
    anon_vma: bool = False

    @property
    def pages(self) -> int:
        """The length in pages."""
        return (self.end - self.start) >> PAGE_SHIFT

    @property
    def shared(self) -> bool:
        """Writes go to the file (or to the shared anonymous memory) itself."""
        return bool(self.flags & VmFlags.SHARED)

    def index(self, address: int) -> int:
        """The file page that `address` shows."""
        return self.pgoff + ((address - self.start) >> PAGE_SHIFT)

    def continues(self, other: "Vma") -> bool:
        """Whether `other`, which starts where this one ends, may become part of it."""
        return (
            self.end == other.start
            and self.flags == other.flags
            and self.file is other.file
            and not self.special
            and not other.special
            and (self.file is None or self.pgoff + self.pages == other.pgoff)
        )


class VmaSet:
    """The VMAs of one address space, sorted, without overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def find(self, address: int) -> Vma | None:
        """The VMA that contains `address` (`vma_lookup`)."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address < self._vmas[at].end:
            return self._vmas[at]
        return None

    def next_from(self, address: int) -> Vma | None:
        """The first VMA that ends above `address` (`find_vma`)."""
        at = bisect_right(self._starts, address)
        if at and address < self._vmas[at - 1].end:
            return self._vmas[at - 1]
        return self._vmas[at] if at < len(self._vmas) else None

    def before(self, address: int) -> Vma | None:
        """The last VMA that starts below `address`."""
        at = bisect_left(self._starts, address)
        return self._vmas[at - 1] if at else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs that have an address in [start, end)."""
        first = bisect_right(self._starts, start)
        if first and self._vmas[first - 1].end > start:
            first -= 1
        return self._vmas[first : bisect_left(self._starts, end)]

    def insert(self, vma: Vma) -> None:
        """Add a VMA to a free range, without merging."""
        at = bisect_left(self._starts, vma.start)
        self._starts.insert(at, vma.start)
        self._vmas.insert(at, vma)

    def remove(self, vma: Vma) -> None:
        """Take a VMA out."""
        at = bisect_left(self._starts, vma.start)
        del self._starts[at], self._vmas[at]

    def set_start(self, vma: Vma, start: int) -> None:
        """Move a VMA's start, within its neighbours' bounds; pgoff stays as it is."""
        self._starts[bisect_left(self._starts, vma.start)] = start
        vma.start = start

    def split(self, vma: Vma, address: int) -> Vma:
        """Cut `vma` in two at `address`; return the upper part (`split_vma`)."""
        upper = replace(vma, start=address)
        if vma.file is not None:
            upper.pgoff = vma.index(address)
        vma.end = address
        self.insert(upper)
        return upper

    def isolate(self, start: int, end: int) -> list[Vma]:
        """Split so that no VMA crosses `start` or `end`; return those inside."""
        for edge in (start, end):
            vma = self.find(edge)
            if vma is not None and vma.start < edge:
                self.split(vma, edge)
        return self.overlapping(start, end)

    def merge(self, vma: Vma) -> Vma:
        """Join `vma` with its neighbours where they continue each other; return the whole.

        Two anonymous neighbours that each have an anon_vma of their own stay apart
        (`is_mergeable_anon_vma`).
        """
        previous = self.before(vma.start)
        if previous is not None and _mergeable(previous, vma):
            self.remove(vma)
            previous.end = vma.end
            previous.anon_vma |= vma.anon_vma
            vma = previous
        following = self.find(vma.end)
        if following is not None and _mergeable(vma, following):
            self.remove(following)
            vma.end = following.end
            vma.anon_vma |= following.anon_vma
        return vma


def _mergeable(lower: Vma, upper: Vma) -> bool:
    return lower.continues(upper) and not (lower.anon_vma and upper.anon_vma)
