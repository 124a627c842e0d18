"""Frames of which only smaps shows that KSM merged them.

Where kpageflags does not show which frames are merged (`samepage.live.ksm` says why), the
processes that have doubtful ones are asked for their smaps: "KSM:" is the number of merged pages of
a VMA. What one VMA decides for a frame helps with the others that map it, so this repeats until
nothing more is decided. On all other kernels nothing is doubtful, and nothing is read.
"""

import numpy as np
import numpy.typing as npt

from samepage.live.smaps import KB_TO_PAGES, read_smaps
from samepage.live.system import Capture
from samepage.snapshot.kinds import FrameKind

Rows = npt.NDArray[np.int32]


def settle_merged(capture: Capture, proc: str = "/proc") -> None:
    """Make doubtful frames KSM where smaps proves it; changes `capture` in place."""
    frames = capture.frames
    if not frames.maybe_ksm.any():
        return
    left = _doubtful_vmas(capture, proc)
    decided = True
    while decided:
        decided = False
        for vma, (rows, merged) in list(left.items()):
            open_rows = rows[frames.maybe_ksm[rows]]
            others = merged - int((frames.kind[rows] == FrameKind.KSM).sum())
            if others > 0 and others < len(open_rows):
                continue
            decided = decided or len(open_rows) > 0
            frames.maybe_ksm[open_rows] = False
            if others > 0:
                frames.kind[open_rows] = FrameKind.KSM
            del left[vma]
    capture.ksm_unknown = int(frames.maybe_ksm.sum())


def _doubtful_vmas(capture: Capture, proc: str) -> dict[int, tuple[Rows, int]]:
    """Return the VMAs with doubtful pages: the frames of these, and how many are merged."""
    doubtful = np.append(capture.frames.maybe_ksm, False)
    smaps: dict[int, dict[int, dict[bytes, int]]] = {}
    found = {}
    for vma in np.flatnonzero(capture.last > capture.first).tolist():
        rows = capture.pages.frame[int(capture.first[vma]) : int(capture.last[vma])]
        rows = rows[doubtful[rows]]
        if not len(rows):
            continue
        pid = capture.processes[int(capture.vmas.process[vma])].pid
        if pid not in smaps:
            try:
                smaps[pid] = read_smaps(pid, proc)
            except OSError:
                smaps[pid] = {}
        merged = smaps[pid].get(int(capture.vmas.start[vma]), {}).get(b"KSM")
        if merged is not None:
            found[vma] = rows, merged >> KB_TO_PAGES
    return found
