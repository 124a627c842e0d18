"""What changed between two snapshots: before and after, model and host, one host and another.

Processes are matched first: by pid and start time where both snapshots are of the same running
system (a pid may have been given out again), else by what they run (exe and argv), in the order
of their pids; of three before and two after with the same command line, two are matched and one
is lost. Files are matched by path, since the inode of a path changes with an upgrade, and
differs between hosts anyway: which is one of the things to see.

Pages of a file are compared by their place in the file. Pages of a process are compared by
address, which says something only if both have their files at the same addresses (the
model, or a live process before and after); where they have not, `pages` is None.
"""

import enum
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.analysis.counting import Scope
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing, Totals
from samepage.snapshot.columns import U64, Snapshot
from samepage.snapshot.kinds import PageFlags


class Match(enum.Enum):
    """How processes of two snapshots are taken for the same."""

    PID = "pid"
    PROGRAM = "program"
    AUTO = "auto"
    """PID if both are live captures of the same boot of the same host, else PROGRAM."""


class PageChanges(NamedTuple):
    """The pages of one process before and after, by address.

    `moved` are present in both, with another frame (compared only where frame numbers
    mean the same, which is in live captures of one boot).
    """

    gained: int
    lost: int
    moved: int


class ProcessChange(NamedTuple):
    """One process; `before` or `after` is None if it is new or lost."""

    before: ProcessUse | None
    after: ProcessUse | None
    pages: PageChanges | None

    @property
    def rss(self) -> int:
        """The growth of RSS in pages."""
        return _rss(self.after) - _rss(self.before)

    @property
    def pss(self) -> Fraction:
        """The growth of PSS in pages."""
        return _pss(self.after) - _pss(self.before)

    @property
    def changed(self) -> bool:
        """Tell whether anything is different, be it only one page for another."""
        if self.before is None or self.after is None:
            return True
        moved = self.pages is not None and self.pages != PageChanges(0, 0, 0)
        return moved or self.before.usage != self.after.usage or bool(self.pss)


class FileTotals(NamedTuple):
    """All files of one path together (different inodes, if it was replaced)."""

    inodes: tuple[tuple[int, int], ...]
    build_ids: tuple[str, ...]
    frames: int
    mapped_pages: int
    copied_pages: int
    processes: int

    @classmethod
    def of(cls, sharing: Sharing, uses: list[FileUse]) -> "FileTotals":
        """Add up files."""
        return cls(
            inodes=tuple(sorted((use.file.dev, use.file.ino) for use in uses)),
            build_ids=tuple(sorted({use.file.build_id for use in uses if use.file.build_id})),
            frames=sum(use.frames for use in uses),
            mapped_pages=sum(use.mapped_pages for use in uses),
            copied_pages=sum(use.copied_pages for use in uses),
            processes=len({by.pid for use in uses for by in sharing.mappers[use.number]}),
        )


NO_PAGES = np.empty(0, dtype=np.int64)
NO_FILE = FileTotals((), (), 0, 0, 0, 0)


class FileChange(NamedTuple):
    """One path; `before` or `after` is `NO_FILE` if nobody has it."""

    path: str
    before: FileTotals
    after: FileTotals
    gained: int
    """Pages of the file that are mapped only after."""
    lost: int
    """Pages of the file that were mapped only before."""

    @property
    def content_changed(self) -> bool:
        """Tell whether the build-ids are both known, and different."""
        ids = self.before.build_ids, self.after.build_ids
        return all(ids) and ids[0] != ids[1]

    @property
    def changed(self) -> bool:
        """Tell whether anything but the inode number is different."""
        before, after = (
            (use.frames, use.mapped_pages, use.copied_pages, use.processes)
            for use in (self.before, self.after)
        )
        return before != after or bool(self.gained or self.lost) or self.content_changed


class Diff(NamedTuple):
    """The whole comparison; `match` is PID or PROGRAM, as it was done."""

    match: Match
    before: Totals
    after: Totals
    pss: tuple[Fraction, Fraction]
    processes: list[ProcessChange]
    files: list[FileChange]

    @property
    def equal(self) -> bool:
        """Tell whether nothing changed."""
        changes: Iterable[Any] = (*self.processes, *self.files)
        return self.before == self.after and not any(change.changed for change in changes)


def diff(before: Snapshot, after: Snapshot, match: Match = Match.AUTO) -> Diff:
    """Compare two sound snapshots. The scope is that of the snapshots if they agree on it."""
    same_boot = _same_boot(before, after)
    if match is Match.AUTO:
        match = Match.PID if same_boot else Match.PROGRAM
    scopes = {Scope.of(before), Scope.of(after)}
    scope = scopes.pop() if len(scopes) == 1 else Scope.GROUP
    one, two = Sharing(before, scope), Sharing(after, scope)
    processes = [
        ProcessChange(old, new, _page_changes(one, two, old, new, same_boot))
        for old, new in _matched(one.processes, two.processes, match, same_boot)
    ]
    return Diff(
        match=match,
        before=one.totals,
        after=two.totals,
        pss=(one.pss, two.pss),
        processes=processes,
        files=_file_changes(one, two),
    )


