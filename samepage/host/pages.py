"""The resident pages of all processes, six bytes each.

Ten million pages must fit beside everything else, so nothing is kept per page but its
frame and its flags. Where a page is follows from the run that it lies in: a run is a
stretch of consecutive resident virtual pages of one process. Which VMA a page belongs to
follows from order: pages and VMAs are both sorted by process and address, so the pages of
a VMA are a slice, and sums per VMA are `np.add.reduceat` (see `Pages.slices`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samepage.host.collect import Batch
from samepage.host.maps import Vmas
from samepage.snapshot.kinds import PageFlags

PFN_MASK = np.uint64((1 << 55) - 1)
_FLAGS_SHIFT = np.uint32(23)
_FRAME_ABOVE_32 = np.uint32((1 << 23) - 1)
_PRESENT = np.uint32(1 << 31)
_SWAPPED = np.uint32(1 << 30)
_GUARD_REGION = np.uint32(1 << 26)
"""In the upper 32 bits of an entry; a guard page (MADV_GUARD_INSTALL) looks swapped."""

_VPAGE_BITS = np.uint64(36)
_VPAGE_MAX = np.uint64((1 << 36) - 1)


def _flags_table() -> npt.NDArray[np.uint16]:
    """Return `PageFlags` by the upper 9 bits (55 to 63) of a pagemap entry."""
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
    return table


_FLAGS = _flags_table()


@dataclass(slots=True, eq=False)
class Pages:
    """Present and swapped pages.

    Invariants: runs ascend by (process, vpage) and do not overlap; run `i` holds the pages
    `run_first[i]` to `run_first[i + 1]` (the last one ends with the arrays), none is empty;
    `frame` is 0 for swapped pages, and for all when the kernel does not tell frames.
    """

    run_process: npt.NDArray[np.int32]
    run_vpage: npt.NDArray[np.uint64]
    run_first: npt.NDArray[np.int64]
    frame: npt.NDArray[Any]  # uint32, or uint64 on a machine with 16 TiB of addresses or more
    flags: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.frame)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return how many pages each run holds."""
        return np.diff(self.run_first, append=len(self.frame))

    def vpages(self, first: int, last: int) -> npt.NDArray[np.uint64]:
        """Return the virtual pages of the pages numbered `first` to `last` (not included)."""
        low = int(np.searchsorted(self.run_first, first, side="right")) - 1
        high = int(np.searchsorted(self.run_first, last, side="left"))
        starts = self.run_first[low:high]
        bounds = np.append(starts, last)
        bounds[0] = first
        shift = self.run_vpage[low:high] - starts.astype(np.uint64)
        numbers = np.arange(first, last, dtype=np.uint64)
        return np.repeat(shift, np.diff(bounds)) + numbers

    def locate(self, pages: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the virtual pages of any pages, given by number."""
        run = np.searchsorted(self.run_first, pages, side="right") - 1
        return self.run_vpage[run] + (pages - self.run_first[run]).astype(np.uint64)

    def position(
        self, process: npt.NDArray[np.int32], vpage: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        """Return the number of the first page at or above each (process, virtual page)."""
        if not len(self.run_first):
            return np.zeros(len(process), dtype=np.int64)
        keys = _key(self.run_process, self.run_vpage)
        wanted = _key(process, vpage)
        run = np.searchsorted(keys, wanted, side="right") - 1
        inside = np.minimum(wanted - keys[run], self.lengths()[run].astype(np.uint64))
        return np.where(run < 0, 0, self.run_first[run] + inside.astype(np.int64))

    def slices(self, vmas: Vmas) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for each VMA the number of its first page, and that after its last."""
        shift = np.uint64(12)
        return (
            self.position(vmas.process, vmas.start >> shift),
            self.position(vmas.process, vmas.end >> shift),
        )

    def keep(self, wanted: npt.NDArray[np.bool_]) -> "Pages":
        """Return the pages that are marked in `wanted`."""
        return _from_numbers(
            np.flatnonzero(wanted),
            np.repeat(np.arange(len(self.run_first)), self.lengths()),
            self.run_process,
            self.run_vpage,
            self.run_first,
            self.frame,
            self.flags,
        )


class PagesBuilder:
    """Decodes batches of pagemap entries as they come."""

    def __init__(self) -> None:
        self._parts: list[Pages] = []

    def add(self, batch: Batch) -> None:
        """Decode one batch; nothing of it is referred to afterwards."""
        entries = np.frombuffer(batch.entries, dtype=np.uint64)
        if not len(entries):
            return
        runs = np.frombuffer(batch.runs, dtype=np.uint64).reshape(-1, 3)
        lengths = runs[:, 2].astype(np.int64)
        process, vpage = runs[:, 0].astype(np.int32), runs[:, 1].copy()
        first = np.cumsum(lengths) - lengths
        # The halves of the entries: flags and the upper bits of the frame, the rest of it.
        upper = entries.view(np.uint32)[1::2]
        frame: npt.NDArray[Any] = entries.view(np.uint32)[::2]
        present = upper >= _PRESENT
        if (upper & _FRAME_ABOVE_32).any():
            frame = np.where(present, entries & PFN_MASK, 0)
            if frame.max() < 1 << 32:
                frame = frame.astype(np.uint32)
        if present.all():
            part = Pages(process, vpage, first, frame.copy(), _FLAGS[upper >> _FLAGS_SHIFT])
        else:
            swapped = (upper & (_SWAPPED | _GUARD_REGION)) == _SWAPPED
            frame = np.where(present, frame, frame.dtype.type(0))
            numbers = np.flatnonzero(present | swapped)
            run_of = np.repeat(np.arange(len(runs)), lengths)
            flags = _FLAGS[upper >> _FLAGS_SHIFT]
            part = _from_numbers(numbers, run_of, process, vpage, first, frame, flags)
        if len(part):
            self._parts.append(part)

    def build(self) -> Pages:
        """Return all pages. The builder is empty afterwards."""
        parts, self._parts = self._parts, []
        if not parts:
            none = np.zeros(0, dtype=np.int64)
            return Pages(
                none.astype(np.int32),
                none.astype(np.uint64),
                none,
                none.astype(np.uint32),
                none.astype(np.uint16),
            )
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        offsets = (np.cumsum(sizes) - sizes).tolist()
        run_first = [part.run_first + offset for part, offset in zip(parts, offsets, strict=True)]
        return Pages(
            np.concatenate([part.run_process for part in parts]),
            np.concatenate([part.run_vpage for part in parts]),
            np.concatenate(run_first),
            np.concatenate([part.frame for part in parts]),
            np.concatenate([part.flags for part in parts]),
        )


def _from_numbers(
    numbers: npt.NDArray[np.int64],
    run_of: npt.NDArray[np.int64],
    process: npt.NDArray[np.int32],
    vpage: npt.NDArray[np.uint64],
    first: npt.NDArray[np.int64],
    frame: npt.NDArray[Any],
    flags: npt.NDArray[np.uint16],
) -> Pages:
    """Return the pages with these numbers out of a larger set, in runs of their own."""
    run = run_of[numbers]
    begins = np.ones(len(numbers), dtype=bool)
    if len(numbers):
        begins[1:] = (np.diff(numbers) != 1) | (np.diff(run) != 0)
    run_first = np.flatnonzero(begins)
    run = run[run_first]
    run_vpage = vpage[run] + (numbers[run_first] - first[run]).astype(np.uint64)
    return Pages(process[run], run_vpage, run_first, frame[numbers], flags[numbers])


def _key(process: npt.NDArray[np.int32], vpage: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return process.astype(np.uint64) << _VPAGE_BITS | np.minimum(vpage, _VPAGE_MAX)
