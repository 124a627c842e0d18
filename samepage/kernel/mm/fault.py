"""Page faults: memory is given when it is touched, not when it is mapped.

The kernel's own accesses to user memory come here as the CPU's do. The functions have the
names of those in Linux's mm/memory.c, which are the specification:

    handle_mm_fault
      |- not present, anonymous      do_anonymous_page   zero page on read, a frame on write
      |- not present, file, read     do_read_fault       the cached page and its neighbours
      |- not present, private write  do_cow_fault        a copy of the cached page
      |- not present, shared write   do_shared_fault     the cached page itself
      `- present, read-only, write   do_wp_page          reuse if the only owner, else copy

`OutOfFrames` is raised where no frame is left; then no entry has changed, and the
access may be tried again once there is memory.
"""

from __future__ import annotations

import enum

from samepage.arch import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    Access,
    mk_pte,
    pte_dirty,
    pte_mkdirty,
    pte_mkwrite,
    pte_mkyoung,
    pte_pfn,
    pte_write,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm import readahead
from samepage.kernel.mm.address_space import (
    MMAP_MIN_ADDR,
    STACK_GUARD_GAP,
    AddressSpace,
    Event,
    EventKind,
    RssKind,
    page_flags,
    wants_writenotify,
)
from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.vma import ACCESS_FLAGS, Vma, VmFlags
from samepage.kernel.mm.vma_merge import anon_vma_prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile

FAULT_AROUND_BYTES = 64 << 10
"""`fault_around_bytes`: how much is mapped around a file page that is read."""

_ANONYMOUS = int(FrameKind.ANONYMOUS)


class FaultResult(enum.Enum):
    """What the faulting task gets: its access again, or a signal with this `si_code`."""

    OK = "ok"
    MAJOR = "ok, after reading from storage"
    SEGV_MAPERR = "address not mapped"
    SEGV_ACCERR = "access not permitted"
    BUS_ADRERR = "beyond the end of the file"


RESOLVED = (FaultResult.OK, FaultResult.MAJOR)


def handle_mm_fault(mm: AddressSpace, address: int, access: Access) -> FaultResult:
    """Resolve one fault at `address` (`do_user_addr_fault` and `handle_mm_fault`).

    Returns OK whether minor or major, else why there is a signal. A resolved fault counts
    once, whatever it maps. Raises `OutOfFrames`.
    """
    vma = mm.vmas.find(address) or _grow_stack(mm, address)
    if vma is None:
        return FaultResult.SEGV_MAPERR
    # `access_error`: x86 page tables cannot forbid reading alone, and forbid execution
    # only where there is an entry.
    if not vma.flags & (VmFlags.WRITE if access is Access.WRITE else ACCESS_FLAGS):
        return FaultResult.SEGV_ACCERR
    page = address & PAGE_MASK
    if access is Access.EXECUTE and not vma.flags & VmFlags.EXEC and mm.table.get(page):
        return FaultResult.SEGV_ACCERR
    try:
        result = fault_page(mm, vma, page, access is Access.WRITE)
    except SysError:
        # The storage could not be read: VM_FAULT_SIGBUS, as beyond the end of the file.
        return FaultResult.BUS_ADRERR
    return FaultResult.OK if result is FaultResult.MAJOR else result


def fault_page(mm: AddressSpace, vma: Vma, page: int, write: bool) -> FaultResult:
    """Resolve a fault on a page of a VMA, whose rights were checked, and count it
    (`handle_pte_fault`, `mm_account_fault`). Raises `OutOfFrames`."""
    if mm.guards and page in mm.guards:
        return FaultResult.SEGV_MAPERR
    slot = mm.table.slot(page)
    if slot and mm.frames.ram.words[slot]:
        result = do_wp_page(mm, vma, page, slot) if write else FaultResult.OK
    elif vma.file is None and not vma.special:
        result = do_anonymous_page(mm, vma, page, write)
    elif not write:
        result = do_read_fault(mm, vma, page)
    elif vma.flags & VmFlags.SHARED:
        result = do_shared_fault(mm, vma, page)
    else:
        result = do_cow_fault(mm, vma, page)
    if result is FaultResult.OK:
        mm.faults.minor += 1
    elif result is FaultResult.MAJOR:
        mm.faults.major += 1
    return result


