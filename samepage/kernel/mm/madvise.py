"""madvise: hints, and some that are orders (mm/madvise.c of Linux 6.18).

Three kinds: those that change a flag of the VMAs (and split and merge them by it), those
that take pages away (DONTNEED now, FREE when memory is short, PAGEOUT, REMOVE), and those
that bring pages in (WILLNEED into the cache, POPULATE_* into the page tables). Advice that
this machine cannot follow, because it has no huge pages to collapse into, is refused with
EINVAL as a kernel without it would.
"""

import errno
from collections.abc import Callable

from samepage.abi.mman import Advice
from samepage.arch import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    pte_dirty,
    pte_mkclean,
    pte_mkold,
    pte_pfn,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace, Event, EventKind
from samepage.kernel.mm.frames import FrameKind, OutOfFrames
from samepage.kernel.mm.guards import guard_install, guard_remove
from samepage.kernel.mm.gup import fault_in_range
from samepage.kernel.mm.rmap import unmap_file_page
from samepage.kernel.mm.unmapped_area import page_align
from samepage.kernel.mm.vma import SPECIAL_FLAGS, Vma, VmFlags
from samepage.kernel.mm.vma_merge import modify_flags

_KNOWN = frozenset(advice for name, advice in vars(Advice).items() if name.isupper())
_V = VmFlags
_READAHEAD = _V.RAND_READ | _V.SEQ_READ
_FLAG_CHANGES: dict[int, tuple[int, int]] = {
    Advice.NORMAL: (_READAHEAD, 0),
    Advice.RANDOM: (_V.SEQ_READ, _V.RAND_READ),
    Advice.SEQUENTIAL: (_V.RAND_READ, _V.SEQ_READ),
    Advice.DONTFORK: (0, _V.DONTCOPY),
    Advice.DOFORK: (_V.DONTCOPY, 0),
    Advice.WIPEONFORK: (0, _V.WIPEONFORK),
    Advice.KEEPONFORK: (_V.WIPEONFORK, 0),
    Advice.DONTDUMP: (0, _V.DONTDUMP),
    Advice.DODUMP: (_V.DONTDUMP, 0),
    Advice.MERGEABLE: (0, _V.MERGEABLE),
    Advice.UNMERGEABLE: (_V.MERGEABLE, 0),
    Advice.HUGEPAGE: (_V.NOHUGEPAGE, _V.HUGEPAGE),
    Advice.NOHUGEPAGE: (_V.HUGEPAGE, _V.NOHUGEPAGE),
}
"""Advice -> (flags cleared, flags set)."""

_DISCARDS = (
    *(Advice.FREE, Advice.DONTNEED, Advice.DONTNEED_LOCKED, Advice.REMOVE, Advice.DONTFORK),
    *(Advice.WIPEONFORK, Advice.GUARD_INSTALL),
)
"""Advice after which content is lost (`is_discard`)."""


def do_madvise(mm: AddressSpace, address: int, length: int, advice: int) -> None:
    """Follow an advice for a range.

    Mapped parts are treated even if there are holes. Raises `SysError` with EINVAL,
    ENOMEM (also: a hole), EACCES, EPERM or EFAULT as `madvise(2)` does, and `OutOfFrames`.
    """
    if not _known(mm, advice) or address & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    end = address + page_align(length)
    if end >= 1 << 64:
        raise SysError(errno.EINVAL)
    if end == address:
        return
    if mm.emit:
        mm.emit(Event(EventKind.MADVISE, address, (end - address) >> PAGE_SHIFT))
    if advice in (Advice.POPULATE_READ, Advice.POPULATE_WRITE):
        _populate(mm, address, end, advice == Advice.POPULATE_WRITE)
        return
    change = _FLAG_CHANGES.get(advice)
    hole = False
    while address < end:
        vma = mm.vmas.next_from(address)
        if vma is None or vma.start >= end:
            hole = True
            break
        hole |= vma.start > address
        start, stop = max(vma.start, address), min(vma.end, end)
        if vma.flags & VmFlags.SEALED and advice in _DISCARDS and not _may_discard(vma):
            raise SysError(errno.EPERM)
        if change is not None:
            vma = _change_flags(mm, vma, start, stop, advice, *change)
            stop = max(stop, min(vma.end, end))
        else:
            _ACTIONS[advice](mm, vma, start, stop)
        address = stop
    if hole:
        raise SysError(errno.ENOMEM)


def _known(mm: AddressSpace, advice: int) -> bool:
    """`madvise_behavior_valid`."""
    guards = advice in (Advice.GUARD_INSTALL, Advice.GUARD_REMOVE)
    return advice in _KNOWN and (mm.rules.guard_regions or not guards)


def _may_discard(vma: Vma) -> bool:
    """Whether a sealed VMA may lose its content: if it could be written to anyway, or comes
    back from a file (`can_madvise_modify`)."""
    return vma.has_file or bool(vma.flags & (VmFlags.SHARED | VmFlags.WRITE))


