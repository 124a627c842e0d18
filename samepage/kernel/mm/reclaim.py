"""Reclaim: which pages are dropped when no frame is free, without losing anything.

There is no swap, so only clean pages of files can go: their next use reads them again. Linux
keeps them in a list in the order in which they came (`PageCache.owner` is that list), and
takes from its old end. A page that an entry maps, and that was used through it since reclaim
last looked, gets another round: the CPU has set the entry's accessed bit, reclaim clears it
and moves the page to the young end (`folio_check_references`, `shrink_folio_list` in
mm/vmscan.c). Pages that no entry maps go before all others, then what MADV_FREE gave up.

A machine whose RAM is smaller than what its programs need at every moment would always find
something to take, and make no progress: each page it takes is wanted at once. `PageCache` knows
such a refault as mm/workingset.c does, by its distance: the number of pages that were taken
between its own going and coming. `Thrashing` is the rule for when to give up.
"""

from __future__ import annotations

from samepage.arch import PAGE_SHIFT, PAGE_SIZE, pte_dirty, pte_mkold, pte_pfn, pte_young
from samepage.kernel.mm import rmap
from samepage.kernel.mm.vma import VmFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.clock import Clock
    from samepage.kernel.mm.address_space import AddressSpace
    from samepage.kernel.mm.frames import Frames
    from samepage.kernel.mm.mapped_file import MappedFile
    from samepage.kernel.mm.page_cache import PageCache

SWAP_CLUSTER_MAX = 32
"""How many pages reclaim takes at least (`SWAP_CLUSTER_MAX`)."""
_BATCH_MAX = 256
MAX_RECLAIM_RETRIES = 16
"""How often the whole RAM may be read back in vain."""


class Thrashing:
    """Notices a machine that only goes in circles: the refaults, less one for each system
    call in the meantime, are `MAX_RECLAIM_RETRIES` times as many as RAM has frames.

    Linux continues for as long as reclaim finds something (`should_reclaim_retry`), at the
    speed of its disk, unless it is configured not to (`lru_gen/min_ttl_ms`, or a daemon that
    watches the pressure). On the model that would take too long.
    """

    def __init__(self, n_frames: int) -> None:
        self._limit = MAX_RECLAIM_RETRIES * n_frames
        self._in_vain = self._refaults_seen = self._calls_seen = 0

    def goes_on(self, refaults: int, calls: int) -> bool:
        """Take the numbers of refaults and of system calls so far, and return whether it is
        time to give up."""
        went_round = refaults - self._refaults_seen - (calls - self._calls_seen)
        self._in_vain = max(0, self._in_vain + went_round)
        self._refaults_seen, self._calls_seen = refaults, calls
        return self._in_vain > self._limit

    def over(self) -> None:
        """A process was killed: the count starts again."""
        self._in_vain = 0


class DirectReclaim:
    """What the frame allocator does when nothing is free (`__alloc_pages_direct_reclaim`)."""

    def __init__(self, cache: PageCache, frames: Frames, clock: Clock) -> None:
        self._cache = cache
        self._frames = frames
        self._clock = clock
        self._thrashing = Thrashing(frames.ram.n_frames)

    def __call__(self) -> int:
        """Free some frames; return how many, 0 if it is pointless to continue."""
        freed = shrink(self._cache, self._frames)
        if not freed:
            return 0
        in_vain = self._thrashing.goes_on(self._cache.refaults, self._clock.system_calls)
        return 0 if in_vain else freed

    def victim_killed(self) -> None:
        """The OOM killer has acted: the count starts again."""
        self._thrashing.over()


def shrink(cache: PageCache, frames: Frames) -> int:
    """Free some frames; return how many (`shrink_node`)."""
    wanted = max(SWAP_CLUSTER_MAX, min(frames.ram.n_frames >> 6, _BATCH_MAX))
    freed = _take_unmapped(cache, frames, wanted)
    freed = freed or _take_lazy(cache, frames)
    return freed or _take_mapped(cache, frames, wanted)


def _is_clean_file_page(cache: PageCache, frames: Frames, pfn: int) -> bool:
    """Whether its content is in storage, and it has no other user: references beyond those of
    the cache and the page tables."""
    return (
        frames.references[pfn] == frames.mapcount[pfn] + 1
        and pfn not in cache.written
        and not cache.owner[pfn][0].shmem
    )


def _take_unmapped(cache: PageCache, frames: Frames, wanted: int) -> int:
    victims = []
    for pfn in cache.owner:
        if not frames.mapcount[pfn] and _is_clean_file_page(cache, frames, pfn):
            victims.append(pfn)
            if len(victims) == wanted:
                break
    for pfn in victims:
        cache.reclaimed(pfn)
    return len(victims)


def _take_mapped(cache: PageCache, frames: Frames, wanted: int) -> int:
    """Take the first pages of the list that were not used since the last look. The second
    round finds all of them old."""
    freed = 0
    for pfn in [*cache.owner, *cache.owner]:
        if pfn not in cache.owner or not _is_clean_file_page(cache, frames, pfn):
            continue
        inode, index = cache.owner[pfn]
        if not _was_used(cache, inode, index, pfn):
            rmap.unmap_file_page(cache.spaces, inode, index, pfn)
            # Unmapping may have found a dirty entry.
            if pfn not in cache.written and frames.references[pfn] == 1:
                cache.reclaimed(pfn)
                freed += 1
        if freed == wanted:
            break
    return freed


def _was_used(cache: PageCache, inode: MappedFile, index: int, pfn: int) -> bool:
    """Whether a page is locked in memory, or was used through an entry since the last call;
    then it becomes the youngest (`folio_referenced`)."""
    used = False
    for mm, vma, address, _ in rmap.file_vmas(cache.spaces, inode, index, index + 1):
        slot = mm.table.slot(address)
        entry = mm.frames.ram.words[slot] if slot else 0
        if pte_pfn(entry) != pfn:
            continue
        if vma.flags & VmFlags.LOCKED:
            return True
        if pte_young(entry):
            mm.frames.ram.words[slot] = pte_mkold(entry)
            mm.context.flush_tlb_range(address, address + PAGE_SIZE)
            used = True
    if used:
        cache.owner[pfn] = cache.owner.pop(pfn)
    return used


def _is_droppable(mm: AddressSpace, page: int) -> bool:
    vma = mm.vmas.find(page << PAGE_SHIFT)
    return vma is not None and bool(vma.flags & VmFlags.DROPPABLE)


def _take_lazy(cache: PageCache, frames: Frames) -> int:
    """Take frames of MADV_FREE whose entry is not dirty since, and all frames of
    droppable mappings (`try_to_unmap_one`)."""
    if not frames.lazy:
        return 0
    freed = 0
    words = frames.ram.words
    for pfn, places in rmap.mappings(cache.spaces, frames.lazy).items():
        slots = [mm.table.slot(page << PAGE_SHIFT) for mm, page in places]
        held = frames.references[pfn] > len(slots)
        dirty = any(pte_dirty(words[slot]) for slot in slots)
        if held or (dirty and not all(_is_droppable(mm, page) for mm, page in places)):
            frames.lazy.discard(pfn)
            continue
        for (mm, page), slot in zip(places, slots, strict=True):
            mm.clear_pte(slot)
            mm.context.flush_tlb_range(page << PAGE_SHIFT, page + 1 << PAGE_SHIFT)
        freed += 1
    return freed
