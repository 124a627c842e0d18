"""One process's memory: its VMAs, its page tables and its counters (`mm_struct`).

Invariants, held after every operation:
- a present entry lies inside a VMA;
- `rss` counts the present entries by kind, the zero page and `[vvar]` not counted;
- every present entry holds one reference and one mapcount of its frame.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from samepage.abi.resource import RLIM_INFINITY
from samepage.arch import (
    ADDRESS_LIMIT,
    PAGE_SHIFT,
    PROTECTION_MAP,
    mk_pte,
    mmap_base,
    pte_dirty,
    pte_mkwrite,
    pte_pfn,
)
from samepage.arch.arch import STACK_GUARD_PAGES
from samepage.kernel.mm.frames import FrameKind, Frames
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.page_table import PageTable
from samepage.kernel.mm.vma import ACCESS_FLAGS, Vma, VmaSet, VmFlags
from samepage.kernel.rules import NEWEST, KernelRules
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from samepage.cpu.engine import MmuContext

    class ExecutableFile(Protocol):
        """A file that counts the address spaces whose program it is."""

        executing: int

    class MmuContexts(Protocol):
        """What an address space needs of the engine."""

        def new_context(self, root: int) -> MmuContext:
            """Begin an address space whose top table is the frame `root`."""


MMAP_MIN_ADDR = 0x10000
"""Where the kernel itself puts nothing below (CONFIG_LSM_MMAP_MIN_ADDR)."""
STACK_GUARD_GAP = STACK_GUARD_PAGES << PAGE_SHIFT


class RssKind(enum.IntEnum):
    """What a resident page counts as (`MM_FILEPAGES` and so on)."""

    FILE = 0
    ANON = 1
    SHMEM = 2


_RSS_OF = [-1] * (max(FrameKind) + 1)
_RSS_OF[FrameKind.FILE] = _RSS_OF[FrameKind.VDSO] = RssKind.FILE.value
_RSS_OF[FrameKind.ANONYMOUS] = RssKind.ANON.value
_RSS_OF[FrameKind.SHMEM] = RssKind.SHMEM.value
RSS_OF_KIND = tuple(_RSS_OF)
"""By frame kind: the index into `rss`, or -1 for pages that are not counted."""


class EventKind(enum.Enum):
    """What the timeline records."""

    MMAP = "mmap"
    MUNMAP = "munmap"
    MPROTECT = "mprotect"
    MREMAP = "mremap"
    MADVISE = "madvise"
    BRK = "brk"
    FORK = "fork"
    FILE_READ = "file read fault"
    COW = "copy-on-write"
    REUSE = "write, page reused"
    ANON = "anonymous page"
    ZERO = "zero page"
    SHARED = "shared write fault"
    SPECIAL = "special page"
    STACK = "stack growth"
    RECLAIM = "reclaim"


@record(frozen=True)
class Event:
    """One thing that happened to an address space. `count` is in pages."""

    kind: EventKind
    address: int
    count: int = 1
    frame: int = 0
    file: str = ""
    index: int = 0
    cached: bool = True
    """Of a fault on a file: the page cache had the page."""


@record
class FaultCounts:
    """`min_flt` and `maj_flt`: every fault that was resolved counts, those of the kernel's
    own accesses too (`mm_account_fault`)."""

    minor: int = 0
    major: int = 0


@record
class Brk:
    """The heap: `start` is fixed by exec, `end` is what `brk` moves (bytes)."""

    start: int = 0
    end: int = 0


@record
class Layout:
    """Where exec put things (the fields of `mm_struct`, shown in /proc/PID/stat)."""

    start_code: int = 0
    end_code: int = 0
    start_data: int = 0
    end_data: int = 0
    start_stack: int = 0
    arg_start: int = 0
    arg_end: int = 0
    env_start: int = 0
    env_end: int = 0


@record
class Limits:
    """What a process may take: its `RLIMIT_*` in bytes, and the system's own bounds.

    `privileged` is CAP_IPC_LOCK: memory may be locked beyond `memlock`. Nothing is
    mapped below `min_address`, which is the sysctl vm.mmap_min_addr, or 0 with CAP_SYS_RAWIO.
    """

    address_space: int = RLIM_INFINITY
    data: int = RLIM_INFINITY
    stack: int = 8 << 20
    memlock: int = 8 << 20
    max_map_count: int = 65530
    privileged: bool = False
    min_address: int = MMAP_MIN_ADDR


class AddressSpace:
    """The memory of one process, or of several that share it (vfork, CLONE_VM).

    `context` is the engine's side of it: it is notified when entries of the page table were
    taken away. `emit` gets the events.
    `faults` are the counters of the task that runs: a scheduler may put that task's own
    there. `rules` are those of the kernel's version. Raises `OutOfFrames` if there is no frame
    for the top table.
    """

    def __init__(
        self,
        frames: Frames,
        cache: PageCache,
        engine: MmuContexts,
        emit: Callable[[Event], None] | None = None,
        rules: KernelRules = NEWEST,
    ) -> None:
        self.frames = frames
        self.cache = cache
        self.engine = engine
        self.emit = emit
        self.rules = rules
        self.vmas = VmaSet()
        self.table = PageTable(frames)
        self.context = engine.new_context(self.table.root)
        self.rss = [0, 0, 0]
        self.faults = FaultCounts()
        self.brk = Brk()
        self.layout = Layout()
        self.limits = Limits()
        self.mmap_base = mmap_base(self.limits.stack)
        self.peak_rss = self.peak_virtual = 0
        """The most pages that were resident, and mapped, before some were dropped
        (`hiwater_rss`, `hiwater_vm`)."""
        self.default_flags = 0
        """Flags that every new VMA gets: what `mlockall(MCL_FUTURE)` set (`def_flags`)."""
        self.guards: set[int] = set()
        """Addresses of guard pages (see `guards`)."""
        self.users = 1
        self.special_pages: dict[tuple[str, int], int] = {}
        """(name, page index) -> frame, for `[vdso]` and its like."""
        self.executable: ExecutableFile | None = None
        """The program's file, which cannot be opened for writing meanwhile (`exe_file`)."""
        cache.spaces[self] = None

    def set_executable(self, file: ExecutableFile | None) -> None:
        """Hold another file as the program's, or none (`set_mm_exe_file`)."""
        if file is not None:
            file.executing += 1
        if self.executable is not None:
            self.executable.executing -= 1
        self.executable = file

    @property
    def rss_pages(self) -> int:
        """Resident pages, as VmRSS counts them."""
        return sum(self.rss)

    @property
    def virtual_pages(self) -> int:
        """Mapped pages, resident or not (`total_vm`)."""
        return sum(vma.pages for vma in self.vmas)

    @property
    def data_pages(self) -> int:
        """Pages of private writable mappings, the stack not counted (`data_vm`)."""
        return sum(vma.pages for vma in self.vmas if is_data(vma.flags))

    @property
    def locked_pages(self) -> int:
        """Pages of locked mappings (`locked_vm`)."""
        return sum(vma.pages for vma in self.vmas if vma.flags & VmFlags.LOCKED)

    def may_expand(self, flags: int, pages: int) -> bool:
        """Whether the limits allow a mapping of `pages` more (`may_expand_vm`)."""
        limits = self.limits
        if (
            limits.address_space != RLIM_INFINITY
            and self.virtual_pages + pages > limits.address_space >> PAGE_SHIFT
        ):
            return False
        return not (
            limits.data != RLIM_INFINITY
            and is_data(flags)
            and self.data_pages + pages > limits.data >> PAGE_SHIFT
        )

    def enough_memory(self, pages: int) -> bool:
        """Whether one request is not larger than all of RAM (`__vm_enough_memory` with the
        default `vm.overcommit_memory` of 0)."""
        return pages <= self.frames.ram.n_frames

    def may_lock(self, flags: int, size: int) -> bool:
        """Whether `size` more bytes with these flags keep RLIMIT_MEMLOCK
        (`mlock_future_ok`)."""
        if not flags & VmFlags.LOCKED or self.limits.privileged:
            return True
        return ((self.locked_pages << PAGE_SHIFT) + size) <= self.limits.memlock

    def set_pte(self, slot: int, pfn: int, flags: int) -> None:
        """Fill an empty entry with a frame, and count it."""
        frames = self.frames
        frames.ram.words[slot] = mk_pte(pfn, flags)
        frames.references[pfn] += 1
        frames.mapcount[pfn] += 1
        kind = RSS_OF_KIND[frames.kinds[pfn]]
        if kind >= 0:
            self.rss[kind] += 1

    def clear_pte(self, slot: int) -> None:
        """Empty a present entry; a dirty one leaves its mark on the file page."""
        self._forget([self.frames.ram.words[slot]])
        self.frames.ram.words[slot] = 0

    def _forget(self, entries: list[int]) -> None:
        """Take entries out of the counts (`zap_present_ptes`)."""
        kinds, rss = self.frames.kinds, self.rss
        pfns = []
        for entry in entries:
            pfn = pte_pfn(entry)
            pfns.append(pfn)
            kind = RSS_OF_KIND[kinds[pfn]]
            if kind >= 0:
                rss[kind] -= 1
                if pte_dirty(entry) and kind != RssKind.ANON:
                    self.cache.mark_dirty(pfn)
        self.frames.unmap_all(pfns)

    def zap(self, start: int, end: int) -> None:
        """Drop the pages of [start, end) (`zap_page_range`); the TLB is flushed if there
        are any (`tlb_finish_mmu`)."""
        if self._unmap_vmas(start, end):
            self.context.flush_tlb_range(start, end)

    def _unmap_vmas(self, start: int, end: int) -> bool:
        """Empty the entries of [start, end); return whether there were any."""
        found = False
        self.peak_rss = max(self.peak_rss, sum(self.rss))
        words = self.frames.ram.words
        for _, slot, count in self.table.tables(start, end):
            part = words[slot : slot + count]
            entries = [entry for entry in part.tolist() if entry]
            if entries:
                part.cast("B")[:] = bytes(count << 3)
                self._forget(entries)
                found = True
        return found

    def release_file(self, vma: Vma) -> None:
        """Report to the cache that a VMA is gone: memory and files without a name end with the
        last."""
        if vma.file is not None:
            self.cache.release(vma.file)

    def get(self) -> AddressSpace:
        """Take another hold of it (`mmget`)."""
        self.users += 1
        return self

    def put(self) -> None:
        """Drop one reference (`mmput`); the last one frees everything."""
        self.users -= 1
        if not self.users:
            self.destroy()

    def destroy(self) -> None:
        """Give everything back (`exit_mmap`)."""
        del self.cache.spaces[self]
        self.set_executable(None)
        self.context.release()
        self._unmap_vmas(0, ADDRESS_LIMIT)
        gone = list(self.vmas)
        self.vmas = VmaSet()
        for vma in gone:
            self.release_file(vma)
        self.table.free_tables(0, ADDRESS_LIMIT, 0, ADDRESS_LIMIT)
        self.table.destroy()


