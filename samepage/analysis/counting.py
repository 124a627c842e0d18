"""Frame by frame and VMA by VMA: the two passes over all pages that every answer rests on.

The kernel counts for `/proc/PID/smaps` by walking one process's page table and asking each
page how often it is mapped (`smaps_account` and `smaps_page_accumulate` in
fs/proc/task_mmu.c). A snapshot has all page tables at once, so the same is done in two
passes over the `pages` table: the first counts how often each frame is mapped, the second
adds each page to the counters of its VMA. Processes, files and groups are sums of VMAs.

Both passes take pages in bounded batches; what is kept is one number per frame and one row
of counters per VMA. Where the pages do not tell a VMA's sums but smaps did when the snapshot was
made, its row has the kernel's own.

The kernel's rules, kept here:

- Resident is what is present, but for the zero page and `[vvar]`, which have no `struct
  page` that is accounted (`vm_normal_page` returns NULL), and hugetlb pages, which `smaps`
  counts on lines of their own.
- A page is shared if it is mapped more than once, even if twice by the same process. (Two
  processes with one address space, as between vfork and exec, count as two that share it.)
- A page's share of a frame is 4096 * 2^12 / mapcount, rounded down (PSS_SHIFT): a sum of
  such shares is the kernel's Pss, which can be a little less than the true one.
"""

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import PSS_SHIFT
from samepage.snapshot.frame_index import FrameIndex
from samepage.snapshot.schema import FrameKind, PageFlags
from samepage.snapshot.tables import PageBatch, Snapshot, column
from samepage.snapshot.vma_index import VmaIndex

PAGE_SIZE = 4096


class Scope(enum.Enum):
    """Who counts as sharing a frame."""

    GROUP = "group"
    """The processes of the snapshot: what this group of programs costs by itself."""
    SYSTEM = "system"
    """All processes of the machine, as `smaps` has it: also those that were not captured."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Scope":
        """Return the natural scope: the model holds nothing else, a live kernel does."""
        return cls.SYSTEM if snapshot.source == "live" else cls.GROUP


class Count(enum.IntEnum):
    """The columns of the counters; all in pages but PSS, in 1/4096 bytes."""

    SHARED_CLEAN = 0
    SHARED_DIRTY = 1
    PRIVATE_CLEAN = 2
    PRIVATE_DIRTY = 3
    RSS = 4
    ANONYMOUS = 5
    SWAP = 6
    ZERO = 7
    HUGETLB = 8
    UNKNOWN = 9
    """Resident pages of which nobody knows how often they are mapped."""
    PSS = 10


Counters = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a snapshot, and how often each is mapped.

    Invariants: all arrays have one entry per row of `frames` plus a last one, which stands
    for "frame not known" (row -1); `mapped` counts the resident pages of the snapshot;
    `degree` is what a frame is divided by, and `degree >= mapped`.
    """

    index: FrameIndex
    kind: npt.NDArray[np.uint8]
    file: npt.NDArray[np.int32]
    mapped: npt.NDArray[np.int32]
    degree: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ResidentPages:
    """The pages of a batch with what their frames say; arrays of the batch's length."""

    batch: PageBatch
    row: npt.NDArray[np.int32]
    """Row in `frames`, or -1."""
    vma: npt.NDArray[np.int32]
    """Row in `vmas`."""
    kind: npt.NDArray[np.uint8]
    present: npt.NDArray[np.bool_]
    resident: npt.NDArray[np.bool_]

    @property
    def anonymous(self) -> npt.NDArray[np.bool_]:
        """Tell which are anonymous (also merged ones), by the page's own bit if need be."""
        told = (self.kind == FrameKind.ANON) | (self.kind == FrameKind.KSM)
        untold = (self.kind == FrameKind.UNKNOWN) & ~has(self.batch, PageFlags.FILE)
        anonymous: npt.NDArray[np.bool_] = self.resident & (told | untold)
        return anonymous


