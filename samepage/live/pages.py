"""The resident pages of all processes, six bytes each.

Ten million pages must fit beside everything else, so nothing is kept per page but its
frame and its flags. Where a page is follows from the run that it lies in: a run is a
stretch of consecutive resident virtual pages of one process. Which VMA a page belongs to
follows from order: pages and VMAs are both sorted by process and address, so the pages of
a VMA are a slice, and sums per VMA are `np.add.reduceat` (see `Pages.slices`).
"""

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.abi.pagemap import Pm
from samepage.live.collect import Batch
from samepage.live.frame_finder import FrameFinder
from samepage.live.maps import Vmas
from samepage.records import record
from samepage.snapshot.kinds import PageFlags

PFN_MASK = np.uint64(Pm.PFRAME)
_FLAGS_SHIFT = np.uint64(55)
_PRESENT = 1 << 8
_SWAPPED = 1 << 7
_GUARD_REGION = 1 << 3
"""In the upper 9 bits of an entry; a guard page (MADV_GUARD_INSTALL) looks swapped."""

_LEAST_ROOM = 1 << 15
_LARGE = 1 << 22

Scalar = TypeVar("Scalar", bound=np.generic)


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


@record(eq=False)
class Pages:
    """Present and swapped pages.

    Invariants: runs ascend by (process, vpage) and do not overlap; run `i` holds the pages
    `run_first[i]` to `run_first[i + 1]` (the last one ends with the arrays), none is empty.
    """

    run_process: npt.NDArray[np.int32]
    run_vpage: npt.NDArray[np.uint64]
    run_first: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int32]
    """A row of the table of frames."""
    flags: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.frame)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return how many pages each run holds."""
        return np.diff(self.run_first, append=len(self.frame))

    def vpages(self, first: int, last: int) -> npt.NDArray[np.uint64]:
        """Return the virtual pages of the pages numbered `first` to `last` (not included)."""
        runs, lengths = self._runs_between(first, last)
        shift = self.run_vpage[runs] - self.run_first[runs].astype(np.uint64)
        vpages = np.repeat(shift, lengths)
        vpages += np.arange(first, last, dtype=np.uint64)
        return vpages

    def processes(self, first: int, last: int) -> npt.NDArray[np.int32]:
        """Return whose the pages numbered `first` to `last` (not included) are."""
        runs, lengths = self._runs_between(first, last)
        return np.repeat(self.run_process[runs], lengths)

    def _runs_between(self, first: int, last: int) -> tuple[slice, npt.NDArray[np.int64]]:
        """Return the runs of these pages, and how many of the pages each holds."""
        low = int(np.searchsorted(self.run_first, first, side="right")) - 1
        high = int(np.searchsorted(self.run_first, last, side="left"))
        bounds = np.append(self.run_first[low:high], last)
        bounds[0] = first
        return slice(low, high), np.diff(bounds)

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
        lengths = self.lengths().astype(np.uint64)
        bits = int((self.run_vpage + lengths).max()).bit_length()
        keys = _key(self.run_process, self.run_vpage, bits)
        wanted = _key(process, vpage, bits)
        run = np.searchsorted(keys, wanted, side="right") - 1
        inside = np.minimum(wanted - keys[run], lengths[run])
        return np.where(run < 0, 0, self.run_first[run] + inside.astype(np.int64))

    def slices(self, vmas: Vmas) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for each VMA the number of its first page, and that after its last."""
        shift = np.uint64(HOST_PAGE_SHIFT)
        return (
            self.position(vmas.process, vmas.start >> shift),
            self.position(vmas.process, vmas.end >> shift),
        )

    def keep(self, wanted: npt.NDArray[np.bool_]) -> "Pages":
        """Return the pages that are marked in `wanted`."""
        runs = self.run_process, self.run_vpage, self.run_first
        begins, process, vpage = _runs_within(wanted, *runs)
        numbers = np.flatnonzero(wanted)
        first = np.searchsorted(numbers, begins)
        return Pages(process, vpage, first, self.frame[numbers], self.flags[numbers])


class _Column(Generic[Scalar]):
    """A column that grows in place: `realloc` moves page tables, not pages, once it is large."""

    def __init__(self, dtype: type[Scalar]) -> None:
        self._values = np.empty(_LEAST_ROOM, dtype=dtype)
        self._length = 0

    def extend(self, values: npt.NDArray[Scalar]) -> None:
        """Append values."""
        length = self._length + len(values)
        if length > len(self._values):
            # What is added is cleared and so takes memory, used or not.
            spare = length >> (1 if length < _LARGE else 4)
            self._values.resize(length + spare, refcheck=False)
        self._values[self._length : length] = values
        self._length = length

    def take(self) -> npt.NDArray[Scalar]:
        """Return the whole; the column must not be used afterwards."""
        self._values.resize(self._length, refcheck=False)
        return self._values


class PagesBuilder:
    """Decodes batches of pagemap entries as they come."""

    def __init__(self, finder: FrameFinder) -> None:
        """`finder` is told of every page; `Pages.frame` holds the rows that it gives out."""
        self._finder = finder
        self._count = 0
        self._run_process = _Column(np.int32)
        self._run_vpage = _Column(np.uint64)
        self._run_first = _Column(np.int64)
        self._frame = _Column(np.int32)
        self._flags = _Column(np.uint16)

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
            begins, process, vpage = _runs_within(resident, process, vpage, first)
            numbers = np.flatnonzero(resident)
            first = np.searchsorted(numbers, begins)
            frame, flags = frame[numbers], flags[numbers]
        if not len(frame):
            return
        swapped = (flags & np.uint16(PageFlags.PRESENT)) == 0
        frame[swapped] = 0
        self._frame.extend(self._finder.add(frame, flags, self._count))
        self._flags.extend(flags)
        self._run_process.extend(process)
        self._run_vpage.extend(vpage)
        self._run_first.extend(first + self._count)
        self._count += len(frame)

    def build(self) -> Pages:
        """Return all pages; the builder is used up."""
        return Pages(
            self._run_process.take(),
            self._run_vpage.take(),
            self._run_first.take(),
            self._frame.take(),
            self._flags.take(),
        )


def _runs_within(
    wanted: npt.NDArray[np.bool_],
    process: npt.NDArray[np.int32],
    vpage: npt.NDArray[np.uint64],
    first: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Return the pieces of runs in which all is wanted: first page, process, virtual page.

    Run `i` is of `process[i]`, begins with `vpage[i]`, which is page `first[i]`, and is not empty.
    """
    begins = wanted.copy()
    begins[1:] &= ~wanted[:-1]
    begins[first] = wanted[first]
    pages = np.flatnonzero(begins)
    run = np.searchsorted(first, pages, side="right") - 1
    return pages, process[run], vpage[run] + (pages - first[run]).astype(np.uint64)


def _key(
    process: npt.NDArray[np.int32], vpage: npt.NDArray[np.uint64], bits: int
) -> npt.NDArray[np.uint64]:
    """Return one number for each (process, virtual page), in the same order.

    `bits` are as many as the end of each run has, so that a page above all of them may count as the
    last one. How many that are depends on the system: 36 with pages of 4 KiB on x86-64, 44 with
    five-level page tables.
    """
    assert int(process.max(initial=0)).bit_length() + bits <= 64, "too many processes for a key"
    return process.astype(np.uint64) << np.uint64(bits) | np.minimum(
        vpage, np.uint64((1 << bits) - 1)
    )
