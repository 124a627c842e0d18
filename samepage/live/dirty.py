"""Dirty pages that show neither in pagemap nor in kpageflags: what smaps shows of them.

A page counts as dirty if its PTE or its folio is. The PTE cannot be seen (see
`samepage.live.frame_table`), and for some pages nothing else shows it: anonymous ones that came
back from swap or were given up by MADV_FREE, and shared memory that was read before it was
written. smaps sees the PTEs, but prints only how many pages of a VMA are dirty. So the
processes that have such pages are asked for their smaps:

- none of them is dirty by smaps, or all are: then the pages are marked;
- some are: which ones is not known. They stay unmarked, and the kernel's own sums of the VMA
  go along (`Snapshot.smaps`).

On a system without swap pressure and shared memory nothing is uncertain, and nothing read.
"""

import numpy as np

from samepage.snapshot.columns import I64, PAGE_SHIFT, SMAPS_SUMS, Marks, SmapsSums, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

_CHUNK = 1 << 18
_DIRTY = np.uint16(PageFlags.DIRTY)
_PRIVATE, _SHARED = 0, 1
_FIELDS = ((_PRIVATE, b"Private_Dirty"), (_SHARED, b"Shared_Dirty"))


def settle_dirty(snapshot: Snapshot, uncertain: Marks, proc: str = "/proc") -> None:
    """Mark the dirty pages of `uncertain` frames, or keep smaps' sums; changes `snapshot`."""
    if not uncertain.any():
        return
    from samepage.live.smaps import read_smaps, sums_of

    counts = _count_uncertain(snapshot, uncertain)
    smaps: dict[int, dict[int, dict[bytes, int]]] = {}
    kept: dict[int, list[int]] = {}
    for vma in np.flatnonzero(counts.any(axis=1)).tolist():
        pid = snapshot.processes[int(snapshot.vmas.process[vma])].pid
        if pid not in smaps:
            try:
                smaps[pid] = read_smaps(pid, proc)
            except OSError:
                smaps[pid] = {}
        fields = smaps[pid].get(int(snapshot.vmas.start[vma]), {})
        for sharing, name in _FIELDS:
            count = int(counts[vma, sharing])
            missing = (fields.get(name, 0) >> (PAGE_SHIFT - 10)) - _seen(snapshot, vma, sharing)
            if 0 < missing < count:
                kept[vma] = sums_of(fields)
            elif missing > 0 and count:
                _mark(snapshot, vma, sharing, uncertain)
    if kept:
        values = np.array(list(kept.values()), dtype=np.int64).reshape(-1, len(SMAPS_SUMS))
        snapshot.smaps = SmapsSums(np.array(list(kept), dtype=np.int64), values)


def _count_uncertain(snapshot: Snapshot, uncertain: Marks) -> I64:
    """Return for each VMA how many of its pages are uncertain: private ones, shared ones."""
    frames, rows = snapshot.frames, snapshot.pages.frame
    code = np.append(np.where(uncertain, 1 + (frames.mapcount >= 2), 0), 0).astype(np.uint8)
    # A private mapping of shared memory never has a dirty PTE on the shared page itself.
    perms = np.array([mapping.perms[3] == "s" for mapping in snapshot.vmas.mappings], dtype=bool)
    is_shmem = np.append(frames.kind == FrameKind.SHMEM, False)
    counts = np.zeros((len(snapshot.vmas), 2), dtype=np.int64)
    for low in range(0, len(rows), _CHUNK):
        part = code[rows[low : low + _CHUNK]]
        pages = np.flatnonzero(part)
        vma = np.searchsorted(snapshot.bounds, pages + low, side="right") - 1
        may = perms[snapshot.vmas.mapping[vma]] | ~is_shmem[rows[low : low + _CHUNK][pages]]
        np.add.at(counts, (vma[may], part[pages[may]] - 1), 1)
    return counts


def _seen(snapshot: Snapshot, vma: int, sharing: int) -> int:
    """Return how many private or shared pages of a VMA are known to be dirty."""
    pages = slice(*snapshot.bounds[vma : vma + 2].tolist())
    frames = snapshot.frames
    wanted = np.append(frames.resident() & ((frames.mapcount >= 2) == sharing), False)
    dirty = (snapshot.pages.flags[pages] & _DIRTY) != 0
    return int((dirty & wanted[snapshot.pages.frame[pages]]).sum())


def _mark(snapshot: Snapshot, vma: int, sharing: int, uncertain: Marks) -> None:
    """Mark all uncertain pages of a VMA as dirty, the private or the shared ones."""
    pages = snapshot.pages
    wanted = np.append(uncertain & ((snapshot.frames.mapcount >= 2) == sharing), False)
    first, last = snapshot.bounds[vma : vma + 2].tolist()
    for low in range(first, last, _CHUNK):
        part = slice(low, min(low + _CHUNK, last))
        pages.flags[part] |= wanted[pages.frame[part]] * _DIRTY