def _grow_stack(mm: AddressSpace, address: int) -> Vma | None:
    """Extend the stack VMA downwards to `address` if the limits and the guard gap to the
    VMA below allow it (`expand_downwards`, `acct_stack_growth`)."""
    vma = mm.vmas.next_from(address)
    if vma is None or not vma.flags & VmFlags.GROWSDOWN or address < MMAP_MIN_ADDR:
        return None
    start = address & PAGE_MASK
    below = mm.vmas.before(vma.start)
    if (
        below is not None
        and not below.flags & VmFlags.GROWSDOWN
        and below.flags & ACCESS_FLAGS
        and start - below.end < STACK_GUARD_GAP
    ):
        return None
    anon_vma_prepare(mm, vma)
    grow = (vma.start - start) >> PAGE_SHIFT
    if (
        not mm.may_expand(vma.flags, grow)
        or vma.end - start > mm.limits.stack
        or not mm.may_lock(vma.flags, grow << PAGE_SHIFT)
        or not mm.enough_memory(grow)
    ):
        return None
    mm.vmas.set_start(vma, start)
    if mm.emit:
        mm.emit(Event(EventKind.STACK, start, grow))
    return vma


def do_anonymous_page(mm: AddressSpace, vma: Vma, page: int, write: bool) -> FaultResult:
    """First touch of an anonymous page: the shared zero page for a read, which does not
    count as resident; a zeroed frame for a write."""
    slot = mm.table.make_slot(page)
    if not write:
        pfn = mm.frames.zero_pfn
        mm.set_pte(slot, pfn, page_flags(vma))
        kind = EventKind.ZERO
    else:
        anon_vma_prepare(mm, vma)
        pfn = mm.frames.allocate_zeroed(_ANONYMOUS)
        _install_anonymous(mm, vma, slot, pfn)
        kind = EventKind.ANON
    if mm.emit:
        mm.emit(Event(kind, page, frame=pfn))
    return FaultResult.OK


def do_read_fault(mm: AddressSpace, vma: Vma, page: int) -> FaultResult:
    """A read of a file page: it and its cached neighbours are mapped.

    Fault-around comes first. If the page itself was not there, it is brought in; if that
    had to read from storage, everything starts again, and fault-around then finds what
    readahead has brought.
    """
    if vma.special:
        return _do_special_fault(mm, vma, page)
    table, inode = mm.table, vma.file
    assert inode is not None, "what has no file is special or anonymous"
    index = vma.index(page)
    cached = index in inode.pages
    mapped = do_fault_around(mm, vma, inode, page)
    major = False
    if not table.get(page):
        pfn, major = filemap_fault(mm, vma, inode, index)
        if not pfn:
            return FaultResult.BUS_ADRERR
        if major:
            mapped += do_fault_around(mm, vma, inode, page)
        slot = table.make_slot(page)
        if not mm.frames.ram.words[slot]:
            mm.set_pte(slot, mm.cache.get(inode, index), page_flags(vma))
            mapped += 1
    if mm.emit:
        pfn = pte_pfn(table.get(page))
        mm.emit(
            Event(EventKind.FILE_READ, page, mapped, pfn, vma.path, index, cached and not major)
        )
    return FaultResult.MAJOR if major else FaultResult.OK


