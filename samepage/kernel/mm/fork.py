"""fork's part in memory: a copy of an address space that shares every frame it can.

A VMA's page tables are copied only if they hold something that faults could not bring
back: some page of it was once written privately (`vma_needs_copy`: it has an anon_vma).
All other file mappings start empty in the child. Copied private pages become read-only on
both sides: the next write of either finds the frame used twice, and copies it.
"""

from dataclasses import replace

from samepage.hardware.paging import Pte
from samepage.hardware.ram import PAGE_SHIFT
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.vma import Vma, VmFlags


def dup_mmap(mm: AddressSpace) -> AddressSpace:
    """Copy an address space (`dup_mmap`). Raises `OutOfFrames`; nothing leaks then."""
    child = AddressSpace(mm.frames, mm.cache, mm.flush_tlb, mm.emit)
    child.brk = replace(mm.brk)
    child.special_pages = mm.special_pages
    child.stack_limit = mm.stack_limit
    try:
        for vma in mm.vmas:
            if vma.flags & VmFlags.DONTCOPY:
                continue
            copy = replace(vma)
            child.vmas.insert(copy)
            if vma.anon_vma and not vma.flags & VmFlags.WIPEONFORK:
                copy_page_range(mm, child, vma, copy)
    except BaseException:
        child.destroy()
        raise
    finally:
        mm.flush_tlb()
    return child


def copy_page_range(mm: AddressSpace, child: AddressSpace, vma: Vma, copy: Vma) -> None:
    """Give the child the parent's present pages of one VMA (`copy_page_range`)."""
    words = mm.frames.ram.words
    for address, slot, entry in mm.table.present(vma.start, vma.end):
        target = child.table.make_slot(address)
        if not vma.shared:
            entry &= ~Pte.WRITE
            words[slot] = entry
        pfn = (entry & Pte.FRAME) >> PAGE_SHIFT
        child.set_pte(copy, target, pfn, entry & ~Pte.FRAME & ~Pte.ACCESSED)
