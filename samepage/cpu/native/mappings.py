"""What a stub maps of an address space: a TLB, made of mappings of the host's.

An entry of the page table lets the stub read the frame if it is accessed, and write to it if it
is dirty too: so each access that would set a bit comes to us. At a fault not only its page is
mapped, but what the entries around allow by then: Linux, and the kernel here, install entries
accessed (and writable ones of a write fault dirty), so most need no fault of their own.

Frames that lie one after the other make one mapping of the host's. It allows a process 65,530
(`vm.max_map_count`); when they are used up all are dropped, and made anew at the guest's faults.
"""

from __future__ import annotations

from array import array

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import PAGE_SHIFT, PAGE_SIZE, PMD_SHIFT, PTRS_PER_TABLE, Sys
from samepage.arch.x86_64.paging import Pte
from samepage.cpu.native.control import CALL
from samepage.cpu.native.filter import MAP_RAM, RAM_FD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_READABLE = Pte.PRESENT | Pte.ACCESSED
_WRITABLE = Pte.WRITE | Pte.DIRTY
_EMPTY = bytes(8 * PTRS_PER_TABLE)
_AROUND = 16
"""Pages that are looked at together at a fault: those of Linux's fault-around."""
_POPULATE_AT_MOST = 64
"""Pages of a run that the host is to enter into its page table at once. It takes 0.1 us for each
of them, a fault of the stub 0.7."""


def munmap(start: int, size: int) -> bytes:
    """The call that takes a range from a stub."""
    return CALL.pack(Sys.MUNMAP, start, size, 0, 0, 0, 0)


def rights(entry: int) -> int:
    """What an entry of the last level allows the stub: PROT_* bits, 0 for no mapping."""
    if entry & _READABLE != _READABLE:
        return 0
    prot = Prot.READ if entry & Pte.NX else Prot.READ | Prot.EXEC
    return prot | Prot.WRITE if entry & _WRITABLE == _WRITABLE else prot


class Mappings:
    """Of one address space. `tables` has for each last-level table, by the address it begins at
    in units of its span, what is mapped: the frame's address and the rights; 0 for nothing."""

    def __init__(self) -> None:
        self.tables: dict[int, array[int]] = {}

    def clear(self) -> None:
        """All was taken from the stub."""
        self.tables.clear()

    def forget(self, start: int, end: int) -> bool:
        """Nothing in the range is mapped any more; whether anything was."""
        first, last = start >> PMD_SHIFT, end - 1 >> PMD_SHIFT
        numbers: Collection[int] = range(first, last + 1)
        if len(numbers) > len(self.tables):
            numbers = [number for number in self.tables if first <= number <= last]
        found = False
        for number in numbers:
            table = self.tables.get(number)
            if table is None:
                continue
            begin = number << PMD_SHIFT
            low = max(start - begin, 0) >> PAGE_SHIFT
            high = min(end - begin >> PAGE_SHIFT, PTRS_PER_TABLE)
            if (low, high) == (0, PTRS_PER_TABLE):
                found = True
                del self.tables[number]
            elif any(table[low:high]):
                found = True
                table[low:high] = array("Q", bytes(8 * (high - low)))
        return found

    def fill(
        self, words: memoryview, slot: int, address: int, no_exec: Collection[int]
    ) -> list[bytes]:
        """The calls that map the page of `address`, whose entry is `words[slot]`, and others
        that need it: all that its table has, if nothing of it is mapped yet, else the pages
        around. `no_exec` are the numbers of pages that are not to be executed."""
        number, index = address >> PMD_SHIFT, slot & PTRS_PER_TABLE - 1
        table = self.tables.get(number)
        if table is None:
            table = self.tables[number] = array("Q", _EMPTY)
            low, high = 0, PTRS_PER_TABLE
        else:
            low = index & -_AROUND
            high = low + _AROUND
        begin = number << PMD_SHIFT
        calls: list[bytes] = []
        run_start = run_frame = run_prot = run_length = 0
        entries = words[slot - index + low : slot - index + high].tolist()
        for at, entry in enumerate(entries, low):
            if not entry:
                continue
            prot = rights(entry)
            page = begin + (at << PAGE_SHIFT)
            if no_exec and page >> PAGE_SHIFT in no_exec:
                prot &= ~Prot.EXEC
            if not prot:
                continue
            frame = entry & Pte.FRAME
            if table[at] == frame | prot:
                continue
            table[at] = frame | prot
            if (
                run_length
                and prot == run_prot
                and page == run_start + run_length
                and frame == run_frame + run_length
            ):
                run_length += PAGE_SIZE
                continue
            if run_length:
                calls.append(_mmap(run_start, run_length, run_prot, run_frame))
            run_start, run_frame, run_prot, run_length = page, frame, prot, PAGE_SIZE
        if run_length:
            calls.append(_mmap(run_start, run_length, run_prot, run_frame))
        return calls

    def map_page(self, page: int, frame: int, prot: int) -> bytes:
        """The call that maps one page, whatever it was."""
        table = self.tables.setdefault(page >> PMD_SHIFT, array("Q", _EMPTY))
        table[page >> PAGE_SHIFT & PTRS_PER_TABLE - 1] = frame | prot
        return _mmap(page, PAGE_SIZE, prot, frame)


def _mmap(start: int, size: int, prot: int, frame: int) -> bytes:
    flags = MAP_RAM | MapFlags.POPULATE if size <= _POPULATE_AT_MOST * PAGE_SIZE else MAP_RAM
    return CALL.pack(Sys.MMAP, start, size, prot, flags, RAM_FD, frame)
