"""RSS, PSS and their kin per VMA, counted from frames exactly as smaps counts them.

The rule is `smaps_account` in fs/proc/task_mmu.c. Each present page with a normal page
behind it (not the zero page, not hugetlb) adds 4096 bytes to Rss. If two or more page table
entries of the whole system map its frame, it is shared, and adds 4096 divided by their number
to Pss; else it is private and adds 4096. Pss is summed in units of 1/4096 byte (PSS_SHIFT),
each division rounded down, and the sum is rounded down to kB when it is printed. The same
is done here, so that the numbers are equal, not close.

Linux may say otherwise in one case: built without CONFIG_PAGE_MAPCOUNT it uses a large folio's
average map count; kpagecount then gives the same average.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.host.capture import Capture
from samepage.snapshot.kinds import PageFlags

PSS_SHIFT = 12
PAGE_SIZE = 4096
_PAGES_AT_ONCE = 1 << 18

Counts = npt.NDArray[np.int64]

_SHARED = np.uint8(2)
_SWAPPED = 4
_NOTHING = 5
_CLASSES = 6


@dataclass(frozen=True, slots=True)
class VmaSums:
    """One value per VMA. All are in pages, but `pss`: bytes << PSS_SHIFT."""

    private_clean: Counts
    private_dirty: Counts
    shared_clean: Counts
    shared_dirty: Counts
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
    shared = frames.mapcount >= 2
    resident = frames.resident
    # One more row for pages without a frame: swapped ones.
    group = np.append(np.where(resident, shared * _SHARED, _NOTHING), _SWAPPED).astype(np.uint8)
    share = (PAGE_SIZE << PSS_SHIFT) // np.maximum(frames.mapcount, 1).astype(np.uint64)
    share = np.append(np.where(resident, share, 0), 0).astype(np.uint64)
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
        kinds = group[rows]
        dirty = (pages.flags[low:high] & np.uint16(PageFlags.DIRTY)) != 0
        kinds += dirty & (kinds < _SWAPPED)
        lengths = np.diff(cuts, append=high - low)
        places = np.repeat(np.arange(len(vmas)) * _CLASSES, lengths) + kinds
        found = np.bincount(places, minlength=len(vmas) * _CLASSES)
        counts[vmas] += found.reshape(-1, _CLASSES)
        pss[vmas] += np.add.reduceat(share[rows], cuts)
    columns = [counts[:, column].copy() for column in range(_SWAPPED + 1)]
    return VmaSums(columns[0], columns[1], columns[2], columns[3], columns[4], pss)
