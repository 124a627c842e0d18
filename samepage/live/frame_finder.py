"""Giving each distinct frame a number as it is first seen, batch by batch.

The pages name thousands to millions of frames, in any order and many times. Everything that is
known of a frame (its kind, its map count, its file) is kept once, in a row of a table, so each
frame number has to become a row number. Doing that for a batch while it still is in the
processor's cache, and while the kernel hands out the next one, costs nearly nothing; doing
it for ten million pages afterwards costs as much as reading them.

The rows are found in a table of two levels, like a page table: `_block_of` is indexed by the
upper bits of the frame number and gives which block of 64 rows the lower bits index. Frames
of a system lie together, so the blocks are few, also where the numbers are large. Block 0
serves all that were never seen. What was not seen has row 0, the one for "no frame": so the
tables begin as zeros, of which only those in use become memory.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from samepage.records import record
from samepage.snapshot.arrays import distinct

Rows = npt.NDArray[np.int32]
Blocks = npt.NDArray[np.int64]

_NO_FRAME = (
    np.zeros(1, dtype=np.int64),
    np.full(1, -1, dtype=np.int64),
    np.zeros(1, dtype=np.uint16),
)
"""Row 0."""
_BLOCK_BITS = 6
_BLOCK = 1 << _BLOCK_BITS
_FIRST_ROOM = 1 << 16
"""Entries that the tables begin with."""
_FAR = 1 << 26
"""If there are blocks from here on (16 TiB of physical addresses), a dictionary takes the place
of `_block_of`."""


@record(eq=False)
class FoundFrames:
    """What the pages show of their frames, in the order they were first seen.

    Invariants: all columns have the same length; row 0 means "no frame", and its
    `number` is 0; no number occurs twice.
    """

    number: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    """The number of the first page that has the frame."""
    flags: npt.NDArray[np.uint16]
    """The flags of that page."""
    mapped: npt.NDArray[np.int32]
    """How many pages have it."""

    def __len__(self) -> int:
        return len(self.number)

    def recount(self, rows: Rows, flags: npt.NDArray[np.uint16]) -> None:
        """Keep the frames of these pages only, and number `rows` anew, in place."""
        mapped = np.bincount(rows, minlength=len(self)).astype(np.int32)
        kept = mapped > 0
        kept[0] = True
        page = np.arange(len(rows))
        # Of equal indices the last assignment stays.
        self.first[rows[::-1]] = page[::-1]
        self.flags[rows[::-1]] = flags[::-1]
        rows[:] = (np.cumsum(kept, dtype=np.int32) - 1)[rows]
        self.number, self.first = self.number[kept], self.first[kept]
        self.flags = self.flags[kept]
        self.mapped = mapped[kept]


class FrameFinder:
    """Numbers frames from 1 in the order they are first seen; 0 is for pages without one."""

    def __init__(self) -> None:
        self._block_of = np.zeros(_FIRST_ROOM, dtype=np.int32)
        self._far: dict[int, int] | None = None
        self._rows = np.zeros(_FIRST_ROOM << 2, dtype=np.int32)
        self._blocks = 1
        self._count = 1
        self._mapped = np.zeros(_FIRST_ROOM, dtype=np.int32)
        self._new: list[tuple[npt.NDArray[Any], ...]] = [_NO_FRAME]

    def add(self, frames: npt.NDArray[np.int64], flags: npt.NDArray[np.uint16], page: int) -> Rows:
        """Return the row of each of `frames`, which are those of the pages from `page` on."""
        slots = self._slots(frames)
        rows: Rows = self._rows[slots]
        unseen = np.flatnonzero((rows == 0) & (frames != 0))
        if len(unseen):
            new = frames[unseen], unseen + page, flags[unseen]
            rows[unseen] = self._learn(slots[unseen], *new)
        np.add.at(self._mapped, rows, np.int32(1))
        return rows

    def found(self) -> FoundFrames:
        """Return all frames so far."""
        number, first, flags = (np.concatenate(column) for column in zip(*self._new, strict=True))
        return FoundFrames(number, first, flags, self._mapped[: self._count].copy())

    def _slots(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return for each frame its place in `_rows`."""
        slots = self._bases(frames >> _BLOCK_BITS).astype(np.int64)
        slots <<= _BLOCK_BITS
        slots |= frames & (_BLOCK - 1)
        return slots

    def _bases(self, blocks: Blocks) -> Rows:
        """Return the block of `_rows` for each block of frames, 0 for one not seen yet."""
        if self._far is None:
            highest = int(blocks.max(initial=0))
            if highest < len(self._block_of):
                return self._block_of[blocks]
            if highest < _FAR:
                self._block_of = _longer(self._block_of, highest + 1)
                return self._block_of[blocks]
            used = np.flatnonzero(self._block_of).tolist()
            self._far = dict(zip(used, self._block_of[used].tolist(), strict=True))
        different = distinct(blocks)
        known = [self._far.get(block, 0) for block in different.tolist()]
        return np.array(known, dtype=np.int32)[np.searchsorted(different, blocks)]

    def _learn(
        self,
        slots: npt.NDArray[np.int64],
        frames: npt.NDArray[np.int64],
        pages: npt.NDArray[np.int64],
        flags: npt.NDArray[np.uint16],
    ) -> Rows:
        """Return the new rows of frames that were not seen before; some may be the same.

        `slots` are their places as far as they have one, which this changes.
        """
        homeless = slots < _BLOCK
        if homeless.any():
            strangers = frames[homeless]
            self._add_blocks(strangers >> _BLOCK_BITS)
            slots[homeless] = self._slots(strangers)
        order = np.arange(len(frames), dtype=np.int32)
        # Of equal indices the last assignment stays: so the first page of a frame comes last.
        self._rows[slots[::-1]] = order[::-1]
        first = np.flatnonzero(self._rows[slots] == order)
        count = self._count + len(first)
        self._rows[slots[first]] = np.arange(self._count, count, dtype=np.int32)
        self._new.append((frames[first], pages[first], flags[first]))
        self._count = count
        if count > len(self._mapped):
            self._mapped = _longer(self._mapped, count)
        rows: Rows = self._rows[slots]
        return rows

    def _add_blocks(self, blocks: Blocks) -> None:
        """Give a block of `_rows` to each of these, none of which has one; some may be the same."""
        if self._far is None:
            # As with the rows: the last assignment stays, and each block is taken once.
            order = np.arange(len(blocks), dtype=np.int32)
            self._block_of[blocks] = order
            blocks = blocks[self._block_of[blocks] == order]
            last = self._blocks + len(blocks)
            self._block_of[blocks] = np.arange(self._blocks, last, dtype=np.int32)
        else:
            different = set(blocks.tolist())
            last = self._blocks + len(different)
            self._far.update(zip(different, range(self._blocks, last), strict=True))
        self._blocks = last
        if last << _BLOCK_BITS > len(self._rows):
            self._rows = _longer(self._rows, last << _BLOCK_BITS)


def _longer(values: npt.NDArray[np.int32], length: int) -> npt.NDArray[np.int32]:
    """Return a copy of at least `length`, at least twice as long as `values`; zeros behind it."""
    longer = np.zeros(max(length, 2 * len(values)), dtype=np.int32)
    longer[: len(values)] = values
    return longer
