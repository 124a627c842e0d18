"""The format of x86-64 page tables.

Four levels of tables, each one frame with 512 entries of 64 bits. Nine bits of the
virtual address choose the entry at each level, from bit 47 downwards:

    47     39 38     30 29     21 20     12 11          0
    +--------+---------+---------+---------+-------------+
    |  PGD   |   PUD   |   PMD   |   PTE   |   offset    |
    +--------+---------+---------+---------+-------------+

Source: Intel SDM volume 3A, "4-Level Paging", table 4-20. The names are Linux's
(`_PAGE_PRESENT` and so on in arch/x86/include/asm/pgtable_types.h, `pte_*` in pgtable.h).
"""

from samepage.arch.arch import PageTableFormat

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


class Pte:
    """The bits of a page-table entry."""

    PRESENT = 1 << 0
    WRITE = 1 << 1
    USER = 1 << 2
    ACCESSED = 1 << 5
    DIRTY = 1 << 6
    PROTNONE = 1 << 8
    """Set instead of PRESENT in an entry of a PROT_NONE range: the page stays, and every
    access faults (`_PAGE_PROTNONE`, which is the global bit of a present entry)."""
    NX = 1 << 63
    FRAME = 0x000F_FFFF_FFFF_F000
    """The bits that hold the physical address of the frame."""
    TABLE = PRESENT | WRITE | USER
    """An entry that points to the next table: the last level decides on access."""


def pte_valid(entry: int) -> bool:
    """`_PAGE_PRESENT`."""
    return entry & 1 != 0


def pte_write(entry: int) -> bool:
    """`_PAGE_RW`."""
    return entry & 2 != 0


def pte_dirty(entry: int) -> bool:
    """`_PAGE_DIRTY`."""
    return entry & 0x40 != 0


def pte_young(entry: int) -> bool:
    """`_PAGE_ACCESSED`."""
    return entry & 0x20 != 0


def pte_mkwrite(entry: int) -> int:
    """Let it be written to."""
    return entry | Pte.WRITE


def pte_wrprotect(entry: int) -> int:
    """Let a write fault."""
    return entry & ~Pte.WRITE


def pte_mkdirty(entry: int) -> int:
    """As after a write."""
    return entry | Pte.DIRTY


def pte_mkclean(entry: int) -> int:
    """As before the first write."""
    return entry & ~Pte.DIRTY


def pte_mkyoung(entry: int) -> int:
    """As after an access."""
    return entry | Pte.ACCESSED


def pte_mkold(entry: int) -> int:
    """As before the first access."""
    return entry & ~Pte.ACCESSED


def pte_mkexec(entry: int) -> int:
    """Let it be executed."""
    return entry & ~Pte.NX


def _protection(prot: int) -> int:
    """Any right includes reading; without any there is no valid entry."""
    if not prot:
        return Pte.PROTNONE | Pte.ACCESSED
    return Pte.PRESENT | Pte.USER | Pte.ACCESSED | (0 if prot & 4 else Pte.NX)


PAGING = PageTableFormat(
    page_shift=PAGE_SHIFT,
    level_shifts=(39, 30, 21),
    frame_mask=Pte.FRAME,
    table_flags=Pte.TABLE,
    protection_map=tuple(_protection(prot) for prot in range(8)),
    modify_keeps=Pte.ACCESSED | Pte.DIRTY,
    permit_mask=(Pte.PRESENT, Pte.PRESENT | Pte.WRITE, Pte.PRESENT | Pte.NX),
    permit_value=(Pte.PRESENT, Pte.PRESENT | Pte.WRITE, Pte.PRESENT),
    touch=(Pte.ACCESSED, Pte.ACCESSED | Pte.DIRTY, Pte.ACCESSED),
    pte_valid=pte_valid,
    pte_write=pte_write,
    pte_dirty=pte_dirty,
    pte_young=pte_young,
    pte_mkwrite=pte_mkwrite,
    pte_wrprotect=pte_wrprotect,
    pte_mkdirty=pte_mkdirty,
    pte_mkclean=pte_mkclean,
    pte_mkyoung=pte_mkyoung,
    pte_mkold=pte_mkold,
    pte_mkexec=pte_mkexec,
)
