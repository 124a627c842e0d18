"""What `/proc/PID/smaps` prints for each VMA, computed from a snapshot's pages.

The rules are those of `smaps_account` in fs/proc/task_mmu.c. A page counts where a VMA
maps it: `Rss` one page; `Shared_*` if its frame is mapped more than once, else `Private_*`;
`*_Dirty` if the page or its frame is dirty; `Pss` its share, the page divided by the map
count, in the kernel's fixed point (`PSS_SHIFT`). The zero page has no `struct folio` that
could be counted, so it counts in none of them.

Map counts are taken over the group that is compared, not the whole system: what other
processes of the machine map must not decide whether two snapshots agree.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import PSS_SHIFT
from samepage.snapshot.columns import PAGE_SHIFT
from samepage.snapshot.kinds import FrameKind, PageFlags
from samepage.verify.side import ProcessPages, Side


class Sums(NamedTuple):
    """The sums of one VMA: bytes, `pss` in bytes * 2**PSS_SHIFT."""

    rss: int
    pss: int
    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    anonymous: int


def group_sums(side: Side) -> list[list[Sums]]:
    """The sums of each VMA of each process, in the order of `side.vmas`."""
    frames = [pages.frame for pages in side.pages]
    every = np.concatenate(frames) if frames else np.zeros(0, dtype=np.uint64)
    numbers, counts = np.unique(every, return_counts=True)
    result = []
    for pages, vmas in zip(side.pages, side.vmas, strict=True):
        mapcount = counts[np.searchsorted(numbers, pages.frame)] if len(pages.vpage) else every
        result.append(_process_sums(pages, mapcount.astype(np.int64), len(vmas)))
    return result


def _process_sums(pages: ProcessPages, mapcount: npt.NDArray[np.int64], n_vmas: int) -> list[Sums]:
    counted = pages.kind != FrameKind.ZERO
    shared = mapcount > 1
    dirty = (pages.flags & np.uint16(PageFlags.DIRTY)) != 0
    anonymous = (pages.kind == FrameKind.ANON) | (pages.kind == FrameKind.KSM)
    page = 1 << PAGE_SHIFT
    weights = (
        np.full(len(counted), page),
        (page << PSS_SHIFT) // np.maximum(mapcount, 1),
        page * (shared & ~dirty),
        page * (shared & dirty),
        page * (~shared & ~dirty),
        page * (~shared & dirty),
        page * anonymous,
    )
    totals = [np.zeros(n_vmas, dtype=np.int64) for _ in weights]
    for total, weight in zip(totals, weights, strict=True):
        np.add.at(total, pages.vma[counted], weight[counted].astype(np.int64))
    return [Sums(*(int(total[vma]) for total in totals)) for vma in range(n_vmas)]
