"""Guard pages: pages of a mapping that fault, without a mapping of their own
(`madvise_guard_install` in mm/madvise.c; `KernelRules.guard_regions`).

Linux marks them in the page table (PTE_MARKER_GUARD). The model's entries know no markers:
an address space has the set of such pages beside its table. It moves with mremap, is
inherited where fork copies page tables, and ends with munmap, or with MADV_GUARD_REMOVE;
MADV_DONTNEED and truncation leave it.
"""

import errno

from samepage.arch import PAGE_SIZE, PMD_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.vma import SPECIAL_FLAGS, Vma, VmFlags
from samepage.kernel.mm.vma_merge import anon_vma_prepare


def guard_install(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Drop what is mapped in [start, end), and let every access fail from then on.

    The tables are made, and the VMA gets an anon_vma, so that fork copies them. Raises
    `SysError(EINVAL)` for locked and special mappings, and `OutOfFrames`.
    """
    if vma.flags & (SPECIAL_FLAGS | VmFlags.LOCKED):
        raise SysError(errno.EINVAL)
    anon_vma_prepare(mm, vma)
    page = start
    while page < end:
        mm.table.make_slot(page)
        page = (page & -PMD_SIZE) + PMD_SIZE
    mm.zap(start, end)
    mm.guards.update(range(start, end, PAGE_SIZE))


def guard_remove(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Let [start, end) be empty pages again. Raises `SysError(EINVAL)`."""
    if vma.flags & SPECIAL_FLAGS:
        raise SysError(errno.EINVAL)
    mm.guards -= guards_inside(mm, start, end)


def guards_inside(mm: AddressSpace, start: int, end: int) -> set[int]:
    """The guard pages of a range."""
    return {page for page in mm.guards if start <= page < end}


def move_guards(mm: AddressSpace, start: int, length: int, target: int) -> None:
    """mremap moves the pages of a range elsewhere."""
    moved = guards_inside(mm, start, start + length)
    mm.guards -= moved
    mm.guards.update(page - start + target for page in moved)