class PageReader:
    """Goes over all pages, and tells of each which frame and VMA it has."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.index = FrameIndex(column(snapshot.frames, "frame"))
        self.kind = np.append(column(snapshot.frames, "kind"), np.uint8(FrameKind.UNKNOWN))
        self._vmas = VmaIndex(snapshot)
        # [vvar] is mapped by page frame number, without a struct page (rule of vm_normal_page)
        names = snapshot.vmas["name"].to_pylist()
        self._unaccounted = np.array([name.startswith("[vvar") for name in names], bool)

    def __iter__(self) -> Iterator[ResidentPages]:
        for batch in self.snapshot.page_batches():
            yield self.look_up(batch)

    def look_up(self, batch: PageBatch) -> ResidentPages:
        """Return what is known of the pages of one batch."""
        row = self.index.rows(batch.frame)
        vma = self._vmas.rows(batch)
        kind = self.kind[row]
        present = has(batch, PageFlags.PRESENT)
        resident = present & (kind != FrameKind.ZERO) & (kind != FrameKind.HUGETLB)
        if self._unaccounted.any():
            resident &= ~self._unaccounted[vma]
        return ResidentPages(batch, row, vma, kind, present, resident)


@dataclass(frozen=True, slots=True)
class Counted:
    """The result of both passes.

    Invariants: `vmas` has a row for each row of the table `vmas`; in each of its rows
    RSS = shared + private + unknown; the values of `degrees[pid]` sum up to the RSS of the
    process, with degree 0 for pages that are unknown, unless `by_smaps`.
    """

    reader: PageReader
    frames: Frames
    vmas: Counters
    degrees: dict[int, Counter[int]]
    by_smaps: bool
    """No frame is known, and the sums are those that the kernel told."""


def count(snapshot: Snapshot, scope: Scope) -> Counted:
    """Count all pages of a sound snapshot; two passes, in bounded memory."""
    reader = PageReader(snapshot)
    frames = _count_mappings(reader, scope)
    vmas = np.zeros((snapshot.vmas.num_rows, len(Count)), dtype=np.int64)
    degrees: dict[int, Counter[int]] = {
        pid: Counter() for pid in snapshot.processes["pid"].to_pylist()
    }
    for pages in reader:
        degree = _degrees(pages, frames)
        _add_to_vmas(vmas, pages, degree)
        _add_to_processes(degrees, pages, degree)
    rows, told = snapshot.told()
    if scope is Scope.SYSTEM:
        _take_sums(vmas, rows, told)
    by_smaps = scope is Scope.SYSTEM and not snapshot.frames.num_rows and len(rows) > 0
    return Counted(reader, frames, vmas, degrees, by_smaps)


def _take_sums(vmas: Counters, rows: Counters, told: Counters) -> None:
    """Replace the counters of some VMAs by the kernel's own sums (`TOLD`)."""
    vmas[rows, :4] = told[:, :4]
    vmas[rows, Count.RSS] = told[:, :4].sum(axis=1)
    vmas[rows, Count.ANONYMOUS] = told[:, 4]
    vmas[rows, Count.PSS] = told[:, 5]
    vmas[rows, Count.UNKNOWN] = 0


def has(batch: PageBatch, flag: PageFlags) -> npt.NDArray[np.bool_]:
    """Tell which pages of the batch have this flag."""
    told: npt.NDArray[np.bool_] = (batch.flags & np.uint16(flag)) != 0
    return told


def _count_mappings(reader: PageReader, scope: Scope) -> Frames:
    table = reader.snapshot.frames
    mapped = np.zeros(table.num_rows + 1, dtype=np.int32)
    for pages in reader:
        np.add.at(mapped, pages.row[pages.resident], np.int32(1))
    mapped[-1] = 0  # whatever is unknown is not one frame
    degree = mapped
    if scope is Scope.SYSTEM:
        # Counts are read after page tables; a process may have exited in between.
        degree = np.maximum(mapped, np.append(column(table, "mapcount"), np.int32(0)))
    file = np.append(column(table, "file"), np.int32(-1))
    return Frames(reader.index, reader.kind, file, mapped, degree)


def _degrees(pages: ResidentPages, frames: Frames) -> npt.NDArray[np.int32]:
    """Return how often each page's frame is mapped; 0 if that is not known."""
    degree = frames.degree[pages.row]
    # Without frame numbers the kernel still tells which pages are mapped exactly once.
    degree[(pages.row < 0) & has(pages.batch, PageFlags.EXCLUSIVE)] = 1
    return degree


def _add_to_vmas(vmas: Counters, pages: ResidentPages, degree: npt.NDArray[np.int32]) -> None:
    def add(column: Count, mask: npt.NDArray[Any]) -> None:
        vmas[:, column] += np.bincount(pages.vma[mask], minlength=len(vmas))

    known = pages.resident & (degree > 0)
    vma, times = pages.vma[known], degree[known]
    dirty = has(pages.batch, PageFlags.DIRTY)[known]
    corner = (times == 1) * 2 + dirty  # the order of the first four of Count
    vmas[:, :4] += np.bincount(vma * np.int64(4) + corner, minlength=4 * len(vmas)).reshape(-1, 4)
    share = (PAGE_SIZE << PSS_SHIFT) // times
    # float64 sums are exact here: below 2^53 up to 512 million pages of one VMA in a batch
    vmas[:, Count.PSS] += np.bincount(vma, share, len(vmas)).astype(np.int64)
    add(Count.RSS, pages.resident)
    add(Count.ANONYMOUS, pages.anonymous)
    add(Count.SWAP, has(pages.batch, PageFlags.SWAPPED) & ~pages.present)
    add(Count.ZERO, pages.present & (pages.kind == FrameKind.ZERO))
    add(Count.HUGETLB, pages.present & (pages.kind == FrameKind.HUGETLB))
    add(Count.UNKNOWN, pages.resident & (degree == 0))


def _add_to_processes(
    degrees: dict[int, Counter[int]], pages: ResidentPages, degree: npt.NDArray[np.int32]
) -> None:
    for pid, run in pages.batch.runs():
        histogram = np.bincount(degree[run][pages.resident[run]])
        times = np.flatnonzero(histogram)
        degrees[pid].update(dict(zip(times.tolist(), histogram[times].tolist(), strict=True)))
