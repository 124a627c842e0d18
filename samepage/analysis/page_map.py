"""Each page of a file: how often the cached page is mapped, how many processes have a copy.

This is the picture that the HTML report draws, and from here all reports have which pages were
copied. It looks once more at the pages of those VMAs that have copies of the wanted files.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.analysis.counting import Count
from samepage.analysis.sharing import Sharing
from samepage.records import record
from samepage.snapshot.columns import I64, PAGE_SHIFT
from samepage.snapshot.kinds import PageFlags

_KNOWN_BY_FLAGS = np.uint16(PageFlags.PRESENT | PageFlags.FILE)
"""What shows whether a page is anonymous if its frame is not known."""


class FilePage(NamedTuple):
    """One page of a file that is in memory.

    `mapped` counts the mappings of the page cache's frame (by the scope's count), `copied`
    the processes with a private copy of the page. `cached` is whether the frame is in memory,
    mapped or not.
    """

    page: int
    cached: bool
    mapped: int
    copied: int


class CopiedRun(NamedTuple):
    """Pages of a file in a row, of which as many processes have a private copy."""

    first: int
    pages: int
    processes: int


@record(eq=False)
class PageMap:
    """The pages of one file that are in memory, as columns of `FilePage`.

    Invariants: `index` is strictly ascending, and all columns have its length.
    """

    index: I64
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
        """Return a map whose pages represent 2^shift pages each: the maximum of each."""
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
    frames = sharing.snapshot.frames
    rows = np.flatnonzero(np.isin(frames.file, list(files)))
    of_frames = (
        frames.file[rows].astype(np.int64),
        frames.index[rows],
        np.where(sharing.counted.mapped[rows] > 0, sharing.counted.degree[rows], 0),
    )
    of_copies = _copies(sharing, files)
    return {file: _page_map(file, of_frames, of_copies) for file in files}


def _page_map(file: int, frames: tuple[I64, I64, I64], copies: tuple[I64, I64, I64]) -> PageMap:
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


def _copies(sharing: Sharing, files: Collection[int]) -> tuple[I64, I64, I64]:
    """Return file, page of the file, and how many processes copied it, for pages that are."""
    vmas, pages, frames = sharing.snapshot.vmas, sharing.snapshot.pages, sharing.snapshot.frames
    file, anonymous = vmas.file(), np.append(frames.anonymous(), False)
    copied = sharing.counted.vmas[:, Count.ANONYMOUS] > 0
    # The page of the file = virtual page - first page of the VMA + its offset in pages.
    shift = vmas.offset() - (vmas.start >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    parts = [np.empty((3, 0), dtype=np.int64)]
    for vma in np.flatnonzero(np.isin(file, list(files)) & copied).tolist():
        first, last = sharing.snapshot.bounds[vma : vma + 2].tolist()
        unknown = (pages.flags[first:last] & _KNOWN_BY_FLAGS) == np.uint16(PageFlags.PRESENT)
        unknown &= pages.frame[first:last] == len(frames)
        vpages = pages.vpages(first, last)[anonymous[pages.frame[first:last]] | unknown]
        index = vpages.astype(np.int64) + shift[vma]
        owner = np.full(len(index), vmas.process[vma])
        parts.append(np.stack((np.full(len(index), file[vma]), index, owner)))
    # A process that maps a file twice may have two copies of a page.
    owned = np.unique(np.concatenate(parts, axis=1), axis=1)
    pairs, times = np.unique(owned[:2], axis=1, return_counts=True)
    return pairs[0], pairs[1], times
