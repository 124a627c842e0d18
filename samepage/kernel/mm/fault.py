"""Page faults: memory is given when it is touched, not when it is mapped.

The kernel's own accesses to user memory come here as the CPU's do. The functions have the
names of those in Linux's mm/memory.c, which are the specification:

    handle_mm_fault
      |- not present, anonymous      do_anonymous_page   zero page on read, a frame on write
      |- not present, file, read     do_read_fault       the cached page and its neighbours
      |- not present, private write  do_cow_fault        a copy of the cached page
      |- not present, shared write   do_shared_fault     the cached page itself
      `- present, read-only, write   do_wp_page          reuse if the only owner, else copy
"""

import enum

from samepage.hardware.paging import PMD_SIZE, Access, Pte
from samepage.hardware.ram import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.mm.address_space import (
    STACK_GUARD_GAP,
    AddressSpace,
    Event,
    EventKind,
    page_flags,
)
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.vma import Vma, VmFlags

FAULT_AROUND_BYTES = 64 << 10
"""`fault_around_bytes`: how much is mapped around a file page that is read."""


class FaultResult(enum.Enum):
    """What the faulting task gets: its access again, or a signal with this `si_code`."""

    OK = "ok"
    SEGV_MAPERR = "address not mapped"
    SEGV_ACCERR = "access not permitted"
    BUS_ADRERR = "beyond the end of the file"


_NEEDED = {Access.READ: VmFlags.READ, Access.WRITE: VmFlags.WRITE, Access.EXECUTE: VmFlags.EXEC}


def handle_mm_fault(mm: AddressSpace, address: int, access: Access) -> FaultResult:
    """Resolve one fault at `address` (`do_user_addr_fault` and `handle_mm_fault`).

    Counts one fault whatever it maps. Raises `OutOfFrames`.
    """
    vma = mm.vmas.find(address) or _grow_stack(mm, address)
    if vma is None:
        return FaultResult.SEGV_MAPERR
    if not _access_allowed(vma, access):
        return FaultResult.SEGV_ACCERR
    page = address & PAGE_MASK
    slot = mm.table.make_slot(page)
    entry = mm.frames.ram.words[slot]
    if entry & Pte.PRESENT:
        result = do_wp_page(mm, vma, page, slot) if access is Access.WRITE else FaultResult.OK
    elif vma.special:
        result = _do_special_fault(mm, vma, page, slot)
    elif vma.file is None:
        result = do_anonymous_page(mm, vma, page, slot, access)
    elif vma.index(page) << PAGE_SHIFT >= vma.file.size:
        return FaultResult.BUS_ADRERR
    elif access is not Access.WRITE:
        result = do_read_fault(mm, vma, page)
    elif vma.shared:
        result = do_shared_fault(mm, vma, page, slot)
    else:
        result = do_cow_fault(mm, vma, page, slot)
    if result is FaultResult.OK:
        mm.faults.minor += 1
    return result


def _access_allowed(vma: Vma, access: Access) -> bool:
    """Whether the VMA's rights allow it (`access_error`): any right lets a page be read,
    since x86 page tables cannot express less."""
    if access is Access.READ:
        return bool(vma.flags & (VmFlags.READ | VmFlags.WRITE | VmFlags.EXEC))
    return bool(vma.flags & _NEEDED[access])


def _grow_stack(mm: AddressSpace, address: int) -> Vma | None:
    """Extend the stack VMA downwards to `address` if its limit and the guard gap to the
    VMA below allow it (`expand_downwards`)."""
    vma = mm.vmas.next_from(address)
    if vma is None or not vma.flags & VmFlags.GROWSDOWN:
        return None
    start = address & PAGE_MASK
    if vma.end - start > mm.stack_limit:
        return None
    below = mm.vmas.before(vma.start)
    if below is not None and start - below.end < STACK_GUARD_GAP:
        return None
    mm.vmas.set_start(vma, start)
    if mm.emit:
        mm.emit(Event(EventKind.STACK, start))
    return vma


def _do_special_fault(mm: AddressSpace, vma: Vma, page: int, slot: int) -> FaultResult:
    """`special_mapping_fault`: one page at a time, without fault-around."""
    pfn = mm.special_pages.get((vma.special, (page - vma.start) >> PAGE_SHIFT), 0)
    if not pfn:
        return FaultResult.BUS_ADRERR
    mm.set_pte(vma, slot, pfn, page_flags(vma))
    if mm.emit:
        mm.emit(Event(EventKind.SPECIAL, page, frame=pfn, file=vma.special))
    return FaultResult.OK


def do_anonymous_page(
    mm: AddressSpace, vma: Vma, page: int, slot: int, access: Access
) -> FaultResult:
    """First touch of an anonymous page: the shared zero page for a read, which does not
    count as resident; a zeroed frame for a write."""
    if access is not Access.WRITE:
        pfn = mm.frames.zero_pfn
        mm.set_pte(vma, slot, pfn, page_flags(vma))
        kind = EventKind.ZERO
    else:
        pfn = mm.frames.allocate_zeroed(FrameKind.ANONYMOUS)
        _install_anonymous(mm, vma, slot, pfn)
        kind = EventKind.ANON
    if mm.emit:
        mm.emit(Event(kind, page, frame=pfn))
    return FaultResult.OK


