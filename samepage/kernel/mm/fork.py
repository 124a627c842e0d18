"""fork's part in memory: a copy of an address space that shares every frame it can.

A VMA's page tables are copied only if they hold something that faults could not bring
back (`vma_needs_copy`): it has an anon_vma, so that some page of it was once written
privately, or it maps frames directly. All other file mappings start empty in the child.
Copied private pages become read-only on both sides: the next write of either finds the
frame used twice, and copies it.
"""

from samepage.arch import pte_mkclean, pte_mkold, pte_pfn, pte_write, pte_wrprotect
from samepage.kernel.mm.address_space import RSS_OF_KIND, AddressSpace, Event, EventKind
from samepage.kernel.mm.guards import guards_inside
from samepage.kernel.mm.vma import LOCKED_MASK, AnonVma, Vma, VmFlags
from samepage.records import replace


def dup_mmap(mm: AddressSpace) -> AddressSpace:
    """Copy an address space (`dup_mmap`). Raises `OutOfFrames`; nothing leaks then."""
    child = AddressSpace(mm.frames, mm.cache, mm.engine, mm.emit, mm.rules)
    child.brk = replace(mm.brk)
    child.layout = replace(mm.layout)
    child.limits = mm.limits
    child.mmap_base = mm.mmap_base
    child.special_pages = mm.special_pages
    child.set_executable(mm.executable)
    try:
        for vma in mm.vmas:
            if vma.flags & VmFlags.DONTCOPY:
                continue
            copy = _dup_vma(vma)
            child.vmas.insert(copy)
            wiped = vma.flags & VmFlags.WIPEONFORK
            if not wiped and (vma.anon_vma or vma.flags & (VmFlags.PFNMAP | VmFlags.MIXEDMAP)):
                copy_page_range(mm, child, vma)
                if mm.guards:
                    child.guards |= guards_inside(mm, vma.start, vma.end)
    except BaseException:
        child.destroy()
        raise
    if mm.emit:
        mm.emit(Event(EventKind.FORK, 0, child.rss_pages))
    return child


def _dup_vma(vma: Vma) -> Vma:
    """The child's VMA: it gets an anon_vma of its own, linked to the parent's
    (`anon_vma_fork`), and is not locked."""
    anon = vma.anon_vma is not None and not vma.flags & VmFlags.WIPEONFORK
    return Vma(
        vma.start,
        vma.end,
        vma.flags & ~LOCKED_MASK,
        vma.file,
        vma.pgoff,
        vma.path,
        vma.special,
        AnonVma() if anon else None,
        vma.anon_chain + 1 if anon else 0,
        vma.filp,
    )


def copy_page_range(mm: AddressSpace, child: AddressSpace, vma: Vma) -> None:
    """Give the child the parent's present pages of one VMA (`copy_present_ptes`).

    Every entry is old (not accessed) in the child, and clean if the VMA is shared.
    """
    frames, rss = mm.frames, child.rss
    words, references, mapcount = frames.ram.words, frames.references, frames.mapcount
    exclusive, kinds = frames.exclusive, frames.kinds
    cow = vma.flags & (VmFlags.SHARED | VmFlags.MAYWRITE) == VmFlags.MAYWRITE
    shared = vma.flags & VmFlags.SHARED
    if cow:
        mm.context.flush_tlb_range(vma.start, vma.end)  # in effect after the copy, whole or not
    for address, slot, count in mm.table.tables(vma.start, vma.end):
        # The table first: to get its frame may take pages away that are to be copied.
        target = child.table.make_slot(address)
        for offset, entry in enumerate(words[slot : slot + count].tolist()):
            if not entry:
                continue
            if cow and pte_write(entry):
                entry = words[slot + offset] = pte_wrprotect(entry)
            pfn = pte_pfn(entry)
            words[target + offset] = pte_mkold(pte_mkclean(entry) if shared else entry)
            references[pfn] += 1
            mapcount[pfn] += 1
            exclusive[pfn] = 0
            kind = RSS_OF_KIND[kinds[pfn]]
            if kind >= 0:
                rss[kind] += 1