def is_data(flags: int) -> bool:
    """`is_data_mapping`: private and writable, and no stack."""
    return flags & (VmFlags.WRITE | VmFlags.SHARED | VmFlags.GROWSDOWN) == VmFlags.WRITE


def page_flags(vma: Vma) -> int:
    """The flags of an entry that a VMA's rights give (`vm_page_prot`).

    Writable only in shared anonymous memory: elsewhere a fault decides on that, to copy the
    page or to notify the file system.
    """
    flags = PROTECTION_MAP[vma.flags & ACCESS_FLAGS]
    if vma.flags & VmFlags.SHARED and vma.flags & VmFlags.WRITE and vma.shmem:
        return pte_mkwrite(flags)
    return flags


def wants_writenotify(vma: Vma) -> bool:
    """Whether the first write to each page of a shared mapping must fault, so that the
    file system hears of it (`vma_wants_writenotify`)."""
    both = VmFlags.WRITE | VmFlags.SHARED
    return vma.flags & both == both and not vma.shmem


def vma_name(mm: AddressSpace, vma: Vma) -> str:
    """The last column of /proc/PID/maps (`show_map_vma`)."""
    if vma.path:
        return vma.shown_path
    if vma.special:
        return vma.special
    if _is_heap(mm, vma):
        return "[heap]"
    if vma.start <= mm.layout.start_stack <= vma.end and mm.layout.start_stack:
        return "[stack]"
    return ""


def _is_heap(mm: AddressSpace, vma: Vma) -> bool:
    """`vma_is_initial_heap`."""
    if mm.rules.heap_is_what_overlaps:
        return vma.start < mm.brk.end and vma.end > mm.brk.start
    return vma.start <= mm.brk.end and vma.end >= mm.brk.start
