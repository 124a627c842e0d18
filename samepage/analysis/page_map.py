"""Each page of a file: how many processes map the cached page, how many have a copy.

This is the picture that the HTML report draws. It looks at every page once more, and keeps
only what belongs to files.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.analysis.counting import ResidentPages
from samepage.analysis.sharing import Sharing
from samepage.snapshot.tables import PAGE_SHIFT, column


@dataclass(frozen=True, slots=True)
class FilePage:
    """One page of a file that somebody has; pages that nobody has are left out.

    `mapped` counts the mappings of the page cache's frame (by the scope's count), `copied`
    the processes that have a private copy of the page. `cached` tells that the frame is in
    memory, mapped or not.
    """

    index: int
    cached: bool
    mapped: int
    copied: int


def page_maps(sharing: Sharing) -> dict[int, list[FilePage]]:
    """Return the pages of each file by its number, in the order of the file."""
    cached = _cached(sharing)
    copies = _copies(sharing)
    maps = {}
    for file in sorted({*cached, *copies}):
        of_cache, of_copies = cached.get(file, {}), copies.get(file, {})
        maps[file] = [
            FilePage(index, index in of_cache, of_cache.get(index, 0), of_copies.get(index, 0))
            for index in sorted({*of_cache, *of_copies})
        ]
    return maps


def _cached(sharing: Sharing) -> dict[int, dict[int, int]]:
    frames = sharing.counted.frames
    rows = np.flatnonzero(frames.file >= 0)
    mapped = np.where(frames.mapped[rows] > 0, frames.degree[rows], 0)
    index = column(sharing.snapshot.frames, "index")[rows]
    found: dict[int, dict[int, int]] = {}
    columns = (frames.file[rows].tolist(), index.tolist(), mapped.tolist())
    for file, page, times in zip(*columns, strict=True):
        found.setdefault(file, {})[page] = times
    return found


def _copies(sharing: Sharing) -> dict[int, dict[int, int]]:
    """Count the anonymous pages inside VMAs of a file, by file and page of the file."""
    vmas = sharing.snapshot.vmas
    file = column(vmas, "file")
    # The page of the file = virtual page - first page of the VMA + its offset in pages.
    start, offset = (
        (column(vmas, name) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        for name in ("start", "offset")
    )
    shift = offset - start
    parts = [_copied_pages(pages, file, shift) for pages in sharing.counted.reader]
    found: dict[int, dict[int, int]] = {}
    if parts:
        pairs, times = np.unique(np.concatenate(parts, axis=1), axis=1, return_counts=True)
        for (number, page), count in zip(pairs.T.tolist(), times.tolist(), strict=True):
            found.setdefault(number, {})[page] = count
    return found


def _copied_pages(
    pages: ResidentPages, file: npt.NDArray[np.int32], shift: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    copied = pages.anonymous & (file[pages.vma] >= 0)
    vma = pages.vma[copied]
    index = pages.batch.vpage[copied].astype(np.int64) + shift[vma]
    return np.stack((file[vma].astype(np.int64), index))
