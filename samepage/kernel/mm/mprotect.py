"""mprotect: other rights for a range, page by page and VMA by VMA.

Pages stay where they are. An entry loses what the new rights forbid. It gains write
permission at once only where the write fault would do nothing but that: an anonymous page
that is certainly this process's own (`can_change_pte_writable`); elsewhere the next write
faults and decides.
"""

import errno

from samepage.abi.mman import Prot
from samepage.arch import PAGE_MASK, PAGE_SHIFT, pte_mkwrite, pte_modify, pte_write
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace, Event, EventKind, page_flags
from samepage.kernel.mm.fault import can_change_pte_writable
from samepage.kernel.mm.gup import mm_populate
from samepage.kernel.mm.unmapped_area import page_align
from samepage.kernel.mm.vma import ACCESS_FLAGS, Vma, VmFlags
from samepage.kernel.mm.vma_merge import modify_flags


def do_mprotect(mm: AddressSpace, address: int, length: int, prot: int) -> None:
    """Change the rights of a range (`do_mprotect_pkey`).

    VMAs before the first one that cannot be changed are changed. Raises `SysError` with
    EINVAL, EACCES, EPERM (sealed), or ENOMEM (a hole in the range, or a limit).
    """
    prot = int(prot)
    grows_down = prot & Prot.GROWSDOWN
    prot &= ~int(Prot.GROWSDOWN)
    if address & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    if not length:
        return
    end = address + page_align(length)
    if end > 1 << 64:
        raise SysError(errno.ENOMEM)
    if prot & ~ACCESS_FLAGS & ~8:  # PROT_SEM is accepted
        raise SysError(errno.EINVAL)
    first = mm.vmas.next_from(address)
    if first is None or first.start >= end:
        raise SysError(errno.ENOMEM)
    if grows_down:
        if not first.flags & VmFlags.GROWSDOWN:
            raise SysError(errno.EINVAL)
        address = first.start
    elif first.start > address:
        raise SysError(errno.ENOMEM)
    mm.context.flush_tlb_range(address, end)  # in effect afterwards, whole or not
    _protect(mm, address, end, prot & ACCESS_FLAGS)
    if mm.emit:
        mm.emit(Event(EventKind.MPROTECT, address, (end - address) >> PAGE_SHIFT))


def _protect(mm: AddressSpace, address: int, end: int, prot: int) -> None:
    while address < end:
        vma = mm.vmas.find(address)
        if vma is None:
            raise SysError(errno.ENOMEM)
        flags = vma.flags & ~ACCESS_FLAGS | prot
        if flags & ~(flags >> 4) & ACCESS_FLAGS:
            raise SysError(errno.EACCES)
        if vma.flags & VmFlags.SEALED:
            raise SysError(errno.EPERM)
        stop = min(vma.end, end)
        if flags != vma.flags:
            stop = max(stop, min(mprotect_fixup(mm, vma, address, stop, flags).end, end))
        address = stop


def mprotect_fixup(mm: AddressSpace, vma: Vma, start: int, end: int, flags: int) -> Vma:
    """Give one VMA's part other rights; return the VMA that contains it now.

    A private mapping that becomes writable is charged from then on, even after it is made
    read-only again, unless it is anonymous and was never written (VM_ACCOUNT). Raises
    `SysError(ENOMEM)`.
    """
    pages = (end - start) >> PAGE_SHIFT
    if flags & VmFlags.WRITE:
        if not mm.may_expand(flags, pages) and mm.may_expand(vma.flags, pages):
            raise SysError(errno.ENOMEM)
        uncharged = VmFlags.ACCOUNT | VmFlags.WRITE | VmFlags.SHARED | VmFlags.NORESERVE
        if not vma.flags & uncharged:
            if not mm.enough_memory(pages):
                raise SysError(errno.ENOMEM)
            flags |= VmFlags.ACCOUNT
    elif vma.flags & VmFlags.ACCOUNT and vma.anonymous and vma.anon_vma is None:
        flags &= ~VmFlags.ACCOUNT
    old = vma.flags
    vma = modify_flags(mm, vma, start, end, flags)
    change_protection(mm, vma, start, end)
    if (
        old & (VmFlags.WRITE | VmFlags.SHARED | VmFlags.LOCKED) == VmFlags.LOCKED
        and flags & VmFlags.WRITE
        and flags & ACCESS_FLAGS
    ):
        # Locked memory never faults: private copies are made at once.
        mm_populate(mm, start, end - start)
    return vma


def change_protection(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Rewrite the entries of [start, end) for the VMA's rights (`change_pte_range`)."""
    words = mm.frames.ram.words
    flags = page_flags(vma)
    writable = vma.flags & VmFlags.WRITE
    for _, slot, entry in mm.table.present(start, end):
        entry = pte_modify(entry, flags)
        if writable and not pte_write(entry) and can_change_pte_writable(mm, vma, entry):
            entry = pte_mkwrite(entry)
        words[slot] = entry
