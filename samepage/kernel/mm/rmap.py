"""The reverse map: from a frame, or a file page, to the addresses that show it.

Linux keeps interval trees of VMAs per file and per anon_vma, since it asks often. Here it
is asked only by truncation, by reclaim and by people, so nothing is kept: the answer is
computed by walking the address spaces. A file page is looked for in the VMAs of its file;
an anonymous frame in all page tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from samepage.arch import ADDRESS_LIMIT, PAGE_SHIFT, PAGE_SIZE, pte_pfn
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.vma import Vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.address_space import AddressSpace
    from samepage.kernel.mm.mapped_file import MappedFile


def file_vmas(
    spaces: Iterable[AddressSpace], inode: MappedFile, first: int, last: int
) -> Iterator[tuple[AddressSpace, Vma, int, int]]:
    """The VMAs that show pages from `first` up to, not including, `last` of a file, each
    with the addresses of that part (`vma_interval_tree_foreach`)."""
    for mm in spaces:
        for vma in mm.vmas:
            if vma.file is inode and vma.pgoff < last and vma.pgoff + vma.pages > first:
                start = vma.start + (max(first - vma.pgoff, 0) << PAGE_SHIFT)
                end = min(vma.end, vma.start + ((last - vma.pgoff) << PAGE_SHIFT))
                yield mm, vma, start, end


def unmap_mapping_range(
    spaces: Iterable[AddressSpace],
    inode: MappedFile,
    first: int,
    last: int,
    *,
    even_cows: bool,
) -> None:
    """Take pages of a file out of every page table (`unmap_mapping_range`); private copies
    of them too if `even_cows`, as truncation must."""
    for mm, _, start, end in list(file_vmas(spaces, inode, first, last)):
        if even_cows:
            mm.zap(start, end)
        else:
            for _, slot, entry in mm.table.present(start, end):
                if mm.frames.kinds[pte_pfn(entry)] != FrameKind.ANONYMOUS:
                    mm.clear_pte(slot)
            mm.context.flush_tlb_range(start, end)


def unmap_file_page(
    spaces: Iterable[AddressSpace], inode: MappedFile, index: int, pfn: int
) -> None:
    """Take one cached page out of every page table; private copies stay
    (`try_to_unmap`)."""
    for mm, _, address, _ in list(file_vmas(spaces, inode, index, index + 1)):
        slot = mm.table.slot(address)
        entry = mm.frames.ram.words[slot] if slot else 0
        if entry and pte_pfn(entry) == pfn:
            mm.clear_pte(slot)
            mm.context.flush_tlb_range(address, address + PAGE_SIZE)


def mappings(
    spaces: Iterable[AddressSpace], pfns: Iterable[int]
) -> dict[int, list[tuple[AddressSpace, int]]]:
    """For each frame, the (address space, virtual page number) pairs that map it
    (`rmap_walk`); one pass over all page tables."""
    found: dict[int, list[tuple[AddressSpace, int]]] = {pfn: [] for pfn in pfns}
    for mm in spaces:
        for address, _, entry in mm.table.present(0, ADDRESS_LIMIT):
            where = found.get(pte_pfn(entry))
            if where is not None:
                where.append((mm, address >> PAGE_SHIFT))
    return found
