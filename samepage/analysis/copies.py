"""Which pages have left sharing, and whether the writes that were seen explain all of them.

"The frame changed" is no sign of a copy: the kernel moves pages (compaction, migration). A page
has left sharing in one of two ways:

- after a fork: it was in the same frame as its parent's before, and is not now. Either of the
  two has written; a write of one of them explains it.
- from a file: it is an anonymous page in a private mapping of a file, and was the file's page,
  or absent, before.

A process that was forked meanwhile has no "before": what its parent had then is what it was born
with. Pages that its parent did not have are first touches of each, and were never shared.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.snapshot.writes import Area, Frames, Pages, WriteKind, WriteTable

_PAGE_BITS = np.uint64(44)


@dataclass(frozen=True, slots=True)
class Unshared:
    """What left sharing. `pid`, `page`: one element per page and process that was forked (its
    parent's frame is another now). `explained`: a write of it or its parent was seen."""

    pid: npt.NDArray[np.uint32]
    page: Pages
    explained: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pid)


def find_unshared(
    before: Mapping[int, Frames],
    after: Mapping[int, Frames],
    parents: Mapping[int, int],
    writes: WriteTable,
    execs: Set[int] = frozenset(),
) -> Unshared:
    """Compare each process with its parent and its files, at both instants.

    `execs`: processes that have executed another program meanwhile, and so share nothing with
    their parent. Those without a parent in `after` are compared with none.
    """
    key = _Keys(writes.pid, np.array([*after, *parents, *parents.values()], np.uint32))
    keys = np.unique(key(writes.pid, writes.page))
    pids, pages, explained = [], [], []
    for pid, frames in after.items():
        parent = 0 if pid in execs else parents.get(pid, 0)
        born = _at_start(pid, before, parents, execs)
        of_parent = after.get(parent)
        left = _left_file(frames, born, of_parent)
        parent_born = _at_start(parent, before, parents, execs)
        if of_parent and born and parent_born:
            left |= _left_parent(frames, born, of_parent, parent_born)
        found = frames.page[left]
        seen = np.zeros(len(found), np.bool_)
        for writer in _lineage(pid, parents):
            seen |= _is_in(key(np.full(len(found), writer, np.uint32), found), keys)
        pids.append(np.full(len(found), pid, np.uint32))
        pages.append(found)
        explained.append(seen)
    return Unshared(
        np.concatenate(pids or [np.zeros(0, np.uint32)]),
        np.concatenate(pages or [np.zeros(0, np.uint64)]),
        np.concatenate(explained or [np.zeros(0, np.bool_)]),
    )


def _at_start(
    pid: int, before: Mapping[int, Frames], parents: Mapping[int, int], execs: Set[int]
) -> Frames | None:
    """What a process had at the first reading, or was born with since; None if not known."""
    for ancestor in _lineage(pid, parents):
        if ancestor in execs:
            return None
        if ancestor in before:
            return before[ancestor]
    return None


def _left_parent(
    frames: Frames, born: Frames, of_parent: Frames, parent_born: Frames
) -> npt.NDArray[np.bool_]:
    was = born.at(frames.page)
    shared_then = (was >= 0) & (was == parent_born.at(frames.page))
    parent_frame = of_parent.at(frames.page)
    return np.asarray(
        shared_then & (parent_frame >= 0) & (parent_frame != frames.frame.astype(np.int64))
    )


def _left_file(
    frames: Frames, born: Frames | None, of_parent: Frames | None
) -> npt.NDArray[np.bool_]:
    """Own copies of file pages that were none at the start, and are not the parent's."""
    left = frames.own_copy.copy()
    if born:
        left &= ~born.own_copies_at(frames.page)
    if of_parent:
        left &= of_parent.at(frames.page) != frames.frame.astype(np.int64)
    return left


def _lineage(pid: int, parents: Mapping[int, int]) -> list[int]:
    """A process and those it descends from, as far as they are known."""
    found = [pid]
    while (parent := parents.get(found[-1], 0)) and parent not in found:
        found.append(parent)
    return found


