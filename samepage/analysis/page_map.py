"""Each page of a file: how often the cached page is mapped, how many processes have a copy.

This is the picture that the HTML report draws, and where all reports have it from which pages
were copied. It looks at every page once more, and keeps
only what belongs to the files that were asked for, as arrays.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samepage.analysis.counting import ResidentPages
from samepage.analysis.sharing import Sharing
from samepage.snapshot.tables import PAGE_SHIFT, column

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FilePage:
    """One page of a file that somebody has.

    `mapped` counts the mappings of the page cache's frame (by the scope's count), `copied`
    the processes with a private copy of the page. `cached` tells that the frame is in memory,
    mapped or not.
    """

    index: int
    cached: bool
    mapped: int
    copied: int


@dataclass(frozen=True, slots=True)
class CopiedRun:
    """Pages of a file in a row, of which as many processes have a private copy."""

    first: int
    pages: int
    processes: int


@dataclass(frozen=True, slots=True)
class PageMap:
    """The pages of one file that somebody has, as columns of `FilePage`.

    Invariants: `index` is strictly ascending, and all columns have its length.
    """

    index: Indexes
    cached: npt.NDArray[np.bool_]
    mapped: npt.NDArray[np.int32]
    copied: npt.NDArray[np.int32]

    def pages(self) -> list[FilePage]:
        """Return the pages one by one."""
        columns = (self.index, self.cached, self.mapped, self.copied)
        return [
            FilePage(*values) for values in zip(*(each.tolist() for each in columns), strict=True)
        ]

    def copied_runs(self) -> list["CopiedRun"]:
        """Return the pages that were copied, by page."""
        rows = np.flatnonzero(self.copied)
        index, processes = self.index[rows], self.copied[rows]
        breaks = (np.diff(index) != 1) | (np.diff(processes) != 0)
        first = np.concatenate(([0], np.flatnonzero(breaks) + 1)) if len(rows) else rows
        lengths = np.diff(np.append(first, len(rows)))
        columns = (index[first], lengths, processes[first])
        return [CopiedRun(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]

    def coarser(self, shift: int) -> "PageMap":
        """Return a map whose pages stand for 2^shift pages each: the maximum of each."""
        blocks, first = np.unique(self.index >> shift, return_index=True)
        if not len(blocks):
            return self
        return PageMap(
            blocks,
            np.logical_or.reduceat(self.cached, first),
            np.maximum.reduceat(self.mapped, first),
            np.maximum.reduceat(self.copied, first),
        )


def page_maps(sharing: Sharing, files: Collection[int]) -> dict[int, PageMap]:
    """Return the maps of some files, by their numbers."""
    frames = sharing.counted.frames
    rows = np.flatnonzero(np.isin(frames.file, list(files)))
    of_frames = (
        frames.file[rows].astype(np.int64),
        column(sharing.snapshot.frames, "index")[rows],
        np.where(frames.mapped[rows] > 0, frames.degree[rows], 0),
    )
    of_copies = _copies(sharing, files)
    return {file: _page_map(file, of_frames, of_copies) for file in files}


def _page_map(file: int, frames: Any, copies: Any) -> PageMap:
    (cached, mapped), (copied, times) = (
        (index[number == file], value[number == file]) for number, index, value in (frames, copies)
    )
    index = np.union1d(cached, copied)
    result = PageMap(
        index,
        np.isin(index, cached),
        np.zeros(len(index), dtype=np.int32),
        np.zeros(len(index), dtype=np.int32),
    )
    result.mapped[np.searchsorted(index, cached)] = mapped
    result.copied[np.searchsorted(index, copied)] = times
    return result


def _copies(sharing: Sharing, files: Collection[int]) -> tuple[Indexes, Indexes, Indexes]:
    """Return file, page of the file, and how many processes copied it, for pages that are."""
    vmas = sharing.snapshot.vmas
    file = column(vmas, "file")
    wanted = np.isin(file, list(files))
    # The page of the file = virtual page - first page of the VMA + its offset in pages.
    start, offset = (
        (column(vmas, name) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        for name in ("start", "offset")
    )
    shift = offset - start
    parts = [np.empty((3, 0), dtype=np.int64)]
    for pages in sharing.counted.reader:
        parts.append(_copied_pages(pages, wanted, (file, shift, column(vmas, "pid"))))
    # A process that maps a file twice may have two copies of a page.
    owned = np.unique(np.concatenate(parts, axis=1), axis=1)
    pairs, times = np.unique(owned[:2], axis=1, return_counts=True)
    return pairs[0], pairs[1], times


def _copied_pages(
    pages: ResidentPages,
    wanted: npt.NDArray[np.bool_],
    of_vmas: tuple[npt.NDArray[np.int32], Indexes, npt.NDArray[np.int32]],
) -> Indexes:
    """Return file, page of the file and pid of the copies in a batch, from those of the VMAs."""
    file, shift, pid = of_vmas
    copied = pages.anonymous & wanted[pages.vma]
    vma = pages.vma[copied]
    index = pages.batch.vpage[copied].astype(np.int64) + shift[vma]
    return np.stack((file[vma].astype(np.int64), index, pid[vma].astype(np.int64)))
