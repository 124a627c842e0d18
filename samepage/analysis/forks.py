"""Anonymous memory that processes share since a fork, and what left that sharing.

After a fork parent and child map the same frames at the same addresses, write-protected, until one
of them writes: it then gets a frame of its own (`dup_mmap`, `wp_page_copy`). No file of /proc has a
record of forks, but frames prove them: an anonymous frame that two processes map *at the same
address* can have come there by a fork only. (KSM merges frames at any addresses; merged ones are
left out.) Processes that are connected in this way are a *family*, also if the process that they
were forked from has exited.

At an address each process of a family is one of these:

- **shared**: others of the family map the same frame there;
- **copied**: at least two others share a frame there, and this one has its own. It wrote to the
  page (or first touched it, if it was forked before the others' page was made);
- **apart**: no two of the family share a frame there, and others have one too. Which of them
  wrote, or whether all touched the page for the first time after the fork, frames do not show.

The rest is only its own: no other of the family has anything there. Of a process whose relatives
are not in the snapshot nothing of this is known.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from samepage.analysis.sharing import Sharing
from samepage.snapshot.arrays import distinct
from samepage.snapshot.columns import I32, I64, PAGE_SHIFT, Marks
from samepage.snapshot.kinds import FrameKind


class Kin(NamedTuple):
    """Pages of one process, or of one VMA of it, by what became of them since the fork."""

    shared: int
    copied: int
    apart: int


class Member(NamedTuple):
    """One process of a family."""

    pid: int
    parent: int | None
    """The nearest ancestor in the family; None for the root, and where it has exited."""
    kin: Kin


class Family(NamedTuple):
    """Processes that share anonymous frames since a fork.

    Invariant: `members` are in the order of the tree: the root, then its children, each followed
    by its own.
    """

    root: int
    members: tuple[Member, ...]
    frames: int
    """Frames that two or more of them share."""
    mapped: int
    """(process, page) pairs that have these frames."""
    copied: int
    """Frames of those who copied."""


class _Marks(NamedTuple):
    """What each page of a process is."""

    shared: Marks
    copied: Marks
    apart: Marks

    def kin(self, first: int, last: int) -> Kin:
        """Return the numbers of some of them."""
        shared, copied, apart = (int(np.count_nonzero(mark[first:last])) for mark in self)
        return Kin(shared, copied, apart)


class _Addresses(NamedTuple):
    """Virtual pages of a family, ascending."""

    shared: I64
    """Where two or more share a frame."""
    apart: I64
    """Others, at which two or more have frames of their own."""


class Forks:
    """The families of a snapshot.

    No pages are sorted but those that are mapped once and lie in families: an anonymous frame that
    is mapped more than once is so at one address, unless a process has moved it (mremap).
    Invariant: `_address` of a frame is where two or more processes map it, -1 if there is none.
    """

    def __init__(self, sharing: Sharing) -> None:
        snapshot = self._snapshot = sharing.snapshot
        frames = snapshot.frames
        anonymous = (frames.kind == FrameKind.ANON) & (sharing.counted.mapped > 0)
        self._twice = np.append(anonymous & (frames.mapped > 1), False)
        self._once = np.append(anonymous & (frames.mapped == 1), False)
        self._bounds: list[int] = snapshot.process_bounds().tolist()
        self._parents = {process.pid: process.ppid for process in snapshot.processes}
        self._address, pairs = self._find_addresses()
        self._family_of: dict[int, _Addresses] = {}
        self.families: list[Family] = []
        for numbers in _connected(pairs):
            addresses = self._addresses(numbers)
            self._family_of |= dict.fromkeys(numbers, addresses)
            self.families.append(self._family(numbers))
        self.families.sort(key=lambda family: (-(family.mapped - family.frames), family.root))

    def of_vmas(self, process: int) -> dict[int, Kin]:
        """Return for each VMA of a process, by number, its pages; empty if it has no family."""
        if process not in self._family_of:
            return {}
        marks, first = self._marks(process), self._bounds[process]
        vmas = self._snapshot.vmas.of(process)
        bounds = (self._snapshot.bounds[vmas.start : vmas.stop + 1] - first).tolist()
        found = {n: marks.kin(*ends) for n, ends in enumerate(pairwise(bounds), vmas.start)}
        return {number: kin for number, kin in found.items() if any(kin[:3])}

    def sharers(self, process: int, vma: int) -> list[int]:
        """Return the pids of the others that share pages of a VMA, ascending."""
        snapshot = self._snapshot
        addresses = self._family_of.get(process)
        if addresses is None:
            return []
        shift = np.uint64(PAGE_SHIFT)
        span = np.array([snapshot.vmas.start[vma], snapshot.vmas.end[vma]]) >> shift
        mine = np.zeros(len(self._twice), dtype=bool)
        first, last = snapshot.bounds[vma : vma + 2].tolist()
        mine[snapshot.pages.frame[first:last]] = True
        mine &= self._twice
        found = []
        for number, relatives in self._family_of.items():
            if relatives is addresses and number != process:
                numbers = np.full(2, number, dtype=np.int32)
                low, high = snapshot.pages.position(numbers, span).tolist()
                rows = snapshot.pages.frame[low:high]
                here = np.flatnonzero(mine[rows])
                at = snapshot.pages.locate(here + low).astype(np.int64)
                if (self._address[rows[here]] == at).any():
                    found.append(snapshot.processes[number].pid)
        return sorted(found)

    def _pages(self, number: int) -> tuple[I32, I64]:
        """Return the frames and the virtual pages of a process."""
        low, high = self._bounds[number], self._bounds[number + 1]
        if low == high:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        vpages = self._snapshot.pages.vpages(low, high).astype(np.int64)
        return self._snapshot.pages.frame[low:high], vpages

    def _chosen(self, number: int, wanted: Marks) -> tuple[I32, I64]:
        """Return the same of the pages with frames that are wanted."""
        low, high = self._bounds[number], self._bounds[number + 1]
        frame = self._snapshot.pages.frame[low:high]
        mine = np.flatnonzero(wanted[frame])
        if not len(mine):
            return frame[:0], np.empty(0, dtype=np.int64)
        return frame[mine], self._pages(number)[1][mine]

    def _find_addresses(self) -> tuple[I64, list[tuple[int, int]]]:
        """Return where each frame is shared, and which processes share one there."""
        address = np.full(len(self._twice), -1, dtype=np.int64)
        pairs, moved = self._connect(address)
        if len(moved):
            self._settle(address, moved)
            pairs, _ = self._connect(address)
        return address, pairs

    def _connect(self, address: I64) -> tuple[list[tuple[int, int]], I64]:
        """Fill in addresses that are not known yet; return pairs of processes, and moved frames."""
        owner = np.full(len(address), -1, dtype=np.int32)
        pairs: set[tuple[int, int]] = set()
        moved = [np.empty(0, dtype=np.int64)]
        for number in range(len(self._snapshot.processes)):
            rows, at = self._chosen(number, self._twice)
            new = address[rows] == -1
            address[rows[new]] = at[new]
            here = address[rows] == at
            moved.append(rows[~here].astype(np.int64))
            before = owner[rows[here]]
            pairs |= {(int(other), number) for other in distinct(before[before >= 0])}
            owner[rows[here]] = number
        return sorted(pairs), distinct(np.concatenate(moved))

    def _settle(self, address: I64, moved: I64) -> None:
        """Make the address of each of these frames the one at which most processes map it."""
        wanted = np.zeros(len(address), dtype=bool)
        wanted[moved] = True
        rows, at = [], []
        for number in range(len(self._snapshot.processes)):
            mine, vpage = self._chosen(number, wanted)
            rows.append(mine.astype(np.int64))
            at.append(vpage)
        row, vpage = np.concatenate(rows), np.concatenate(at)
        order = np.lexsort((vpage, row))
        row, vpage = row[order], vpage[order]
        first = np.flatnonzero(np.append(True, np.diff(row) | np.diff(vpage)))
        times = np.diff(first, append=len(row))
        by_times = np.argsort(times, kind="stable")  # of equal frames the last assignment stays
        address[row[first[by_times]]] = vpage[first[by_times]]
        most = np.zeros(len(address), dtype=np.int64)
        most[row[first[by_times]]] = times[by_times]
        address[moved[most[moved] < 2]] = _NOWHERE

    def _addresses(self, numbers: list[int]) -> _Addresses:
        shared, own = [], []
        for number in numbers:
            frame, vpage = self._pages(number)
            rows = frame[self._twice[frame]]
            shared.append(self._address[distinct(rows)])
            own.append(vpage[self._once[frame]])
        common = distinct(np.concatenate(shared))
        common = common[common >= 0]
        alone = np.sort(np.concatenate(own))
        several = distinct(alone[1:][alone[1:] == alone[:-1]])
        return _Addresses(common, several[~_in(several, common)])

    def _marks(self, number: int) -> _Marks:
        frame, vpage = self._pages(number)
        addresses = self._family_of[number]
        once = self._once[frame]
        shared = self._twice[frame] & (self._address[frame] == vpage)
        return _Marks(
            shared, once & _in(vpage, addresses.shared), once & _in(vpage, addresses.apart)
        )

    def _family(self, numbers: list[int]) -> Family:
        processes = self._snapshot.processes
        members = {processes[number].pid: number for number in numbers}
        parents = {pid: self._ancestor(pid, members) for pid in members}
        ages = {pid: (processes[n].start_time or 0, pid) for pid, n in members.items()}
        root = min((pid for pid in members if parents[pid] is None), key=ages.__getitem__)
        kin: dict[int, Kin] = {}
        frames = np.zeros(len(self._twice), dtype=bool)
        for pid, number in members.items():
            marks = self._marks(number)
            kin[pid] = marks.kin(0, len(marks.shared))
            frames[self._pages(number)[0][marks.shared]] = True
        return Family(
            root,
            tuple(
                Member(pid, parents[pid], kin[pid])
                for pid in _in_order_of_tree(root, parents, ages)
            ),
            int(np.count_nonzero(frames)),
            sum(each.shared for each in kin.values()),
            sum(each.copied for each in kin.values()),
        )

    def _ancestor(self, pid: int, members: dict[int, int]) -> int | None:
        """Return the nearest ancestor that is a member too."""
        seen = {pid}
        while (pid := self._parents.get(pid, 0)) not in members:
            if not pid or pid in seen:
                return None
            seen.add(pid)
        return pid if pid not in seen else None


_NOWHERE = -2
"""The address of a frame that all processes map at different ones."""


def _in(values: I64, ascending: I64) -> Marks:
    """Return which values are among others, which ascend."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: Marks = ascending[place] == values
    return found


def _in_order_of_tree(
    root: int, parents: dict[int, int | None], ages: dict[int, tuple[int, int]]
) -> list[int]:
    """Return the members: the root, then each with its own children behind it, the oldest first."""
    children: dict[int | None, list[int]] = {}
    for pid in sorted(parents, key=ages.__getitem__, reverse=True):
        if pid != root:
            children.setdefault(parents[pid], []).append(pid)
    found, ahead = [], [*children.get(None, ()), root]
    while ahead:
        pid = ahead.pop()
        found.append(pid)
        ahead += children.get(pid, ())
    return found


def _connected(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Return the connected components of a graph, each ascending, the one with the least first."""
    root: dict[int, int] = {}

    def find(number: int) -> int:
        while root.setdefault(number, number) != number:
            root[number] = number = root[root[number]]
        return number

    for one, other in pairs:
        low, high = sorted((find(one), find(other)))
        root[high] = low
    found: dict[int, list[int]] = {}
    for number in sorted(root):
        found.setdefault(find(number), []).append(number)
    return [found[number] for number in sorted(found)]
