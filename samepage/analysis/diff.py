"""What changed between two snapshots: before and after, model and host, one host and another.

Processes are matched first: by pid and start time where both snapshots are of the same running
system (a pid may have been given out again), else by what they run (exe and argv), in the order
of their pids; of three before and two after with the same command line, two are matched and one
is lost. Files are matched by path, since the inode of a path changes with an upgrade, and
differs between hosts anyway: which is one of the things to see.

Pages of a file are compared by their place in the file. Pages of a process are compared by
address (`samepage.analysis.page_changes`), which is meaningful only if both have their files at
the same addresses (the model, or a live process before and after); where they have not, `pages`
is None.
"""

import enum
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.analysis.counting import Scope
from samepage.analysis.mapping_changes import MappingChange, by_address, by_name
from samepage.analysis.page_changes import (
    NO_CHANGES,
    Copies,
    PageChanges,
    Pair,
    compare_pages,
)
from samepage.analysis.sharing import FileUse, Kinds, ProcessUse, Sharing, Totals
from samepage.snapshot.columns import Snapshot


class Match(enum.Enum):
    """How processes of two snapshots are taken for the same."""

    PID = "pid"
    PROGRAM = "program"
    AUTO = "auto"
    """PID if both are live captures of the same boot of the same host, else PROGRAM."""


NO_KINDS = Kinds(0, 0, 0, 0, 0, 0)


class ProcessChange(NamedTuple):
    """One process; `before` or `after` is None if it is new or lost."""

    before: ProcessUse | None
    after: ProcessUse | None
    kinds: tuple[Kinds, Kinds]
    """Before and after."""
    pages: PageChanges | None
    """Of a new process, what it has copied since of the memory of its parent."""

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
        """Return whether anything is different, be it only one page for another."""
        if self.before is None or self.after is None:
            return True
        other = self.pages is not None and self.pages != NO_CHANGES
        return other or self.before.usage != self.after.usage or bool(self.pss)


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
    """One path; `before` or `after` is `NO_FILE` if no process has it."""

    path: str
    before: FileTotals
    after: FileTotals
    gained: int
    """Pages of the file that are mapped only after."""
    lost: int
    """Pages of the file that were mapped only before."""

    @property
    def content_changed(self) -> bool:
        """Return whether the build-ids are both known, and different."""
        ids = self.before.build_ids, self.after.build_ids
        return all(ids) and ids[0] != ids[1]

    @property
    def changed(self) -> bool:
        """Return whether anything but the inode number is different."""
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
    copies: Copies | None
    """What was copied on write since; None where frames do not mean the same."""
    mappings: list[MappingChange]
    seconds: float | None
    """From the one snapshot to the other, None if that is not known."""

    def per_hour(self, growth: float) -> float | None:
        """Return the rate of a growth, None if the time is not known."""
        return growth * 3600 / self.seconds if self.seconds else None

    @property
    def equal(self) -> bool:
        """Return whether nothing changed."""
        changes: Iterable[ProcessChange | FileChange] = (*self.processes, *self.files)
        return self.before == self.after and not any(change.changed for change in changes)


def diff(before: Snapshot, after: Snapshot, match: Match = Match.AUTO) -> Diff:
    """Compare two sound snapshots. The scope is that of the snapshots if they agree on it."""
    same_boot = _same_boot(before, after)
    if match is Match.AUTO:
        match = Match.PID if same_boot else Match.PROGRAM
    scopes = {Scope.of(before), Scope.of(after)}
    scope = scopes.pop() if len(scopes) == 1 else Scope.GROUP
    one, two = Sharing(before, scope), Sharing(after, scope)
    matched = _matched(one.processes, two.processes, match, same_boot)
    pairs, strangers = _pairs(one, two, matched, match is Match.PID and same_boot)
    compared = compare_pages(one, two, list(pairs.values()), same_boot)
    pages = {
        number: PageChanges(0, 0, *found.copies(), 0) if pair.forked else found
        for (number, pair), found in zip(pairs.items(), compared.pages, strict=True)
    }
    return Diff(
        match=match,
        before=one.totals,
        after=two.totals,
        pss=(one.pss, two.pss),
        processes=[
            ProcessChange(old, new, (_kinds(one, old), _kinds(two, new)), pages.get(number))
            for number, (old, new) in enumerate(matched)
        ],
        files=_file_changes(one, two),
        copies=compared.copies if same_boot else None,
        mappings=[
            *by_address(one, two, list(pairs.values()), compared.changed),
            *by_name(one, two, strangers),
        ],
        seconds=_seconds(before, after),
    )


