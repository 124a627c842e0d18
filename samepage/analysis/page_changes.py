"""Which pages of a process are other frames than before, and why.

Two captures of one boot show the frame of each virtual page at two instants. A page that is
resident both times in different frames was either *copied*, on a write while others had the same
frame (copy-on-write), or it *moved*: the kernel put its content into another frame for all who
map it (compaction, migration, swap, a huge page made or split), or the program freed it and has
new memory at the same address.

How the two differ:

- A page of a file (or of shared memory) that is anonymous now, in a VMA of the same file, is a
  copy: nothing else makes it so (`do_cow_fault`, `wp_page_copy`).
- An anonymous page is a copy if it was mapped more than once, and those who had its frame do not
  have the same frame now. The kernel moves a page for all who map it at once (`try_to_migrate`
  walks the reverse map), a write moves it for the writer alone. If all who had the frame have
  others now, one of them still has the content that the kernel moved, and the rest are copies.
- A process that was forked since has what its parent had, at the same addresses.

A copy is a frame, so one that was inherited by children after it was made is counted once.
"""

from typing import NamedTuple

import numpy as np

from samepage.analysis.sharing import Sharing
from samepage.records import record
from samepage.snapshot.arrays import distinct
from samepage.snapshot.columns import I32, I64, U64, Marks, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

_OF_FILES = (FrameKind.FILE, FrameKind.SHMEM)


class PageChanges(NamedTuple):
    """The pages of one process before and after, by address: see `EXPLAINED`."""

    gained: int
    lost: int
    copied_anonymous: int
    copied_file: int
    moved: int

    @property
    def copied(self) -> int:
        """Pages that left sharing by copy-on-write."""
        return self.copied_anonymous + self.copied_file

    def copies(self) -> tuple[int, int]:
        """Return the two kinds of copied pages."""
        return self.copied_anonymous, self.copied_file


NO_CHANGES = PageChanges(0, 0, 0, 0, 0)

EXPLAINED = (
    ("gained", "resident now, and not before (touched for the first time, or read from swap)"),
    ("lost", "resident before, and not now (freed, unmapped, swapped out or reclaimed)"),
    (
        "copied",
        "written while others had the same frame, so that the process has one of its own now "
        "(copy-on-write): the page left sharing, and takes memory of its own",
    ),
    (
        "moved",
        "in another frame without leaving sharing: freed and allocated again at the same "
        "address, or moved by the kernel (compaction, migration, swap, huge pages)",
    ),
)
"""The words of the report, and what each means."""


class Pair(NamedTuple):
    """Two processes whose pages are compared by address, by their positions.

    `forked` means that the one after did not exist before, and `before` is its parent.
    """

    before: int
    after: int
    forked: bool = False


class Copies(NamedTuple):
    """Different frames that copy-on-write made since, by what they were copied from."""

    anonymous: int
    file: int


@record(eq=False)
class Resident:
    """The resident pages of one process, ascending by `vpage`; `page` numbers the snapshot's."""

    vpage: U64
    page: I64

    @classmethod
    def of(cls, sharing: Sharing, process: int) -> "Resident":
        """Return what counts in its RSS."""
        snapshot = sharing.snapshot
        mine = snapshot.pages_of(process)
        rows, flags = snapshot.pages.frame[mine], snapshot.pages.flags[mine]
        counts = np.append(snapshot.frames.resident(), True)[rows]
        counts &= (flags & np.uint16(PageFlags.PRESENT)) != 0
        hidden = sharing.counted.unaccounted
        counts[hidden[(hidden >= mine.start) & (hidden < mine.stop)] - mine.start] = False
        vpages = snapshot.pages.vpages(mine.start, mine.stop) if len(rows) else np.empty(0, "u8")
        return cls(vpages[counts], np.flatnonzero(counts) + mine.start)


@record(eq=False)
class Changed:
    """Pages that are in another frame than before; the columns have the same length."""

    pair: I64
    before: I64
    """The page's number before."""
    after: I64
    """Its number after."""
    from_file: Marks
    copied: Marks


@record(eq=False)
class Compared:
    """What the pages of some pairs of processes show.

    Invariant: `pages` has an entry for each pair, which is None where frame numbers do not mean
    the same before and after, and `gained`, `lost` are all that is known.
    """

    pages: list[PageChanges]
    changed: Changed
    copies: Copies


