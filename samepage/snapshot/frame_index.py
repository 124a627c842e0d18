"""From frame number to row of the `frames` table, for millions of pages at once.

Every question about sharing begins with this step. A binary search per page costs a
microsecond once the table is larger than the cache, which is ten seconds for ten million
pages. Frame numbers are dense, though: they count the pages of one machine's RAM. So
where the numbers span at most `DENSE_FACTOR` times as many values as there are frames, a
plain array indexed by frame number holds the row (4 bytes per frame of that span);
otherwise (a few processes of a large machine) a binary search in the sorted numbers.
"""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]
Frames = npt.NDArray[np.uint64]

DENSE_FACTOR = 16
DENSE_FLOOR = 1 << 20
"""A span of this many frames (a 4 MiB array) is always made dense."""


class FrameIndex:
    """Finds rows by frame number. Invariant: `frames` is strictly ascending."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._first = np.uint64(frames[0]) if len(frames) else np.uint64(0)
        span = int(frames[-1]) - int(frames[0]) + 1 if len(frames) else 0
        self._table: Rows | None = None
        if 0 < span <= max(DENSE_FLOOR, DENSE_FACTOR * len(frames)):
            self._table = np.full(span, -1, dtype=np.int32)
            self._table[frames - self._first] = np.arange(len(frames), dtype=np.int32)

    def rows(self, frames: Frames) -> Rows:
        """Return for each frame number its row, or -1 where it is not in the table."""
        if not len(self._frames):
            return np.full(len(frames), -1, dtype=np.int32)
        if self._table is not None:
            # A number below the first one wraps around to a huge offset, and so is outside.
            offset = frames - self._first
            inside = offset < np.uint64(len(self._table))
            rows = self._table[np.where(inside, offset, np.uint64(0))]
            rows[~inside] = -1
            return rows
        rows = np.searchsorted(self._frames, frames).astype(np.int32)
        rows[rows == len(self._frames)] = 0
        rows[self._frames[rows] != frames] = -1
        return rows
