"""The format of x86-64 page tables, and the walk that an MMU does.

Four levels of tables, each one frame with 512 entries of 64 bits. Nine bits of the
virtual address choose the entry at each level, from bit 47 downwards:

    47     39 38     30 29     21 20     12 11          0
    +--------+---------+---------+---------+-------------+
    |  PGD   |   PUD   |   PMD   |   PTE   |   offset    |
    +--------+---------+---------+---------+-------------+

Source: Intel SDM volume 3A, "4-Level Paging", table 4-20. The names are Linux's
(`_PAGE_PRESENT` and so on in arch/x86/include/asm/pgtable_types.h).
"""

import enum

from samepage.cpu.ram import PAGE_SHIFT, Ram


class Pte:
    """The bits of a page-table entry, as plain ints: they are used in the hottest path."""

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


class Access(enum.IntEnum):
    """What an instruction wants of a page."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


PTRS_PER_TABLE = 512
PMD_SHIFT = 21
PMD_SIZE = 1 << PMD_SHIFT
"""The bytes of virtual memory that one last-level table spans."""
ADDRESS_LIMIT = 1 << 47
"""The end of the lower canonical half: user space lies below."""


def walk(ram: Ram, root: int, address: int) -> int:
    """Where the last-level entry for `address` is, as an index into `ram.words`.

    `root` is the frame of the top table (CR3). Returns 0 if a table on the way is
    missing; the entry itself may still be empty.
    """
    words = ram.words
    table = words[(root << 9) + (address >> 39 & 511)]
    if not table & 1:
        return 0
    table = words[((table & Pte.FRAME) >> 3) + (address >> 30 & 511)]
    if not table & 1:
        return 0
    table = words[((table & Pte.FRAME) >> 3) + (address >> 21 & 511)]
    if not table & 1:
        return 0
    return ((table & Pte.FRAME) >> 3) + (address >> PAGE_SHIFT & 511)
