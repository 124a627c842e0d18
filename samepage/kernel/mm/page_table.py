"""One process's page tables: making them, finding entries, and giving them back.

The tables are frames of RAM in the format of `arch.arch.PageTableFormat`: four levels of 512
entries. Linux counts them
(`mm_pgtables_bytes`, VmPTE) without the top one; so does `n_tables`.

An entry is empty (0), or maps a page; a mapped page whose range is PROT_NONE has PROTNONE
in place of PRESENT. There are no other entries, since nothing is swapped: "not 0" is what
Linux calls `pte_present`.
"""

from collections.abc import Iterator

from samepage.arch import FRAME_MASK, LEVEL_SHIFTS, PAGE_SHIFT, PMD_SHIFT, PMD_SIZE, TABLE_FLAGS
from samepage.cpu.mmu import walk
from samepage.kernel.mm.frames import FrameKind, Frames

_PAGE_TABLE = int(FrameKind.PAGE_TABLE)
_PGD_SHIFT, _PUD_SHIFT, _ = LEVEL_SHIFTS


class PageTable:
    """A four-level table whose top is the frame `root` (`mm->pgd`)."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._words = frames.ram.words
        self.root = frames.allocate_zeroed(_PAGE_TABLE)
        self.n_tables = 0

    def slot(self, address: int) -> int:
        """The index into `ram.words` of the entry for `address`; 0 if no table is there."""
        return walk(self._words, self.root, address)

    def get(self, address: int) -> int:
        """The entry for `address`, 0 if there is none."""
        slot = walk(self._words, self.root, address)
        return self._words[slot] if slot else 0

    def make_slot(self, address: int) -> int:
        """The same as `slot`, with missing tables made (`pte_alloc`). Raises `OutOfFrames`."""
        slot = walk(self._words, self.root, address)
        return slot or self._make_tables(address)

    def _make_tables(self, address: int) -> int:
        words = self._words
        base = self.root << 9
        for shift in LEVEL_SHIFTS:
            at = base + (address >> shift & 511)
            entry = words[at]
            if not entry:
                pfn = self._frames.allocate_zeroed(_PAGE_TABLE)
                entry = words[at] = pfn << PAGE_SHIFT | TABLE_FLAGS
                self.n_tables += 1
            base = (entry & FRAME_MASK) >> 3
        return base + (address >> PAGE_SHIFT & 511)

    def tables(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The part of each last-level table that serves [start, end), as (address, slot,
        number of entries); ranges without a table are skipped."""
        words = self._words
        top = self.root << 9
        while start < end:
            entry = words[top + (start >> _PGD_SHIFT & 511)]
            if not entry:
                start = (start | (1 << _PGD_SHIFT) - 1) + 1
                continue
            entry = words[((entry & FRAME_MASK) >> 3) + (start >> _PUD_SHIFT & 511)]
            if not entry:
                start = (start | (1 << _PUD_SHIFT) - 1) + 1
                continue
            stop = min(end, (start | (PMD_SIZE - 1)) + 1)
            entry = words[((entry & FRAME_MASK) >> 3) + (start >> PMD_SHIFT & 511)]
            if entry:
                slot = ((entry & FRAME_MASK) >> 3) + (start >> PAGE_SHIFT & 511)
                yield start, slot, (stop - start) >> PAGE_SHIFT
            start = stop

    def present(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Each mapped page of [start, end), as (address, slot, entry).

        The entries of one table are read at once: a caller that may lose pages to
        reclaim in between reads them again.
        """
        words = self._words
        for address, slot, count in self.tables(start, end):
            for offset, entry in enumerate(words[slot : slot + count].tolist()):
                if entry:
                    yield address + (offset << PAGE_SHIFT), slot + offset, entry

    def free_tables(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Give back the tables that served only [start, end) (`free_pgtables`).

        `floor` and `ceiling` are where the neighbouring VMAs end and start: a table that
        spans one of their pages stays.
        """
        self._free_below(self.root << 9, 0, 0, start, end, floor, ceiling)

    def _free_below(
        self, base: int, level: int, origin: int, start: int, end: int, floor: int, ceiling: int
    ) -> None:
        """Free the tables below the one at `base`, which spans addresses from `origin`."""
        words = self._words
        shift = LEVEL_SHIFTS[level]
        first = max(start - origin, 0) >> shift
        last = min((end - 1 - origin) >> shift, 511)
        for number in range(first, last + 1):
            entry = words[base + number]
            if not entry:
                continue
            address = origin + (number << shift)
            table = (entry & FRAME_MASK) >> 3
            if shift > PMD_SHIFT:
                self._free_below(table, level + 1, address, start, end, floor, ceiling)
            if address >= floor and address + (1 << shift) <= ceiling & -(1 << shift):
                words[base + number] = 0
                self._frames.put(table >> 9)
                self.n_tables -= 1

    def destroy(self) -> None:
        """Give back the top table; all others must be gone."""
        assert self.n_tables == 0, "tables of a live range would leak"
        self._frames.put(self.root)