def _same_boot(before: Snapshot, after: Snapshot) -> bool:
    one, two = before.meta, after.meta
    return "boot_id" in one and one["boot_id"] == two.get("boot_id")


def _matched(
    before: list[ProcessUse], after: list[ProcessUse], match: Match, same_boot: bool
) -> list[tuple[ProcessUse | None, ProcessUse | None]]:
    dated = same_boot and all(use.process.start_time is not None for use in (*before, *after))

    def key(use: ProcessUse) -> Any:
        process = use.process
        if match is Match.PID:
            # A process that called exec is still the same. Where a snapshot does not tell when
            # it was started, another program is taken for another process.
            return process.pid, process.start_time if dated else process.exe
        return process.exe, process.argv

    waiting: dict[Any, list[ProcessUse]] = {}
    for use in reversed(after):
        waiting.setdefault(key(use), []).append(use)
    pairs: list[tuple[ProcessUse | None, ProcessUse | None]] = []
    taken = set()
    for use in before:
        candidates = waiting.get(key(use))
        partner = candidates.pop() if candidates else None
        pairs.append((use, partner))
        taken.add(partner.number if partner else None)
    pairs += [(None, use) for use in after if use.number not in taken]
    return pairs


def _page_changes(
    one: Sharing, two: Sharing, old: ProcessUse | None, new: ProcessUse | None, same_boot: bool
) -> PageChanges | None:
    if old is None or new is None or not _same_addresses(one, two, old.number, new.number):
        return None
    pages, frames = _present(one.snapshot, old.number)
    new_pages, new_frames = _present(two.snapshot, new.number)
    common, here, there = np.intersect1d(pages, new_pages, assume_unique=True, return_indices=True)
    moved = int((frames[here] != new_frames[there]).sum()) if same_boot else 0
    return PageChanges(len(new_pages) - len(common), len(pages) - len(common), moved)


def _same_addresses(one: Sharing, two: Sharing, old: int, new: int) -> bool:
    """Return whether the files that both map begin at the same addresses (no ASLR between)."""
    starts = []
    for sharing, number in ((one, old), (two, new)):
        first: dict[str, int] = {}
        for vma in sharing.vmas(number):
            if vma.mapping.file >= 0:
                first.setdefault(vma.mapping.name, vma.start)
        starts.append(first)
    common = starts[0].keys() & starts[1].keys()
    return bool(common) and all(starts[0][name] == starts[1][name] for name in common)


def _present(snapshot: Snapshot, process: int) -> tuple[U64, U64]:
    """Return the virtual pages and frames of a process."""
    mine = snapshot.pages_of(process)
    present = (snapshot.pages.flags[mine] & np.uint16(PageFlags.PRESENT)) != 0
    vpages = snapshot.pages.vpages(mine.start, mine.stop)
    return vpages[present], snapshot.frame_numbers(mine)[present]


def _file_changes(one: Sharing, two: Sharing) -> list[FileChange]:
    sides = [_by_path(one), _by_path(two)]
    pages = (_mapped_indexes(one), _mapped_indexes(two))
    changes = []
    for path in sorted({*sides[0], *sides[1]}):
        files = [side.get(path, []) for side in sides]
        mapped = [
            np.unique(np.concatenate([NO_PAGES, *(of_side(use.number) for use in group)]))
            for of_side, group in zip(pages, files, strict=True)
        ]
        before, after = (
            FileTotals.of(side, group) if group else NO_FILE
            for side, group in zip((one, two), files, strict=True)
        )
        common = len(np.intersect1d(mapped[0], mapped[1], assume_unique=True))
        lost, gained = (len(of_side) - common for of_side in mapped)
        changes.append(FileChange(path, before, after, gained, lost))
    return changes


def _by_path(sharing: Sharing) -> dict[str, list[FileUse]]:
    paths: dict[str, list[FileUse]] = {}
    for use in sharing.files:
        if use.processes or use.frames:
            paths.setdefault(use.file.path, []).append(use)
    return paths


def _mapped_indexes(sharing: Sharing) -> Callable[[int], npt.NDArray[np.int64]]:
    """Return a function that returns which pages of a file are mapped."""
    frames = sharing.snapshot.frames
    rows = np.flatnonzero((frames.file >= 0) & (sharing.counted.mapped > 0))
    rows = rows[np.argsort(frames.file[rows], kind="stable")]
    file, index = frames.file[rows], frames.index[rows]

    def of_file(number: int) -> npt.NDArray[np.int64]:
        low, high = np.searchsorted(file, np.array([number, number + 1], dtype=file.dtype))
        pages: npt.NDArray[np.int64] = index[low:high]
        return pages

    return of_file


def _rss(process: ProcessUse | None) -> int:
    return process.usage.rss if process else 0


def _pss(process: ProcessUse | None) -> Fraction:
    return process.pss if process else Fraction(0)
