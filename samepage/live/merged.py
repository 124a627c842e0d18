"""Frames of which only smaps shows that KSM merged them.

Where kpageflags does not show which frames are merged (`samepage.live.ksm` explains why), the
processes that have doubtful ones are asked for their smaps: "KSM:" is the number of merged pages of
a VMA. What one VMA decides for a frame helps with the others that map it, so this repeats until
nothing more is decided. On all other kernels nothing is doubtful, and nothing is read.
"""

import numpy as np

from samepage.live.smaps import KB_TO_PAGES, read_smaps
from samepage.snapshot.columns import I32, Marks, Snapshot
from samepage.snapshot.kinds import FrameKind


def settle_merged(snapshot: Snapshot, doubtful: Marks, proc: str = "/proc") -> int:
    """Make `doubtful` frames KSM where smaps proves it; changes `snapshot` and `doubtful`.

    Return how many frames are doubtful still.
    """
    if not doubtful.any():
        return 0
    kind = snapshot.frames.kind
    left = _doubtful_vmas(snapshot, doubtful, proc)
    decided = True
    while decided:
        decided = False
        for vma, (rows, merged) in list(left.items()):
            open_rows = rows[doubtful[rows]]
            others = merged - int((kind[rows] == FrameKind.KSM).sum())
            if others > 0 and others < len(open_rows):
                continue
            decided = decided or len(open_rows) > 0
            doubtful[open_rows] = False
            if others > 0:
                kind[open_rows] = FrameKind.KSM
            del left[vma]
    return int(doubtful.sum())


def _doubtful_vmas(snapshot: Snapshot, doubtful: Marks, proc: str) -> dict[int, tuple[I32, int]]:
    """Return the VMAs with doubtful pages: the frames of these, and how many are merged."""
    wanted = np.append(doubtful, False)
    bounds = snapshot.bounds
    smaps: dict[int, dict[int, dict[bytes, int]]] = {}
    found = {}
    for vma in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
        rows = snapshot.pages.frame[int(bounds[vma]) : int(bounds[vma + 1])]
        rows = rows[wanted[rows]]
        if not len(rows):
            continue
        pid = snapshot.processes[int(snapshot.vmas.process[vma])].pid
        if pid not in smaps:
            try:
                smaps[pid] = read_smaps(pid, proc)
            except OSError:
                smaps[pid] = {}
        merged = smaps[pid].get(int(snapshot.vmas.start[vma]), {}).get(b"KSM")
        if merged is not None:
            found[vma] = rows, merged >> KB_TO_PAGES
    return found
