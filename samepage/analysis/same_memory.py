"""Processes that have one address space: what clone(CLONE_VM) and vfork make, until an exec.

Such processes have the same page table, so each page of it has one entry, though two processes
have the page. pagemap calls a page exclusive whose frame has one entry in all page tables: if two
processes have the same frame at the same address, and it is exclusive in both, the entry is the
same one. Here these processes count as two that share each page (physically they pay for it
together); smaps counts the page table for each as if it were alone.
"""

import numpy as np

from samepage.analysis.counting import pieces
from samepage.analysis.sharing import Sharing
from samepage.snapshot.columns import I64
from samepage.snapshot.kinds import PageFlags

_LEAST = 4
"""So many pages at least: a frame may be given to another process between the two readings."""


def same_memory(sharing: Sharing) -> list[tuple[int, ...]]:
    """Return the pids of each address space that several processes have, ascending."""
    pages = sharing.snapshot.pages
    shared = np.append(sharing.counted.mapped > 1, False)
    found = [np.empty(0, dtype=np.int64)]
    for part, _, _ in pieces(np.array([0, len(pages)])):
        alone = np.flatnonzero(pages.flags[part] & np.uint16(PageFlags.EXCLUSIVE))
        found.append(alone[shared[pages.frame[part][alone]]] + part.start)
    numbers = np.concatenate(found)
    if not len(numbers):
        return []
    rows, where = pages.frame[numbers], pages.locate(numbers)
    owner = np.searchsorted(sharing.snapshot.process_bounds(), numbers, side="right") - 1
    order = np.lexsort((owner, where, rows))
    rows, where, owner = rows[order], where[order], owner[order]
    same = (rows[1:] == rows[:-1]) & (where[1:] == where[:-1]) & (owner[1:] != owner[:-1])
    pairs = np.stack((owner[:-1][same], owner[1:][same]), axis=1)
    return _groups(sharing, pairs)


def _groups(sharing: Sharing, pairs: I64) -> list[tuple[int, ...]]:
    """Return the pids of processes that are connected by enough pairs."""
    group: dict[int, set[int]] = {}
    different, times = np.unique(pairs, axis=0, return_counts=True)
    for (one, other), number in zip(different.tolist(), times.tolist(), strict=True):
        if number >= _LEAST:
            together = group.get(one, {one}) | group.get(other, {other})
            group.update(dict.fromkeys(together, together))
    processes = sharing.snapshot.processes
    return sorted({tuple(sorted(processes[n].pid for n in each)) for each in group.values()})