def do_read_fault(mm: AddressSpace, vma: Vma, page: int) -> FaultResult:
    """A read of a file page: it and its cached neighbours are mapped, read-only.

    The window (`do_fault_around`) is the aligned 64 KiB around the address. Where the VMA
    begins inside it, it starts with the VMA and still spans 16 pages; it never leaves the
    VMA or the 2 MiB that one last-level table spans.
    """
    start = max(page & -FAULT_AROUND_BYTES, vma.start, page & -PMD_SIZE)
    end = min(start + FAULT_AROUND_BYTES, vma.end, (page & -PMD_SIZE) + PMD_SIZE)
    flags = page_flags(vma)
    words = mm.frames.ram.words
    first = mm.table.make_slot(start)
    index = vma.index(start)
    limit = (vma.file.size + PAGE_SIZE - 1) >> PAGE_SHIFT
    hit = mm.cache.lookup(vma.file, vma.index(page)) != 0
    mapped = 0
    for offset in range(min((end - start) >> PAGE_SHIFT, limit - index)):
        if not words[first + offset] & Pte.PRESENT:
            pfn = mm.cache.get(vma.file, index + offset)
            mm.set_pte(vma, first + offset, pfn, flags)
            mapped += 1
    if mm.emit:
        pfn = mm.cache.lookup(vma.file, vma.index(page))
        mm.emit(
            Event(EventKind.FILE_READ, page, mapped, pfn, vma.path, vma.index(page), cached=hit)
        )
    return FaultResult.OK


def do_cow_fault(mm: AddressSpace, vma: Vma, page: int, slot: int) -> FaultResult:
    """A write to a private file page that is not mapped: a copy of the cached page, and
    neither the cached page nor its neighbours are mapped."""
    index = vma.index(page)
    hit = mm.cache.lookup(vma.file, index) != 0
    source = mm.cache.get(vma.file, index)
    pfn = _copy_page(mm, source)
    _install_anonymous(mm, vma, slot, pfn)
    if mm.emit:
        mm.emit(Event(EventKind.COW, page, 1, pfn, vma.path, index, cached=hit))
    return FaultResult.OK


def do_shared_fault(mm: AddressSpace, vma: Vma, page: int, slot: int) -> FaultResult:
    """A write to a shared file page that is not mapped: the cached page itself, dirty."""
    index = vma.index(page)
    hit = mm.cache.lookup(vma.file, index) != 0
    pfn = mm.cache.get(vma.file, index)
    mm.cache.dirty.add(pfn)
    mm.set_pte(vma, slot, pfn, page_flags(vma) | Pte.WRITE | Pte.DIRTY)
    if mm.emit:
        mm.emit(Event(EventKind.SHARED, page, 1, pfn, vma.path, index, cached=hit))
    return FaultResult.OK


def do_wp_page(mm: AddressSpace, vma: Vma, page: int, slot: int) -> FaultResult:
    """A write to a page that is mapped read-only.

    A shared mapping becomes writable. A private anonymous page that nobody else holds is
    reused in place (`wp_can_reuse_anon_folio`); anything else is copied.
    """
    words = mm.frames.ram.words
    entry = words[slot]
    if entry & Pte.WRITE:
        return FaultResult.OK
    pfn = (entry & Pte.FRAME) >> PAGE_SHIFT
    kind = EventKind.REUSE
    if vma.shared:
        mm.cache.dirty.add(pfn)
        words[slot] = entry | Pte.WRITE | Pte.DIRTY
        kind = EventKind.SHARED
    elif mm.frames.kinds[pfn] == FrameKind.ANONYMOUS and mm.frames.references[pfn] == 1:
        words[slot] = entry | Pte.WRITE | Pte.DIRTY
    else:
        copy = _copy_page(mm, pfn)
        mm.clear_pte(vma, slot)
        _install_anonymous(mm, vma, slot, copy)
        mm.flush_tlb()
        pfn = copy
        kind = EventKind.COW
    if mm.emit:
        index = vma.index(page) if vma.file is not None else 0
        mm.emit(Event(kind, page, 1, pfn, vma.path, index))
    return FaultResult.OK


def _copy_page(mm: AddressSpace, source: int) -> int:
    # Held while the new frame is found: reclaim must not take the page being copied.
    mm.frames.references[source] += 1
    try:
        pfn = mm.frames.allocate(FrameKind.ANONYMOUS)
    finally:
        mm.frames.put(source)
    mm.frames.ram.copy(source, pfn)
    return pfn


def _install_anonymous(mm: AddressSpace, vma: Vma, slot: int, pfn: int) -> None:
    """Map a frame of our own, writable and dirty; the entry takes over its reference."""
    vma.anon_vma = True
    flags = Pte.DIRTY | (Pte.WRITE if vma.flags & VmFlags.WRITE else 0)
    mm.set_pte(vma, slot, pfn, page_flags(vma) | flags)
    mm.frames.put(pfn)