def compare_pages(one: Sharing, two: Sharing, pairs: list[Pair], same_boot: bool) -> Compared:
    """Compare the pages of pairs. Without `same_boot`, frames are not compared."""
    counts: list[tuple[int, int]] = []
    parts: list[tuple[I64, I64, I64]] = []
    stays = np.zeros(len(one.snapshot.frames) + 1, dtype=bool)
    for number, pair in enumerate(pairs):
        old, new = Resident.of(one, pair.before), Resident.of(two, pair.after)
        here, there = _common(old.vpage, new.vpage)
        counts.append((len(new.page) - len(there), len(old.page) - len(here)))
        if not same_boot:
            continue
        before, after = old.page[here], new.page[there]
        differ = _frames(one.snapshot, before) != _frames(two.snapshot, after)
        stays[one.snapshot.pages.frame[before[~differ]]] = True
        size = int(differ.sum())
        parts.append((np.full(size, number), before[differ], after[differ]))
    nothing = np.empty(0, dtype=np.int64)
    pair_of, before, after = map(np.concatenate, zip((nothing,) * 3, *parts, strict=True))
    from_file = _copied_from_file(one, two, before, after)
    anonymous = ~from_file & _copied_anonymous(one, two, (before, after), stays)
    frame = two.snapshot.pages.frame[after]
    changed = Changed(pair_of, before, after, from_file, from_file | anonymous)
    sums = [
        np.bincount(pair_of[marks], minlength=len(pairs)).tolist()
        for marks in (anonymous, from_file, ~changed.copied)
    ]
    pages = [PageChanges(*row) for row in zip(*zip(*counts, strict=True), *sums, strict=True)]
    return Compared(
        pages if counts else [],
        changed,
        Copies(len(distinct(frame[anonymous])), len(distinct(frame[from_file]))),
    )


def _common(old: U64, new: U64) -> tuple[I64, I64]:
    """Return where the values that both have are in each; both ascend."""
    place = np.searchsorted(new, old)
    found = np.flatnonzero(place < len(new))
    found = found[new[place[found]] == old[found]]
    return found, place[found]


def _frames(snapshot: Snapshot, pages: I64) -> U64:
    return np.append(snapshot.frames.number, np.uint64(0))[snapshot.pages.frame[pages]]


def _kinds(snapshot: Snapshot, pages: I64) -> I64:
    kinds = np.append(snapshot.frames.kind, FrameKind.UNKNOWN)[snapshot.pages.frame[pages]]
    return kinds.astype(np.int64)


def _anonymous(kinds: I64) -> Marks:
    anonymous: Marks = (kinds == FrameKind.ANON) | (kinds == FrameKind.KSM)
    return anonymous


def _copied_from_file(one: Sharing, two: Sharing, before: I64, after: I64) -> Marks:
    """Return which pages were a file's frame, and are an anonymous copy in a VMA of it now."""
    copied = np.isin(_kinds(one.snapshot, before), _OF_FILES)
    copied &= _anonymous(_kinds(two.snapshot, after))
    rows = np.flatnonzero(copied)
    names = [
        _inodes(sharing.snapshot, pages[rows]) for sharing, pages in ((one, before), (two, after))
    ]
    copied[rows] = (names[0] == names[1]).all(axis=1) & (names[0][:, 1] > 0)
    return copied


def _inodes(snapshot: Snapshot, pages: I64) -> U64:
    """Return device and inode of the file of each page's VMA, 0 for none."""
    vmas = np.searchsorted(snapshot.bounds, pages, side="right") - 1
    ids = np.array([(file.dev, file.ino) for file in snapshot.files] + [(0, 0)], dtype=np.uint64)
    return ids[snapshot.vmas.file()[vmas]]


def _copied_anonymous(one: Sharing, two: Sharing, pages: tuple[I64, I64], stays: Marks) -> Marks:
    """Return which pages that were anonymous, and are in another frame, are copies."""
    before, after = pages
    copied = np.zeros(len(before), dtype=bool)
    wanted = _anonymous(_kinds(one.snapshot, before)) & _anonymous(_kinds(two.snapshot, after))
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return copied
    old: I32 = one.snapshot.pages.frame[before[rows]]
    new: I32 = two.snapshot.pages.frame[after[rows]]
    had, have = one.counted.degree[old].astype(np.int64), two.counted.degree[new].astype(np.int64)
    # Rows by the frame that they had, in it those with the frame that most map now first.
    order = np.lexsort((new, -have, old))
    old, new, had, have, rows = old[order], new[order], had[order], have[order], rows[order]
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = old[1:] != old[:-1]
    group = np.cumsum(starts) - 1
    number = np.bincount(group)[group]  # how many of those who had the frame are known to have left
    first = new[np.flatnonzero(starts)][group]
    all_left = number >= had
    # If all of them left, those with the first of the frames have the content that moved.
    moved = np.where(all_left, new == first, have >= had)
    copied[rows] = stays[old] | ~moved
    return copied