@dataclass(frozen=True, slots=True)
class Cause:
    """One function, or class of functions, and what it did to sharing.

    `copied`: pages of which it made the copy. `touched`: copied pages that it wrote to at all.
    `saved`: copied pages that no other wrote to: what removing it would save. All count
    (process, page); `processes` those in which it touched any.
    """

    function: int
    copied: int
    touched: int
    saved: int
    processes: int


def find_causes(writes: WriteTable, label: npt.NDArray[np.int32]) -> list[Cause]:
    """The causes of the copies in `writes`, largest saving first.

    `label` is the number of the cause that each write belongs to, negative for none that is to
    be listed. A page that several causes write to is saved by none of them alone.
    """
    copies = writes.copies
    key = _Keys(writes.pid)
    every = key(writes.pid, writes.page)
    copied_keys = np.unique(every[copies])
    on_copied = _is_in(every, copied_keys) & (writes.kind != WriteKind.FIRST_TOUCH)
    place = np.searchsorted(copied_keys, every[on_copied])
    pairs = np.unique(np.stack([place, label[on_copied]], 1), axis=0)
    writers = np.bincount(pairs[:, 0], minlength=len(copied_keys))
    alone = writers[pairs[:, 0]] == 1
    listed = pairs[:, 1] >= 0
    pairs, alone = pairs[listed], alone[listed]
    count = int(label.max(initial=-1)) + 1
    touched = np.bincount(pairs[:, 1], minlength=count)
    saved = np.bincount(pairs[alone, 1], minlength=count)
    first = label[copies]
    copied = np.bincount(first[first >= 0], minlength=count)
    owners = (copied_keys >> _PAGE_BITS)[pairs[:, 0]]
    in_process = np.unique(np.stack([owners, pairs[:, 1].astype(np.uint64)], 1), axis=0)
    processes = np.bincount(in_process[:, 1].astype(np.int64), minlength=count)
    rows = [
        Cause(n, int(copied[n]), int(touched[n]), int(saved[n]), int(processes[n]))
        for n in np.nonzero(touched)[0].tolist()
    ]
    return sorted(rows, key=lambda row: (-row.saved, -row.touched, row.function))


def copied_pages(writes: WriteTable) -> int:
    """How many (process, page) were copied, each once."""
    copies = writes.copies
    return len(np.unique(_Keys(writes.pid)(writes.pid[copies], writes.page[copies])))


@dataclass(frozen=True, slots=True)
class CopiedArea:
    """How many pages (process, page) of one kind of memory were copied, in how many processes;
    `file_pages`: how many different pages of its file, 0 for memory without one."""

    area: Area
    pages: int
    file_pages: int
    processes: int


def copied_areas(writes: WriteTable) -> list[CopiedArea]:
    """The memory that was copied, most pages first."""
    copies = writes.copies
    rows = np.stack(
        [
            writes.area[copies].astype(np.int64),
            writes.pid[copies].astype(np.int64),
            writes.page[copies].astype(np.int64),
            writes.file_page[copies],
        ],
        1,
    )
    rows = np.unique(rows, axis=0)
    found = []
    for number in np.unique(rows[:, 0]).tolist():
        mine = rows[rows[:, 0] == number]
        file_pages = np.unique(mine[mine[:, 3] >= 0, 3])
        processes = np.unique(mine[:, 1])
        found.append(CopiedArea(writes.areas[number], len(mine), len(file_pages), len(processes)))
    return sorted(found, key=lambda area: (-area.pages, area.area.name))


class _Keys:
    """Process and page as one number: the process's rank among those that matter (up to 2**20),
    and the page number (44 bits: addresses of user space have 56)."""

    def __init__(self, *pids: npt.NDArray[np.uint32]) -> None:
        self._pids = np.unique(np.concatenate(pids))

    def __call__(self, pid: npt.NDArray[np.uint32], page: Pages) -> Pages:
        rank = np.searchsorted(self._pids, pid).astype(np.uint64)
        return np.asarray(rank << _PAGE_BITS | page)


def _is_in(wanted: Pages, sorted_keys: Pages) -> npt.NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(len(wanted), np.bool_)
    place = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[place] == wanted)