def do_fault_around(mm: AddressSpace, vma: Vma, inode: MappedFile, page: int) -> int:
    """Map the cached pages around `page` (`do_fault_around`, `filemap_map_pages`); return
    how many.

    The window is the aligned 64 KiB around the address. Where the VMA begins inside it,
    it starts with the VMA and still spans 16 pages; it never leaves the VMA or the 2 MiB
    that one last-level table spans. A large folio at its edge is mapped whole
    (`KernelRules.fault_around_maps_whole_folios`). Pages past the end of the file and pages
    marked for readahead are left out.

    If there is no last-level table yet, and the first page to be mapped lies in the last
    folio of the file, nothing is mapped: the kernel makes the table only while it tries
    to map a huge page, and does not try that at the end of a file
    (`KernelRules.no_huge_entry_at_end_of_file`).
    """
    table_start = page & -PMD_SIZE
    start = max(page & -FAULT_AROUND_BYTES, vma.start, table_start)
    end = min(start + FAULT_AROUND_BYTES, vma.end, table_start + PMD_SIZE)
    if not inode.map_around:
        return 0
    first = vma.index(start)
    count = min((end - start) >> PAGE_SHIFT, ((inode.size + PAGE_SIZE - 1) >> PAGE_SHIFT) - first)
    if count <= 0:
        return 0
    frames, cache = mm.frames, mm.cache
    folios = cache.folios.get((inode.dev, inode.ino))
    if folios is not None and mm.rules.fault_around_maps_whole_folios:
        first, count = _with_whole_folios(vma, inode, folios, first, count, table_start)
        start = vma.address(first)
    cache.fill(inode, first, first + count, vma.index(page))
    words = frames.ram.words
    flags = page_flags(vma)
    pages, marked = inode.pages, cache.marked
    slot = mm.table.slot(start)
    if not slot:
        for index in range(first, first + count):
            if index in pages and pages[index] not in marked:
                break
        else:
            return 0
        at_end = cache.folio_end(inode, index) << PAGE_SHIFT >= inode.size and not inode.shmem
        if at_end and mm.rules.no_huge_entry_at_end_of_file:
            return 0
        slot = mm.table.make_slot(start)
    references, mapcount, guards = frames.references, frames.mapcount, mm.guards
    mapped = 0
    for offset, entry in enumerate(words[slot : slot + count].tolist()):
        if entry or (guards and start + (offset << PAGE_SHIFT) in guards):
            continue
        pfn = pages.get(first + offset, 0)
        if pfn and pfn not in marked:
            words[slot + offset] = mk_pte(pfn, flags)
            references[pfn] += 1
            mapcount[pfn] += 1
            mapped += 1
    if mapped:
        mm.rss[RssKind.SHMEM if inode.shmem else RssKind.FILE] += mapped
    return mapped


def _with_whole_folios(
    vma: Vma, inode: MappedFile, folios: FolioMap, first: int, count: int, table_start: int
) -> tuple[int, int]:
    """The window of fault-around, with the folios at its two edges made whole where that
    is allowed (`filemap_map_folio_range`). The inner ones are whole anyway."""
    low, high = first, first + count
    table_end = table_start + PMD_SIZE
    last_page = ((inode.size + PAGE_SIZE - 1) >> PAGE_SHIFT) - 1
    for index in (first, first + count - 1):
        start, end = folios.bounds(index)
        inside = max(vma.start, table_start) <= vma.address(start)
        inside = inside and vma.address(end) <= min(vma.end, table_end)
        if inside and end <= last_page:
            low, high = min(low, start), max(high, end)
    return low, high - low


def filemap_fault(mm: AddressSpace, vma: Vma, inode: MappedFile, index: int) -> tuple[int, bool]:
    """Find or bring in a file page; return its frame, and whether it was read from
    storage (`filemap_fault`, `shmem_fault`). The frame is 0 beyond the end of the file."""
    cache = mm.cache
    if index << PAGE_SHIFT >= inode.size:
        return 0, False
    if inode.shmem:
        return cache.get(inode, index), False
    pfn = cache.find(inode, index)
    if pfn:
        readahead.fault_hit(cache, vma, index)
        # The next window's frames may have come from reclaim.
        return cache.get(inode, index), False
    cache.note_refault(inode, index)
    readahead.fault_miss(cache, vma, index)
    return cache.get(inode, index), True


def _special_page(mm: AddressSpace, vma: Vma, page: int) -> int:
    return mm.special_pages.get((vma.special, (page - vma.start) >> PAGE_SHIFT), 0)


def _do_special_fault(mm: AddressSpace, vma: Vma, page: int) -> FaultResult:
    """`special_mapping_fault`: one page at a time, without fault-around."""
    pfn = _special_page(mm, vma, page)
    if not pfn:
        return FaultResult.BUS_ADRERR
    mm.set_pte(mm.table.make_slot(page), pfn, page_flags(vma))
    if mm.emit:
        mm.emit(Event(EventKind.SPECIAL, page, frame=pfn, file=vma.special))
    return FaultResult.OK


def do_cow_fault(mm: AddressSpace, vma: Vma, page: int) -> FaultResult:
    """A write to a private file page that is not mapped: a copy of the cached page, and
    neither the cached page nor its neighbours are mapped."""
    anon_vma_prepare(mm, vma)
    inode, index = vma.file, vma.index(page)
    major = False
    if inode is None:
        cached = True
        source = _special_page(mm, vma, page)
    else:
        cached = index in inode.pages
        source, major = filemap_fault(mm, vma, inode, index)
    if not source:
        return FaultResult.BUS_ADRERR
    slot = mm.table.make_slot(page)
    if inode is not None:
        # The table's frame may have come from reclaim.
        source = mm.cache.get(inode, index)
    pfn = _copy_page(mm, source)
    _install_anonymous(mm, vma, slot, pfn)
    if mm.emit:
        mm.emit(Event(EventKind.COW, page, 1, pfn, vma.path or vma.special, index, cached))
    return FaultResult.MAJOR if major else FaultResult.OK


