"""From page to the row of the VMA that it lies in, for millions of pages at once.

Pages and VMAs are sorted the same way, by process and address. So not each page looks for
its VMA: each VMA looks for its first and last page, which is some hundred binary searches
per process however many pages it has.
"""

import numpy as np
import numpy.typing as npt

from samepage.snapshot.tables import PAGE_SHIFT, PageBatch, Snapshot, column


class VmaIndex:
    """Finds VMA rows by pid and page. The snapshot's VMAs must be sorted and disjoint."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._pid = column(snapshot.vmas, "pid")
        self._first = column(snapshot.vmas, "start") >> np.uint64(PAGE_SHIFT)
        self._end = column(snapshot.vmas, "end") >> np.uint64(PAGE_SHIFT)

    def rows(self, batch: PageBatch) -> npt.NDArray[np.int32]:
        """Return for each page of the batch its row in `vmas`, or -1 if it is in none."""
        rows = np.full(len(batch.pid), -1, dtype=np.int32)
        for pid, run in batch.runs():
            v_low = int(np.searchsorted(self._pid, np.int32(pid), side="left"))
            v_high = int(np.searchsorted(self._pid, np.int32(pid), side="right"))
            vpages = batch.vpage[run]
            first = np.searchsorted(vpages, self._first[v_low:v_high])
            end = np.searchsorted(vpages, self._end[v_low:v_high])
            inside = end - first
            taken = np.flatnonzero(inside > 0)
            _fill(rows[run], first[taken], end[taken], (taken + v_low).astype(np.int32))
        return rows


def _fill(
    rows: npt.NDArray[np.int32],
    first: npt.NDArray[np.intp],
    end: npt.NDArray[np.intp],
    values: npt.NDArray[np.int32],
) -> None:
    """Set `rows[first[i]:end[i]]` to `values[i]` for disjoint ascending ranges."""
    for low, high, value in zip(first.tolist(), end.tolist(), values.tolist(), strict=True):
        rows[low:high] = value