Matched = list[tuple[ProcessUse | None, ProcessUse | None]]


def _pairs(
    one: Sharing, two: Sharing, matched: Matched, forks: bool
) -> tuple[dict[int, Pair], list[Pair]]:
    """Return what to compare by address, by the position in `matched`, and what by name.

    With `forks` a new process is compared with its parent.
    """
    by_pid = {old.process.pid: old for old, new in matched if old and new}
    same: dict[int, Pair] = {}
    strangers: list[Pair] = []
    for number, (old, new) in enumerate(matched):
        if new is None:
            continue
        parent = by_pid.get(new.process.ppid) if forks and old is None else None
        if parent is not None and parent.process.exe != new.process.exe:
            parent = None  # the new process has called exec
        former = old or parent
        if former is None:
            continue
        pair = Pair(former.number, new.number, forked=old is None)
        if _same_addresses(one, two, former.number, new.number):
            same[number] = pair
        elif old:
            strangers.append(pair)
    return same, strangers


def _kinds(sharing: Sharing, use: ProcessUse | None) -> Kinds:
    return sharing.kinds[use.number] if use else NO_KINDS


def _seconds(before: Snapshot, after: Snapshot) -> float | None:
    """Return the time between, None if it is not known or runs backwards."""
    try:
        first, last = (datetime.fromisoformat(each.meta["time"]) for each in (before, after))
        seconds = (last - first).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None
    return seconds if seconds > 0 else None


def _same_boot(before: Snapshot, after: Snapshot) -> bool:
    one, two = before.meta, after.meta
    return "boot_id" in one and one["boot_id"] == two.get("boot_id")


def _matched(
    before: list[ProcessUse], after: list[ProcessUse], match: Match, same_boot: bool
) -> Matched:
    dated = same_boot and all(use.process.start_time is not None for use in (*before, *after))

    def key(use: ProcessUse) -> Hashable:
        process = use.process
        if match is Match.PID:
            # A process that called exec is still the same. Where a snapshot does not record when
            # it was started, another program is taken for another process.
            return process.pid, process.start_time if dated else process.exe
        return process.exe, process.argv

    waiting: dict[Hashable, list[ProcessUse]] = {}
    for use in reversed(after):
        waiting.setdefault(key(use), []).append(use)
    pairs: Matched = []
    taken = set()
    for use in before:
        candidates = waiting.get(key(use))
        partner = candidates.pop() if candidates else None
        pairs.append((use, partner))
        taken.add(partner.number if partner else None)
    pairs += [(None, use) for use in after if use.number not in taken]
    return pairs


def _same_addresses(one: Sharing, two: Sharing, old: int, new: int) -> bool:
    """Return whether the files that both map begin at the same addresses (no ASLR between)."""
    starts = []
    for sharing, number in ((one, old), (two, new)):
        first: dict[str, int] = {}
        vmas = sharing.snapshot.vmas
        mine = vmas.of(number)
        for number, start in zip(
            vmas.mapping[mine].tolist(), vmas.start[mine].tolist(), strict=True
        ):
            mapping = vmas.mappings[number]
            if mapping.file >= 0:
                first.setdefault(mapping.name, start)
        starts.append(first)
    common = starts[0].keys() & starts[1].keys()
    return bool(common) and all(starts[0][name] == starts[1][name] for name in common)


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
