"""Pagemap entries as pages: what is resident or swapped out, with its flags and frame.

An entry has 64 bits (Documentation/admin-guide/mm/pagemap.rst): the upper nine are flags, the
lower 55 the frame number, or 0 if the kernel does not show it.
"""

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import Pm
from samepage.live.collect import Batch
from samepage.live.frame_finder import FrameFinder
from samepage.snapshot.kinds import PageFlags
from samepage.snapshot.pages import Pages, PagesBuilder, runs_within

PFN_MASK = np.uint64(Pm.PFRAME)
_FLAGS_SHIFT = np.uint64(55)
_PRESENT = 1 << 8
_SWAPPED = 1 << 7
_GUARD_REGION = 1 << 3
"""In the upper 9 bits of an entry; a guard page (MADV_GUARD_INSTALL) looks swapped."""


def _flags_table() -> npt.NDArray[np.uint16]:
    """Return `PageFlags` by the upper 9 bits (55 to 63) of a pagemap entry, 0 for no page."""
    bits = {
        8: PageFlags.PRESENT,
        7: PageFlags.SWAPPED,
        6: PageFlags.FILE,
        1: PageFlags.EXCLUSIVE,
        0: PageFlags.SOFT_DIRTY,
    }
    values = np.arange(512, dtype=np.uint16)
    table = np.zeros(512, dtype=np.uint16)
    for bit, flag in bits.items():
        table |= np.where(values >> bit & 1, np.uint16(flag), np.uint16(0))
    swapped = (values & (_SWAPPED | _GUARD_REGION)) == _SWAPPED
    table[(values < _PRESENT) & ~swapped] = 0
    return table


_FLAGS = _flags_table()


class PagesDecoder:
    """Decodes batches of pagemap entries as they come."""

    def __init__(self, finder: FrameFinder) -> None:
        """`finder` sees every page; `Pages.frame` holds the rows that it gives out."""
        self._finder = finder
        self._pages = PagesBuilder()

    def add(self, batch: Batch) -> None:
        """Decode one batch; nothing of it is referred to afterwards."""
        entries = np.frombuffer(batch.entries, dtype=np.uint64)
        if not len(entries):
            return
        runs = np.frombuffer(batch.runs, dtype=np.uint64).reshape(-1, 3)
        lengths = runs[:, 2].astype(np.int64)
        process, vpage = runs[:, 0].astype(np.int32), runs[:, 1].copy()
        first = np.cumsum(lengths) - lengths
        # Both are below 2^63. An index that is no int64 would be converted at each look-up.
        flags = _FLAGS[(entries >> _FLAGS_SHIFT).view(np.int64)]
        frame = (entries & PFN_MASK).view(np.int64)
        resident = flags != 0
        if not resident.all():
            begins, process, vpage = runs_within(resident, process, vpage, first)
            numbers = np.flatnonzero(resident)
            first = np.searchsorted(numbers, begins)
            frame, flags = frame[numbers], flags[numbers]
        if not len(frame):
            return
        swapped = (flags & np.uint16(PageFlags.PRESENT)) == 0
        frame[swapped] = 0
        rows = self._finder.add(frame, flags, len(self._pages))
        self._pages.add(process, vpage, first, rows, flags)

    def build(self) -> Pages:
        """Return all pages; the decoder is used up."""
        return self._pages.build()
