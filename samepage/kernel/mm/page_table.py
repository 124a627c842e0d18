"""One process's page tables: making them, finding entries, and giving them back.

The tables are frames of RAM in the format of `hardware.paging`. Linux counts them
(`mm_pgtables_bytes`, VmPTE) without the top one; so does `n_tables`.
"""

from collections.abc import Iterator

from samepage.hardware.paging import PMD_SHIFT, PMD_SIZE, Pte, walk
from samepage.hardware.ram import PAGE_SHIFT
from samepage.kernel.mm.frames import FrameKind, Frames


class PageTable:
    """A four-level table whose top is the frame `root` (`mm->pgd`)."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._ram = frames.ram
        self._words = frames.ram.words
        self.root = frames.allocate_zeroed(FrameKind.PAGE_TABLE)
        self.n_tables = 0

    def slot(self, address: int) -> int:
        """The index into `ram.words` of the entry for `address`; 0 if no table is there."""
        return walk(self._ram, self.root, address)

    def get(self, address: int) -> int:
        """The entry for `address`, 0 if there is none."""
        slot = walk(self._ram, self.root, address)
        return self._words[slot] if slot else 0

    def make_slot(self, address: int) -> int:
        """The same as `slot`, with missing tables made (`pte_alloc`). Raises `OutOfFrames`."""
        words = self._words
        base = self.root << 9
        for shift in (39, 30, PMD_SHIFT):
            at = base + (address >> shift & 511)
            entry = words[at]
            if not entry & Pte.PRESENT:
                pfn = self._frames.allocate_zeroed(FrameKind.PAGE_TABLE)
                entry = words[at] = pfn << PAGE_SHIFT | Pte.TABLE
                self.n_tables += 1
            base = (entry & Pte.FRAME) >> 3
        return base + (address >> PAGE_SHIFT & 511)

    def present(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Each present entry of [start, end), as (address, slot, entry)."""
        words = self._words
        while start < end:
            stop = min(end, (start | (PMD_SIZE - 1)) + 1)
            slot = walk(self._ram, self.root, start)
            if slot:
                for offset in range((stop - start) >> PAGE_SHIFT):
                    entry = words[slot + offset]
                    if entry & Pte.PRESENT:
                        yield start + (offset << PAGE_SHIFT), slot + offset, entry
            start = stop

    def free_tables(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Give back the tables that served only [start, end) (`free_pgtables`).

        `floor` and `ceiling` are where the neighbouring VMAs end and start: a table that
        spans one of their pages stays.
        """
        for shift in (PMD_SHIFT, 30, 39):
            span = 1 << shift
            address = start & -span
            while address < end:
                if address >= _round_up(floor, span) and address + span <= ceiling & -span:
                    self._free_table(address, shift)
                address += span

    def _free_table(self, address: int, shift: int) -> None:
        base = self.root << 9
        for level in (39, 30, PMD_SHIFT):
            at = base + (address >> level & 511)
            entry = self._words[at]
            if not entry & Pte.PRESENT:
                return
            if level == shift:
                self._words[at] = 0
                self._frames.put((entry & Pte.FRAME) >> PAGE_SHIFT)
                self.n_tables -= 1
                return
            base = (entry & Pte.FRAME) >> 3

    def destroy(self) -> None:
        """Give back the top table; all others must be gone."""
        assert self.n_tables == 0, "tables of a live range would leak"
        self._frames.put(self.root)


def _round_up(value: int, span: int) -> int:
    return (value + span - 1) & -span
