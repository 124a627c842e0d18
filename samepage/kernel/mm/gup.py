"""Faulting pages in ahead of their use, and finding the frame of one (mm/gup.c).

MAP_POPULATE, mlock and MADV_POPULATE_* walk over a range and do for each page that is not
there what an access would do, counted as a fault each. A page that fault-around mapped on
the way needs none. A private writable mapping is written to, so that the copy is made now;
a shared one is only read, since writing would make it dirty for nothing.
"""

import errno

from samepage.arch import (
    PAGE_MASK,
    PAGE_SIZE,
    pte_dirty,
    pte_mkdirty,
    pte_pfn,
    pte_write,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.fault import RESOLVED, fault_page
from samepage.kernel.mm.frames import OutOfFrames
from samepage.kernel.mm.vma import ACCESS_FLAGS, Vma, VmFlags


def fault_in_range(mm: AddressSpace, vma: Vma, start: int, end: int, write: bool) -> None:
    """Make each page of a part of a VMA present, and writable if `write`.

    Raises `SysError(EFAULT)` at a page beyond the end of the file, and `OutOfFrames`.
    """
    words = mm.frames.ram.words
    for page in range(start & PAGE_MASK, end, PAGE_SIZE):
        slot = mm.table.slot(page)
        entry = words[slot] if slot else 0
        if not entry or (write and not pte_write(entry)):
            if fault_page(mm, vma, page, write) not in RESOLVED:
                raise SysError(errno.EFAULT)
            continue
        if write and not pte_dirty(entry):
            _mark_dirty(mm, slot, entry)


def get_user_page(mm: AddressSpace, address: int, *, write: bool) -> int:
    """The frame behind an address, faulted in if need be, so that it can be written to if
    `write` (`get_user_pages_fast`). Raises `SysError(EFAULT)` and `OutOfFrames`."""
    vma = mm.vmas.find(address)
    needed = VmFlags.WRITE if write else VmFlags.READ
    if vma is None or not vma.flags & needed or vma.flags & (VmFlags.IO | VmFlags.PFNMAP):
        raise SysError(errno.EFAULT)
    words, page = mm.frames.ram.words, address & PAGE_MASK
    slot = mm.table.slot(page)
    if not slot or not words[slot] or (write and not pte_write(words[slot])):
        if fault_page(mm, vma, page, write) not in RESOLVED:
            raise SysError(errno.EFAULT)
        slot = mm.table.slot(page)
    return pte_pfn(words[slot])


def _mark_dirty(mm: AddressSpace, slot: int, entry: int) -> None:
    """FOLL_TOUCH makes the page dirty, not the entry. For an anonymous page, which is
    dirty nowhere but in its entries, that comes to the same."""
    pfn = pte_pfn(entry)
    if pfn in mm.cache.owner:
        mm.cache.mark_dirty(pfn)
    else:
        mm.frames.ram.words[slot] = pte_mkdirty(entry)


def mm_populate(mm: AddressSpace, start: int, length: int, *, strict: bool = False) -> None:
    """Fault in the mapped parts of a range (`__mm_populate`).

    Without `strict` a VMA whose pages cannot be had is skipped from there on. With it
    raises `SysError` with EFAULT or ENOMEM.
    """
    end = start + length
    for vma in mm.vmas.overlapping(start, end):
        if vma.flags & (VmFlags.IO | VmFlags.PFNMAP | VmFlags.LOCKONFAULT):
            continue
        write = vma.flags & (VmFlags.WRITE | VmFlags.SHARED) == VmFlags.WRITE
        try:
            if not vma.flags & ACCESS_FLAGS:
                raise SysError(errno.EFAULT)
            fault_in_range(mm, vma, max(start, vma.start), min(end, vma.end), write)
        except SysError:
            if strict:
                raise
        except OutOfFrames:
            if strict:
                raise SysError(errno.ENOMEM) from None
            return
