"""RSS, PSS and their kin per VMA, counted from frames exactly as smaps counts them.

The rule is `smaps_account` in fs/proc/task_mmu.c. Each present page with a normal page
behind it (not the zero page, not hugetlb) adds its size to Rss. If two or more page table
entries of the whole system map its frame, it is shared, and adds its size divided by their
number to Pss; else it is private and adds its size. Pss is summed in units of 1/4096 byte
(PSS_SHIFT), each division rounded down, and the sum is rounded down to kB when it is printed. The
same is done here, so that the numbers are equal, not close.

Linux may say otherwise in one case: built without CONFIG_PAGE_MAPCOUNT it uses a large folio's
average map count; kpagecount then gives the same average.
"""

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import PSS_SHIFT
from samepage.live.frame_table import FrameTable
from samepage.live.system import Capture
from samepage.records import record
from samepage.snapshot.kinds import FrameKind, PageFlags

_PAGES_AT_ONCE = 1 << 18

Counts = npt.NDArray[np.int64]

_SHARED = 2
_ANONYMOUS = 4
_SWAPPED = 8
_NOTHING = 9
_CLASSES = 10


@record(eq=False)
class VmaSums:
    """One value per VMA. All are in pages, but `pss`: bytes << PSS_SHIFT.

    Invariants: `anonymous` is at most `rss`; `pss` is at most `rss` pages.
    """

    private_clean: Counts
    private_dirty: Counts
    shared_clean: Counts
    shared_dirty: Counts
    anonymous: Counts
    swapped: Counts
    pss: npt.NDArray[np.uint64]

    @property
    def rss(self) -> Counts:
        """Resident pages."""
        return self.private_clean + self.private_dirty + self.shared_clean + self.shared_dirty

    @property
    def uss(self) -> Counts:
        """Pages that only this mapping has."""
        return self.private_clean + self.private_dirty

    @property
    def pss_kb(self) -> npt.NDArray[np.uint64]:
        """Pss in kB, rounded down as smaps does."""
        return self.pss >> np.uint64(PSS_SHIFT + 10)


def account(capture: Capture) -> VmaSums:
    """Return the sums of each VMA of a capture whose frames are visible."""
    frames, pages = capture.frames, capture.pages
    code, share = _by_frame(frames)
    counts = np.zeros((len(capture.vmas), _CLASSES), dtype=np.int64)
    pss = np.zeros(len(capture.vmas), dtype=np.uint64)
    used = np.flatnonzero(capture.last > capture.first)
    starts = capture.first[used]
    for low in range(0, len(pages), _PAGES_AT_ONCE):
        high = min(low + _PAGES_AT_ONCE, len(pages))
        begin = int(np.searchsorted(starts, low, side="right")) - 1
        end = int(np.searchsorted(starts, high, side="left"))
        vmas = used[begin:end]
        cuts = np.maximum(starts[begin:end] - low, 0)
        rows = pages.frame[low:high]
        codes = code[rows]
        dirty = (pages.flags[low:high] & np.uint16(PageFlags.DIRTY)) != 0
        codes += dirty & (codes < _SWAPPED)
        lengths = np.diff(cuts, append=high - low)
        places = np.repeat(np.arange(len(vmas)) * _CLASSES, lengths) + codes
        found = np.bincount(places, minlength=len(vmas) * _CLASSES)
        counts[vmas] += found.reshape(-1, _CLASSES)
        pss[vmas] += np.add.reduceat(share[rows], cuts)
    classes = counts[:, :_SWAPPED].reshape(-1, 2, 2, 2)  # anonymous, shared, dirty
    by_sharing = classes.sum(axis=1)
    private, shared = capture.unseen_dirty[:, 0], capture.unseen_dirty[:, 1]
    return VmaSums(
        private_clean=by_sharing[:, 0, 0] - private,
        private_dirty=by_sharing[:, 0, 1] + private,
        shared_clean=by_sharing[:, 1, 0] - shared,
        shared_dirty=by_sharing[:, 1, 1] + shared,
        anonymous=classes[:, 1].sum(axis=(1, 2)),
        swapped=counts[:, _SWAPPED],
        pss=pss,
    )


def _by_frame(frames: FrameTable) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Return class and share of a page by its frame; the last row is of pages without one."""
    anonymous = (frames.kind == FrameKind.ANON) | (frames.kind == FrameKind.KSM)
    code = (frames.mapcount >= 2) * _SHARED + anonymous * _ANONYMOUS
    code = np.append(np.where(frames.resident, code, _NOTHING), _SWAPPED).astype(np.uint8)
    share = (HOST_PAGE_SIZE << PSS_SHIFT) // np.maximum(frames.mapcount, 1).astype(np.uint64)
    return code, np.append(np.where(frames.resident, share, 0), 0).astype(np.uint64)
