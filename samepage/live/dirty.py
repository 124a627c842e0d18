"""Dirty pages that show neither in pagemap nor in kpageflags: what smaps can tell of them.

A page counts as dirty if its PTE or its folio is. The PTE cannot be seen (see
`samepage.live.frame_table`), and for some pages nothing else tells: anonymous ones that came
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

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.live.accounting import account
from samepage.live.system import Capture
from samepage.snapshot.kinds import FrameKind, PageFlags

_CHUNK = 1 << 18
_FIELDS = ((b"Private_Dirty", 0), (b"Shared_Dirty", 1))


def settle_dirty(capture: Capture, proc: str = "/proc") -> None:
    """Mark or count the dirty pages of uncertain frames; changes `capture` in place."""
    if not capture.frames.uncertain.any():
        return
    uncertain = _count_uncertain(capture)
    sums = account(capture)
    seen = (sums.private_dirty, sums.shared_dirty)
    smaps: dict[int, dict[int, dict[bytes, int]]] = {}
    for vma in np.flatnonzero(uncertain.any(axis=1)).tolist():
        fields = _fields(capture, vma, smaps, proc)
        for name, shared in _FIELDS:
            count = int(uncertain[vma, shared])
            missing = (fields.get(name, 0) >> HOST_PAGE_SHIFT - 10) - int(seen[shared][vma])
            if 0 < missing < count:
                capture.unseen_dirty[vma, shared] = missing
            elif missing > 0 and count:
                _mark(capture, vma, shared)


def _count_uncertain(capture: Capture) -> npt.NDArray[np.int64]:
    """Return for each VMA how many of its pages are uncertain: private ones, shared ones."""
    frames, rows = capture.frames, capture.pages.frame
    code = np.append(np.where(frames.uncertain, 1 + (frames.mapcount >= 2), 0), 0)
    code = code.astype(np.uint8)
    # A private mapping of shared memory never has a dirty PTE on the shared page itself.
    perms = np.array([mapping.perms[3] == "s" for mapping in capture.vmas.mappings], dtype=bool)
    is_shmem = np.append(frames.kind == FrameKind.SHMEM, False)
    counts = np.zeros((len(capture.vmas), 2), dtype=np.int64)
    for low in range(0, len(rows), _CHUNK):
        part = code[rows[low : low + _CHUNK]]
        pages = np.flatnonzero(part)
        vma = np.searchsorted(capture.first, pages + low, side="right") - 1
        may = perms[capture.vmas.mapping[vma]] | ~is_shmem[rows[low : low + _CHUNK][pages]]
        np.add.at(counts, (vma[may], part[pages[may]] - 1), 1)
    return counts


def _mark(capture: Capture, vma: int, shared: int) -> None:
    """Mark all uncertain pages of a VMA as dirty, the private or the shared ones."""
    frames, pages = capture.frames, capture.pages
    wanted = np.append(frames.uncertain & ((frames.mapcount >= 2) == shared), False)
    for low in range(int(capture.first[vma]), int(capture.last[vma]), _CHUNK):
        part = slice(low, min(low + _CHUNK, int(capture.last[vma])))
        pages.flags[part] |= wanted[pages.frame[part]] * np.uint16(PageFlags.DIRTY)


def _fields(
    capture: Capture, vma: int, smaps: dict[int, dict[int, dict[bytes, int]]], proc: str
) -> dict[bytes, int]:
    pid = capture.processes[int(capture.vmas.process[vma])].pid
    if pid not in smaps:
        from samepage.live.smaps import read_smaps

        try:
            smaps[pid] = read_smaps(pid, proc)
        except OSError:
            smaps[pid] = {}
    return smaps[pid].get(int(capture.vmas.start[vma]), {})
