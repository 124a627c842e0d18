"""Dirty pages that show neither in pagemap nor in kpageflags: what smaps can tell of them.

A page counts as dirty if its PTE or its folio is. The PTE cannot be seen (see
`samepage.host.frame_table`), and for some pages nothing else tells: anonymous ones that came
back from swap or were given up by MADV_FREE, and shared memory that was read before it was
written. smaps sees the PTEs, but tells only how many pages of a VMA are dirty. So the
processes that have such pages are asked for their smaps, and the difference is settled:

- none of them is dirty by smaps, or all are: then the pages are marked;
- some are: which ones is not known. They stay unmarked, and only the sums of their VMA count
  them (`Capture.unseen_dirty`).

On a system without swap pressure and shared memory nothing is uncertain, and nothing read.
"""

import numpy as np
import numpy.typing as npt

from samepage.host.accounting import account
from samepage.host.arrays import distinct
from samepage.host.system import Capture
from samepage.snapshot.kinds import FrameKind, PageFlags

_CHUNK = 1 << 18
_FIELDS = ((b"Private_Dirty", 0), (b"Shared_Dirty", 1))


def settle_dirty(capture: Capture, proc: str = "/proc") -> None:
    """Mark or count the dirty pages of uncertain frames; changes `capture` in place."""
    uncertain = capture.frames.uncertain
    if not uncertain.any():
        return
    pages = _uncertain_pages(capture)
    # Private, then shared ones: smaps has a number for each.
    shared = (capture.frames.mapcount >= 2)[capture.pages.frame[pages]]
    vma = np.searchsorted(capture.first, pages, side="right") - 1
    sums = account(capture)
    seen = (sums.private_dirty, sums.shared_dirty)
    smaps: dict[int, dict[int, dict[bytes, int]]] = {}
    for row in distinct(vma).tolist():
        fields = _fields(capture, row, smaps, proc)
        for name, is_shared in _FIELDS:
            mine = pages[(vma == row) & (shared == is_shared)]
            missing = (fields.get(name, 0) >> 2) - int(seen[is_shared][row])
            if missing >= len(mine):
                capture.pages.flags[mine] |= np.uint16(PageFlags.DIRTY)
            elif missing > 0:
                capture.unseen_dirty[row, is_shared] = missing


def _uncertain_pages(capture: Capture) -> npt.NDArray[np.int64]:
    """Return the pages, ascending, whose frame is uncertain and whose mapping may dirty it."""
    frames, rows = capture.frames, capture.pages.frame
    wanted = np.append(frames.uncertain, False)
    parts = [
        np.flatnonzero(wanted[rows[low : low + _CHUNK]]) + low
        for low in range(0, len(rows), _CHUNK)
    ]
    pages = np.concatenate(parts)
    # A private mapping of shared memory never has a dirty PTE on the shared page itself.
    vma = np.searchsorted(capture.first, pages, side="right") - 1
    perms = np.array([mapping.perms[3] == "s" for mapping in capture.vmas.mappings], dtype=bool)
    shmem = frames.kind[rows[pages]] == FrameKind.SHMEM
    wanted_pages: npt.NDArray[np.int64] = pages[~shmem | perms[capture.vmas.mapping[vma]]]
    return wanted_pages


def _fields(
    capture: Capture, row: int, smaps: dict[int, dict[int, dict[bytes, int]]], proc: str
) -> dict[bytes, int]:
    pid = capture.processes[int(capture.vmas.process[row])].pid
    if pid not in smaps:
        from samepage.host.smaps import read_smaps

        try:
            smaps[pid] = read_smaps(pid, proc)
        except OSError:
            smaps[pid] = {}
    return smaps[pid].get(int(capture.vmas.start[row]), {})
