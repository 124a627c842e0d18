"""The page tables' format, and what a processor's MMU does with them: the walk, the decision
whether an access faults, and the accessed and dirty bits.

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

from samepage.cpu.ram import PAGE_SHIFT, PAGE_SIZE, Ram


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
KERNEL_SPACE = 0xFFFF_8000_0000_0000
"""The begin of the upper half. Addresses between the two are not canonical: an access to one is
no page fault, but a general protection fault (Intel SDM volume 1, 3.3.7.1)."""


def walk(words: memoryview, root: int, address: int) -> int:
    """Where the last-level entry for `address` is, as an index into `words` (`Ram.words`).

    `root` is the frame of the top table (CR3). Returns 0 if a table on the way is
    missing; the entry itself may still be empty.
    """
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


def find_permitted(words: memoryview, root: int, address: int, access: Access) -> int:
    """The same, if the entry permits the access of user mode; 0 if there is a page fault.

    Tables never forbid anything here (`Pte.TABLE`), and the kernel makes no user entry that
    only the kernel may use, so the last entry decides alone.
    """
    if address >= ADDRESS_LIMIT:
        return 0
    slot = walk(words, root, address)
    entry = words[slot]  # of slot 0, in the frame that is never given to anybody: 0
    if access is Access.WRITE:
        return slot if entry & _WRITABLE == _WRITABLE else 0
    if access is Access.EXECUTE:
        return slot if entry & _EXECUTABLE == Pte.PRESENT else 0
    return slot if entry & Pte.PRESENT else 0


def touch(words: memoryview, slot: int, access: Access) -> int:
    """Set the accessed bit, for a write the dirty bit too, as the processor does before a
    permitted access; return the entry."""
    entry = words[slot] = words[slot] | (_TOUCH_WRITE if access is Access.WRITE else Pte.ACCESSED)
    return entry


def peek(ram: Ram, root: int, address: int, length: int) -> bytes:
    """The bytes at an address, up to the first page that is not present; nothing changes."""
    data = b""
    while len(data) < length:
        entry = ram.words[walk(ram.words, root, address + len(data))]
        if not entry & Pte.PRESENT:
            break
        at = address + len(data) & PAGE_SIZE - 1
        start = (entry & Pte.FRAME) + at
        data += ram.bytes[start : start + min(length - len(data), PAGE_SIZE - at)]
    return data


_WRITABLE = Pte.PRESENT | Pte.WRITE
_EXECUTABLE = Pte.PRESENT | Pte.NX
_TOUCH_WRITE = Pte.ACCESSED | Pte.DIRTY
