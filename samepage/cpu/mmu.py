"""What a processor's MMU does with page tables: the walk, the decision whether an access faults,
and the accessed and dirty bits. Their format is the architecture's (`arch.PageTableFormat`).
"""

from samepage.arch import (
    ADDRESS_LIMIT,
    FRAME_MASK,
    LEVEL_SHIFTS,
    PAGE_SHIFT,
    PAGE_SIZE,
    PERMIT_MASK,
    PERMIT_VALUE,
    TOUCH,
    Access,
    pte_valid,
)
from samepage.cpu.ram import Ram

_PGD_SHIFT, _PUD_SHIFT, _PMD_SHIFT = LEVEL_SHIFTS


def walk(words: memoryview, root: int, address: int) -> int:
    """Where the last-level entry for `address` is, as an index into `words` (`Ram.words`).

    `root` is the frame of the top table (CR3). Returns 0 if a table on the way is
    missing; the entry itself may still be empty.
    """
    table = words[(root << 9) + (address >> _PGD_SHIFT & 511)]
    if not table:
        return 0
    table = words[((table & FRAME_MASK) >> 3) + (address >> _PUD_SHIFT & 511)]
    if not table:
        return 0
    table = words[((table & FRAME_MASK) >> 3) + (address >> _PMD_SHIFT & 511)]
    if not table:
        return 0
    return ((table & FRAME_MASK) >> 3) + (address >> PAGE_SHIFT & 511)


def find_permitted(words: memoryview, root: int, address: int, access: Access) -> int:
    """The same, if the entry permits the access of user mode; 0 if there is a page fault."""
    if address >= ADDRESS_LIMIT:
        return 0
    slot = walk(words, root, address)
    # The word 0 is in the frame that is never given to anybody: 0, which permits nothing.
    return slot if words[slot] & PERMIT_MASK[access] == PERMIT_VALUE[access] else 0


def touch(words: memoryview, slot: int, access: Access) -> int:
    """Set the accessed bit, for a write the dirty bit too, as the processor does before a
    permitted access; return the entry."""
    entry = words[slot] = words[slot] | TOUCH[access]
    return entry


def peek(ram: Ram, root: int, address: int, length: int) -> bytes:
    """The bytes at an address, up to the first page that is not present; nothing changes."""
    data = b""
    while len(data) < length:
        entry = ram.words[walk(ram.words, root, address + len(data))]
        if not pte_valid(entry):
            break
        at = address + len(data) & PAGE_SIZE - 1
        start = (entry & FRAME_MASK) + at
        data += ram.bytes[start : start + min(length - len(data), PAGE_SIZE - at)]
    return data
