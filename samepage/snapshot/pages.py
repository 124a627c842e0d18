"""The pages of all processes, six bytes each.

Ten million pages must fit beside everything else, so nothing is kept per page but its
frame and its flags. Where a page is follows from the run that it lies in: a run is a
stretch of consecutive virtual pages of one process that are all present or swapped out. Which
VMA a page belongs to follows from order: pages and VMAs are both sorted by process and address,
so the pages of a VMA are a slice (`Snapshot.bounds`).
"""

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from samepage.records import record

I64 = npt.NDArray[np.int64]

_LEAST_ROOM = 1 << 15
_LARGE = 1 << 22

Scalar = TypeVar("Scalar", bound=np.generic)


@record(eq=False)
class Pages:
    """Present and swapped pages.

    Invariants: runs ascend by (process, vpage) and do not overlap; run `i` holds the pages
    `run_first[i]` to `run_first[i + 1]` (the last one ends with the arrays), none is empty.
    """

    run_process: npt.NDArray[np.int32]
    run_vpage: npt.NDArray[np.uint64]
    run_first: I64
    frame: npt.NDArray[np.int32]
    """A row of the table of frames."""
    flags: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.frame)

    def lengths(self) -> I64:
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

    def _runs_between(self, first: int, last: int) -> tuple[slice, I64]:
        """Return the runs of these pages, and how many of the pages each holds."""
        low = int(np.searchsorted(self.run_first, first, side="right")) - 1
        high = int(np.searchsorted(self.run_first, last, side="left"))
        bounds = np.append(self.run_first[low:high], last)
        bounds[0] = first
        return slice(low, high), np.diff(bounds)

    def locate(self, pages: I64) -> npt.NDArray[np.uint64]:
        """Return the virtual pages of any pages, given by number."""
        run = np.searchsorted(self.run_first, pages, side="right") - 1
        return self.run_vpage[run] + (pages - self.run_first[run]).astype(np.uint64)

    def position(self, process: npt.NDArray[np.int32], vpage: npt.NDArray[np.uint64]) -> I64:
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

    def keep(self, wanted: npt.NDArray[np.bool_]) -> "Pages":
        """Return the pages that are marked in `wanted`."""
        runs = self.run_process, self.run_vpage, self.run_first
        begins, process, vpage = runs_within(wanted, *runs)
        numbers = np.flatnonzero(wanted)
        first = np.searchsorted(numbers, begins)
        return Pages(process, vpage, first, self.frame[numbers], self.flags[numbers])


class _Column(Generic[Scalar]):
    """A column that grows in place: `realloc` moves page tables, not pages, once it is large."""

    def __init__(self, dtype: type[Scalar]) -> None:
        self._values = np.empty(_LEAST_ROOM, dtype=dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

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
    """Collects pages, part by part, in ascending order of process and virtual page."""

    def __init__(self) -> None:
        self._run_process = _Column(np.int32)
        self._run_vpage = _Column(np.uint64)
        self._run_first = _Column(np.int64)
        self._frame = _Column(np.int32)
        self._flags = _Column(np.uint16)

    def __len__(self) -> int:
        return len(self._frame)

    def add(
        self,
        run_process: npt.NDArray[np.int32],
        run_vpage: npt.NDArray[np.uint64],
        run_first: I64,
        frame: npt.NDArray[np.int32],
        flags: npt.NDArray[np.uint16],
    ) -> None:
        """Append runs, the numbers in `run_first` counted from the first page of this part."""
        self._run_process.extend(run_process)
        self._run_vpage.extend(run_vpage)
        self._run_first.extend(run_first + len(self))
        self._frame.extend(frame)
        self._flags.extend(flags)

    def build(self) -> Pages:
        """Return all pages; the builder is used up."""
        return Pages(
            self._run_process.take(),
            self._run_vpage.take(),
            self._run_first.take(),
            self._frame.take(),
            self._flags.take(),
        )


def runs_of(process: npt.NDArray[np.int32], vpage: npt.NDArray[np.uint64]) -> I64:
    """Return the pages with which a run begins, of consecutive pages of the same process."""
    begins = np.ones(len(vpage), dtype=bool)
    begins[1:] = (vpage[1:] != vpage[:-1] + np.uint64(1)) | (process[1:] != process[:-1])
    return np.flatnonzero(begins)


def runs_within(
    wanted: npt.NDArray[np.bool_],
    process: npt.NDArray[np.int32],
    vpage: npt.NDArray[np.uint64],
    first: I64,
) -> tuple[I64, npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
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
