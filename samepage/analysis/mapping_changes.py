"""Which mappings of a process grew or shrank, in resident pages.

A mapping is what has the same name in one process: the segments of a library, the heap, the
stack. Memory without a name is many areas (allocator arenas, reservations); where addresses
mean the same before and after, each of its VMAs is counted for itself, else all together.
"""

from typing import NamedTuple

import numpy as np

from samepage.analysis.counting import Count
from samepage.analysis.page_changes import Changed, Pair, Resident
from samepage.analysis.sharing import Sharing
from samepage.snapshot.columns import PAGE_SHIFT


class MappingChange(NamedTuple):
    """One mapping of one process; resident pages. `before` and `after` are 0 where it is not."""

    pid: int
    name: str
    """The file, "[heap]", or "" for memory without a name."""
    start: int
    """Its address, 0 if the name is enough."""
    before: int
    after: int
    copied: int
    """Pages that were copied on write since."""

    @property
    def grown(self) -> int:
        """The growth in pages."""
        return self.after - self.before


Sums = dict[tuple[str, int], list[int]]
"""Before, after, copied by name and address."""


def by_address(
    one: Sharing, two: Sharing, pairs: list[Pair], changed: Changed
) -> list[MappingChange]:
    """Return the mappings of pairs of processes that have the same addresses."""
    vma_of = np.searchsorted(two.snapshot.bounds, changed.after[changed.copied], "right") - 1
    copied = np.bincount(vma_of, minlength=len(two.snapshot.vmas))
    found: list[MappingChange] = []
    for pair in pairs:
        if not pair.forked:
            pid = two.snapshot.processes[pair.after].pid
            found += _changes(pid, _compared(one, two, pair, copied.tolist()))
    return found


def by_name(one: Sharing, two: Sharing, pairs: list[Pair]) -> list[MappingChange]:
    """Return the mappings of pairs of processes whose addresses do not mean the same."""
    found: list[MappingChange] = []
    for pair in pairs:
        sums: Sums = {}
        for side, (sharing, number) in enumerate(((one, pair.before), (two, pair.after))):
            vmas = sharing.snapshot.vmas
            mine = vmas.of(number)
            resident = sharing.counted.vmas[mine, Count.RSS].tolist()
            for mapping, pages in zip(vmas.mapping[mine].tolist(), resident, strict=True):
                sums.setdefault((vmas.mappings[mapping].name, 0), [0, 0, 0])[side] += pages
        found += _changes(two.snapshot.processes[pair.after].pid, sums)
    return found


def _changes(pid: int, sums: Sums) -> list[MappingChange]:
    return [
        MappingChange(pid, name, start, *row)
        for (name, start), row in sums.items()
        if row[0] != row[1] or row[2]
    ]


def _compared(one: Sharing, two: Sharing, pair: Pair, copied: list[int]) -> Sums:
    """Count what lies in the VMAs of now, and what lay where no VMA is any more."""
    old = Resident.of(one, pair.before).vpage
    vmas = two.snapshot.vmas
    mine = vmas.of(pair.after)
    shift = np.uint64(PAGE_SHIFT)
    start, end = vmas.start[mine], vmas.end[mine]
    before = np.searchsorted(old, end >> shift) - np.searchsorted(old, start >> shift)
    after = two.counted.vmas[mine, Count.RSS]
    columns = (before.tolist(), after.tolist(), copied[mine])
    sums: Sums = {}
    for vma, *row in zip(range(mine.start, mine.stop), *columns, strict=True):
        _add(sums, two, vma, row)
    place = np.searchsorted(start, old << shift, side="right") - 1
    ends = np.append(end, np.uint64(0))  # of place -1 too: before all VMAs
    gone = old[(old << shift) >= ends[place]]
    was = one.snapshot.vmas.of(pair.before)
    lay = np.searchsorted(one.snapshot.vmas.start[was], gone << shift, side="right") - 1
    numbers, pages = np.unique(lay, return_counts=True)
    for vma, number in zip((numbers + was.start).tolist(), pages.tolist(), strict=True):
        _add(sums, one, vma, [number, 0, 0])
    return sums


def _add(sums: Sums, sharing: Sharing, vma: int, row: list[int]) -> None:
    vmas = sharing.snapshot.vmas
    name = vmas.mappings[int(vmas.mapping[vma])].name
    key = (name, 0 if name else int(vmas.start[vma]))
    known = sums.setdefault(key, [0, 0, 0])
    known[:] = [one + other for one, other in zip(known, row, strict=True)]