def do_shared_fault(mm: AddressSpace, vma: Vma, page: int) -> FaultResult:
    """A write to a shared file page that is not mapped: the cached page itself, dirty."""
    inode, index = vma.file, vma.index(page)
    assert inode is not None, "shared memory has a file, if only one of tmpfs"
    cached = index in inode.pages
    pfn, major = filemap_fault(mm, vma, inode, index)
    if not pfn:
        return FaultResult.BUS_ADRERR
    slot = mm.table.make_slot(page)
    pfn = mm.cache.get(inode, index)
    mm.cache.mark_dirty(pfn)
    mm.set_pte(slot, pfn, pte_mkwrite(pte_mkdirty(page_flags(vma))))
    if mm.emit:
        mm.emit(Event(EventKind.SHARED, page, 1, pfn, vma.path, index, cached))
    return FaultResult.MAJOR if major else FaultResult.OK


def do_wp_page(mm: AddressSpace, vma: Vma, page: int, slot: int) -> FaultResult:
    """A write to a page that is mapped read-only.

    A shared mapping becomes writable. A private anonymous page that is held only here is
    reused in place (`wp_can_reuse_anon_folio`); anything else is copied.
    """
    frames = mm.frames
    words = frames.ram.words
    entry = words[slot]
    if pte_write(entry):
        return FaultResult.OK
    pfn = pte_pfn(entry)
    kind = EventKind.REUSE
    if vma.flags & (VmFlags.SHARED | VmFlags.MAYSHARE):
        mm.cache.mark_dirty(pfn)
        words[slot] = _maybe_mkwrite(pte_mkdirty(pte_mkyoung(entry)), vma)
        kind = EventKind.SHARED
    elif frames.kinds[pfn] == _ANONYMOUS and (frames.exclusive[pfn] or frames.references[pfn] == 1):
        frames.exclusive[pfn] = 1
        words[slot] = _maybe_mkwrite(pte_mkdirty(pte_mkyoung(entry)), vma)
    else:
        anon_vma_prepare(mm, vma)
        copy = _copy_page(mm, pfn)
        mm.clear_pte(slot)
        _install_anonymous(mm, vma, slot, copy)
        mm.context.flush_tlb_range(page, page + PAGE_SIZE)
        pfn = copy
        kind = EventKind.COW
    if mm.emit:
        index = vma.index(page) if vma.file is not None else 0
        mm.emit(Event(kind, page, 1, pfn, vma.path, index))
    return FaultResult.OK


def _copy_page(mm: AddressSpace, source: int) -> int:
    frames = mm.frames
    if source == frames.zero_pfn:
        return frames.allocate_zeroed(_ANONYMOUS)
    # Held while the new frame is found: reclaim must not take the page being copied.
    frames.references[source] += 1
    try:
        pfn = frames.allocate(_ANONYMOUS)
    finally:
        frames.put(source)
    frames.ram.copy(source, pfn)
    return pfn


def _install_anonymous(mm: AddressSpace, vma: Vma, slot: int, pfn: int) -> None:
    """Map a frame of our own, dirty, and writable if the VMA is; the entry takes over its
    reference."""
    frames = mm.frames
    flags = _maybe_mkwrite(pte_mkdirty(page_flags(vma)), vma)
    frames.ram.words[slot] = mk_pte(pfn, flags)
    frames.mapcount[pfn] = 1
    frames.exclusive[pfn] = 1
    if vma.flags & VmFlags.DROPPABLE:
        frames.lazy.add(pfn)
    mm.rss[RssKind.ANON] += 1


def _maybe_mkwrite(entry: int, vma: Vma) -> int:
    return pte_mkwrite(entry) if vma.flags & VmFlags.WRITE else entry


def can_change_pte_writable(mm: AddressSpace, vma: Vma, entry: int) -> bool:
    """Whether mprotect may make an entry of a writable VMA writable at once, since the
    write fault would do just that (`can_change_pte_writable`)."""
    if vma.flags & VmFlags.SHARED:
        return not wants_writenotify(vma) or pte_dirty(entry)
    return bool(mm.frames.exclusive[pte_pfn(entry)])
