"""Which pages have left sharing, and whether the writes that were seen explain all of them.

"The frame changed" is no sign of a copy: the kernel moves pages (compaction, migration). A page of
a process has left sharing if it was in the same frame as its parent's before, and is not now.
Either of the two has written; a write of one of them explains it.

A process that was forked meanwhile has no "before": what its parent had then is what it was born
with. Pages that its parent did not have are first touches of each, and were never shared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.snapshot.writes import Frames, Pages, WriteKind, WriteTable

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
) -> Unshared:
    """Compare each process with its parent, at both instants. Processes without a parent in
    `after` are compared with nobody."""
    key = _Keys(writes.pid, np.array([*after, *parents.values()], np.uint32))
    keys = np.unique(key(writes.pid, writes.page))
    pids, pages, explained = [], [], []
    for pid, frames in after.items():
        parent = parents.get(pid, 0)
        if parent not in after or parent not in before:
            continue
        of_parent_before = before[parent].at(frames.page)
        was = before[pid].at(frames.page) if pid in before else of_parent_before
        of_parent = after[parent].at(frames.page)
        shared_then = (was == of_parent_before) & (was >= 0)
        apart_now = (of_parent >= 0) & (frames.frame.astype(np.int64) != of_parent)
        found = frames.page[shared_then & apart_now]
        seen = _is_in(key(np.full(len(found), pid, np.uint32), found), keys)
        seen |= _is_in(key(np.full(len(found), parent, np.uint32), found), keys)
        pids.append(np.full(len(found), pid, np.uint32))
        pages.append(found)
        explained.append(seen)
    return Unshared(
        np.concatenate(pids or [np.zeros(0, np.uint32)]),
        np.concatenate(pages or [np.zeros(0, np.uint64)]),
        np.concatenate(explained or [np.zeros(0, np.bool_)]),
    )


@dataclass(frozen=True, slots=True)
class Cause:
    """One function and what it did to sharing.

    `copied`: pages of which it made the copy. `touched`: copied pages that it wrote to at all.
    `saved`: copied pages that nobody else wrote to: what removing it would save. All count
    (process, page); `processes` those in which it touched any.
    """

    function: int
    copied: int
    touched: int
    saved: int
    processes: int


def find_causes(writes: WriteTable, labels: npt.NDArray[np.int32] | None = None) -> list[Cause]:
    """The causes of the copies in `writes`, largest saving first.

    `labels` maps each function to the cause that it belongs to (default: itself), so that
    several functions (all of a garbage collector) are one cause. A page that several write to
    is saved by none of them alone.
    """
    if labels is None:
        labels = np.arange(len(writes.functions), dtype=np.int32)
    copies = writes.kind == WriteKind.COPY
    key = _Keys(writes.pid)
    every = key(writes.pid, writes.page)
    copied_keys = np.unique(every[copies])
    on_copied = _is_in(every, copied_keys) & (writes.kind != WriteKind.FIRST_TOUCH)
    place = np.searchsorted(copied_keys, every[on_copied])
    label = labels[writes.function[on_copied]]
    pairs = np.unique(np.stack([place, label], 1), axis=0)
    writers = np.bincount(pairs[:, 0], minlength=len(copied_keys))
    alone = writers[pairs[:, 0]] == 1
    count = int(labels.max()) + 1 if len(labels) else 0
    touched = np.bincount(pairs[:, 1], minlength=count)
    saved = np.bincount(pairs[alone, 1], minlength=count)
    copied = np.bincount(labels[writes.function[copies]], minlength=count)
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
    copies = writes.kind == WriteKind.COPY
    return len(np.unique(_Keys(writes.pid)(writes.pid[copies], writes.page[copies])))


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