def _change_flags(
    mm: AddressSpace, vma: Vma, start: int, end: int, advice: int, cleared: int, added: int
) -> Vma:
    """`madvise_vma_behavior` for advice that is a flag."""
    flags = vma.flags
    if (
        (advice == Advice.DOFORK and flags & VmFlags.IO)
        or (advice == Advice.WIPEONFORK and (vma.has_file or vma.special or flags & VmFlags.SHARED))
        or (advice == Advice.DODUMP and flags & (SPECIAL_FLAGS | VmFlags.DROPPABLE))
        or (advice == Advice.KEEPONFORK and flags & VmFlags.DROPPABLE)
    ):
        raise SysError(errno.EINVAL)
    unmergeable = SPECIAL_FLAGS | VmFlags.SHARED | VmFlags.MAYSHARE
    if advice == Advice.MERGEABLE and flags & unmergeable:
        return vma
    new = flags & ~cleared | added
    return vma if new == flags else modify_flags(mm, vma, start, end, new)


def _dontneed(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    if vma.flags & VmFlags.LOCKED:
        raise SysError(errno.EINVAL)
    _dontneed_locked(mm, vma, start, end)


def _dontneed_locked(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Private copies are lost: the next read sees the file, or zeros."""
    if vma.flags & VmFlags.PFNMAP:
        raise SysError(errno.EINVAL)
    mm.zap(start, end)


def _free(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """The pages stay until memory is short, or until they are written to again
    (`madvise_free_pte_range`): reclaim looks at the dirty bit, cleared here."""
    if not vma.anonymous or vma.flags & (VmFlags.LOCKED | VmFlags.PFNMAP):
        raise SysError(errno.EINVAL)
    frames = mm.frames
    words = frames.ram.words
    for _, slot, entry in mm.table.present(start, end):
        pfn = pte_pfn(entry)
        if frames.kinds[pfn] == FrameKind.ANONYMOUS:
            words[slot] = pte_mkold(pte_mkclean(entry))
            frames.lazy.add(pfn)
    mm.context.flush_tlb_range(start, end)


def _willneed(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Read into the cache, not into the page tables (`force_page_cache_readahead`)."""
    if vma.file is None or vma.shmem:
        return
    inode, cache = vma.file, mm.cache
    limit = (inode.size + PAGE_SIZE - 1) >> PAGE_SHIFT
    last = min(vma.index(end), limit)
    missing = [i for i in range(vma.index(start), last) if not cache.lookup(inode, i)]
    if missing:
        cache.load(inode, missing, -1)


def _cold(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """`madvise_cold_or_pageout_pte_range`: as if not used for long."""
    if vma.flags & (VmFlags.LOCKED | VmFlags.PFNMAP):
        raise SysError(errno.EINVAL)
    words = mm.frames.ram.words
    for _, slot, entry in mm.table.present(start, end):
        words[slot] = pte_mkold(entry)
    mm.context.flush_tlb_range(start, end)


def _pageout(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Take clean file pages that no other process maps out of memory. Anonymous memory stays,
    since there is no swap."""
    _cold(mm, vma, start, end)
    cache, frames = mm.cache, mm.frames
    for _, _, entry in list(mm.table.present(start, end)):
        pfn = pte_pfn(entry)
        inode, index = cache.owner.get(pfn, (None, 0))
        if (
            inode is not None
            and frames.mapcount[pfn] == 1
            and pfn not in cache.written
            and not pte_dirty(entry)
            and not vma.shmem
        ):
            unmap_file_page(cache.spaces, inode, index, pfn)
            cache.evict(inode, index)


def _remove(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Punch a hole into the shared file (`madvise_remove`)."""
    if vma.flags & VmFlags.LOCKED or not vma.has_file:
        raise SysError(errno.EINVAL)
    needed = VmFlags.SHARED | VmFlags.MAYWRITE
    if vma.flags & needed != needed:
        raise SysError(errno.EACCES)
    assert vma.file is not None, "shared memory has a file, if only one of tmpfs"
    mm.cache.punch(vma.file, vma.index(start), vma.index(end))


def _populate(mm: AddressSpace, start: int, end: int, write: bool) -> None:
    """`madvise_populate`."""
    while start < end:
        vma = mm.vmas.find(start)
        if vma is None:
            raise SysError(errno.ENOMEM)
        needed = VmFlags.WRITE if write else VmFlags.READ
        if not vma.flags & needed or vma.flags & (VmFlags.IO | VmFlags.PFNMAP):
            raise SysError(errno.EINVAL)
        stop = min(vma.end, end)
        try:
            fault_in_range(mm, vma, start, stop, write)
        except OutOfFrames:
            raise SysError(errno.ENOMEM) from None
        start = stop


_ACTIONS: dict[int, Callable[[AddressSpace, Vma, int, int], None]] = {
    Advice.WILLNEED: _willneed,
    Advice.DONTNEED: _dontneed,
    Advice.DONTNEED_LOCKED: _dontneed_locked,
    Advice.FREE: _free,
    Advice.REMOVE: _remove,
    Advice.COLD: _cold,
    Advice.PAGEOUT: _pageout,
    Advice.GUARD_INSTALL: guard_install,
    Advice.GUARD_REMOVE: guard_remove,
}
