"""One process's memory: its VMAs, its page tables and its counters (`mm_struct`).

Invariants, held after every operation:
- a present entry lies inside a VMA;
- `rss` counts the present entries by kind, the zero page and special pages not counted;
- every present entry holds one reference and one mapcount of its frame.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from samepage.hardware.paging import Pte
from samepage.hardware.ram import PAGE_SHIFT
from samepage.kernel.mm.frames import FrameKind, Frames
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.page_table import PageTable
from samepage.kernel.mm.vma import Vma, VmaSet, VmFlags

STACK_TOP = 0x7FFF_FFFF_F000
MMAP_BASE = 0x7FFF_F7FF_F000
"""The stack's top less 128 MiB of gap (`mmap_base` with an 8 MiB stack limit)."""
MMAP_MIN_ADDR = 0x10000
STACK_GUARD_GAP = 256 << PAGE_SHIFT


class RssKind(enum.IntEnum):
    """What a resident page counts as (`MM_FILEPAGES` and so on)."""

    FILE = 0
    ANON = 1
    SHMEM = 2


class EventKind(enum.Enum):
    """What the timeline tells."""

    MMAP = "mmap"
    MUNMAP = "munmap"
    MPROTECT = "mprotect"
    BRK = "brk"
    FILE_READ = "file read fault"
    COW = "copy-on-write"
    REUSE = "write, page reused"
    ANON = "anonymous page"
    ZERO = "zero page"
    SHARED = "shared write fault"
    SPECIAL = "special page"
    STACK = "stack growth"


@dataclass(slots=True, frozen=True)
class Event:
    """One thing that happened to an address space. `count` is in pages."""

    kind: EventKind
    address: int
    count: int = 1
    frame: int = 0
    file: str = ""
    index: int = 0
    cached: bool = True


@dataclass(slots=True)
class FaultCounts:
    """`min_flt` and `maj_flt`."""

    minor: int = 0
    major: int = 0


@dataclass(slots=True)
class Brk:
    """The heap: `start` is fixed by exec, `end` is what `brk` moves (bytes)."""

    start: int = 0
    end: int = 0


class AddressSpace:
    """The memory of one process, or of several that share it (vfork, CLONE_VM).

    `flush_tlb` is called whenever rights or pages were taken away; `emit` gets the events.
    """

    def __init__(
        self,
        frames: Frames,
        cache: PageCache,
        flush_tlb: Callable[[], None],
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        self.frames = frames
        self.cache = cache
        self.flush_tlb = flush_tlb
        self.emit = emit
        self.vmas = VmaSet()
        self.table = PageTable(frames)
        self.rss = [0, 0, 0]
        self.faults = FaultCounts()
        self.brk = Brk()
        self.users = 1
        self.special_pages: dict[tuple[str, int], int] = {}
        """(name, page index) -> frame, for `[vdso]` and its like."""
        self.stack_limit = 8 << 20

    @property
    def rss_pages(self) -> int:
        """Resident pages, as VmRSS counts them."""
        return sum(self.rss)

    @property
    def virtual_pages(self) -> int:
        """Mapped pages, resident or not (`total_vm`)."""
        return sum(vma.pages for vma in self.vmas)

    def rss_kind(self, vma: Vma, pfn: int) -> RssKind | None:
        """How a mapped frame counts; None for the zero page and special pages."""
        kind = self.frames.kinds[pfn]
        if kind == FrameKind.ANONYMOUS:
            return RssKind.ANON
        if kind == FrameKind.FILE:
            return RssKind.SHMEM if getattr(vma.file, "shmem", False) else RssKind.FILE
        return None

    def set_pte(self, vma: Vma, slot: int, pfn: int, flags: int) -> None:
        """Fill an empty entry with a frame, and count it."""
        self.frames.ram.words[slot] = pfn << PAGE_SHIFT | flags | Pte.PRESENT | Pte.USER
        self.frames.map(pfn)
        kind = self.rss_kind(vma, pfn)
        if kind is not None:
            self.rss[kind] += 1

    def clear_pte(self, vma: Vma, slot: int) -> None:
        """Empty a present entry; a dirty one leaves its mark on the file page."""
        entry = self.frames.ram.words[slot]
        pfn = (entry & Pte.FRAME) >> PAGE_SHIFT
        self.frames.ram.words[slot] = 0
        kind = self.rss_kind(vma, pfn)
        if kind is not None:
            self.rss[kind] -= 1
            if kind is not RssKind.ANON and entry & Pte.DIRTY:
                self.cache.dirty.add(pfn)
        self.frames.unmap(pfn)

    def zap(self, vma: Vma, start: int, end: int) -> None:
        """Drop the pages of [start, end), which lies in `vma` (`zap_page_range`)."""
        for _, slot, _ in self.table.present(start, end):
            self.clear_pte(vma, slot)

    def destroy(self) -> None:
        """Give everything back (`exit_mmap`)."""
        for vma in list(self.vmas):
            self.zap(vma, vma.start, vma.end)
            self.vmas.remove(vma)
        self.table.free_tables(0, 1 << 47, 0, 1 << 47)
        self.table.destroy()


def page_flags(vma: Vma) -> int:
    """The PTE bits that a VMA's rights give, without WRITE: a fault decides on that."""
    return 0 if vma.flags & VmFlags.EXEC else Pte.NX
