"""The tables of `samepage top`: what each shows, and what opening a row leads to.

A `Place` is where the user is: a function from the newest summary to the `View` there. So
a refresh is the same call with a newer summary, and opening a row is another place on
the stack. Nothing here knows of the terminal.

    processes -> a process: its VMAs -> a VMA: its pages
    files     -> a file: its frames in memory, how often each is mapped
    containers, users -> their processes
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from samepage.live.summary import PAGE_SIZE, FileSum, GroupSum, ProcessSum, Summary
from samepage.report.live_text import file_name, process_name
from samepage.report.sizes import count, printable, size, size_if
from samepage.snapshot.kinds import FrameKind, PageFlags

MAX_ROWS = 2000
"""More rows than that are not made: nobody scrolls through a million pages."""

_KINDS = {
    FrameKind.UNKNOWN: "?",
    FrameKind.FILE: "file",
    FrameKind.ANON: "anonymous",
    FrameKind.SHMEM: "shared memory",
    FrameKind.ZERO: "zero page",
    FrameKind.SPECIAL: "kernel's",
    FrameKind.KSM: "merged (KSM)",
    FrameKind.HUGETLB: "hugetlb",
}
_FLAG_NAMES = (
    (PageFlags.DIRTY, "dirty"),
    (PageFlags.EXCLUSIVE, "exclusive"),
    (PageFlags.HUGE, "huge"),
    (PageFlags.SOFT_DIRTY, "soft-dirty"),
)

Place = Callable[[Summary], "View"]
Value = int | str


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title and width, and how a value is shown."""

    title: str
    width: int
    show: Callable[[Value], str] = str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A row: a key that stays the same over refreshes, a value for each column."""

    key: str
    values: tuple[Value, ...]
    opens: Place | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A table. `sort` is the column it is sorted by at first, -1 for as it is."""

    title: str
    columns: tuple[Column, ...]
    rows: list[Row] = field(default_factory=list)
    sort: int = -1


_UNKNOWN = -1
"""The value of what the kernel does not tell: how many frames, without CAP_SYS_ADMIN."""


def _size_of_pages(value: Value) -> str:
    return size_if(value != _UNKNOWN, int(value))


def _size_of_bytes(value: Value) -> str:
    return size(int(value) / PAGE_SIZE)


def _pages(title: str) -> Column:
    return Column(title, 8, _size_of_pages)


def _bytes(title: str) -> Column:
    return Column(title, 8, _size_of_bytes)


def _name(title: str, width: int = 28) -> Column:
    return Column(title, width, lambda value: printable(str(value)), numeric=False)


_PROCESS_COLUMNS = (
    _name("PROCESS"),
    Column("PID", 7),
    _bytes("PSS"),
    _pages("USS"),
    _pages("RSS"),
    _pages("DIRTY"),
)


def processes(summary: Summary) -> View:
    """All processes."""
    return View("Processes", _PROCESS_COLUMNS, _process_rows(summary.processes), 2)


def _process_rows(rows: Iterable[ProcessSum]) -> list[Row]:
    return [
        Row(
            str(row.process.pid),
            (process_name(row), row.process.pid, row.pss, row.uss, row.rss, row.dirty),
            process(row.process.pid),
        )
        for row in rows
    ]


def files(summary: Summary) -> View:
    """All mapped files."""
    columns = (
        _name("FILE"),
        Column("USERS", 6),
        _pages("MAPPED"),
        _pages("FRAMES"),
        _pages("SAVED"),
        _pages("COPIED"),
    )
    visible = summary.capture.frames_visible
    rows = [
        Row(
            f"{row.file.dev}:{row.file.ino}",
            (
                *(file_name(row), row.processes, row.mapped),
                *((row.frames, row.mapped - row.frames) if visible else (_UNKNOWN, _UNKNOWN)),
                row.copied,
            ),
            file(row.file.dev, row.file.ino),
        )
        for row in summary.files
    ]
    return View("Files", columns, rows, 4)


def containers(summary: Summary) -> View:
    """The containers that were recognised."""
    visible = summary.capture.frames_visible
    groups = summary.containers
    return _groups("Containers", "CONTAINER", groups, lambda row: row.process.container, visible)


def users(summary: Summary) -> View:
    """The users."""
    visible = summary.capture.frames_visible
    return _groups("Users", "USER ID", summary.users, lambda row: str(row.process.uid), visible)


def _groups(
    title: str,
    noun: str,
    groups: list[GroupSum],
    key: Callable[[ProcessSum], str],
    visible: bool,
) -> View:
    columns = (
        *(_name(noun), Column("PROCS", 6), _bytes("PSS")),
        *(_pages("OWN"), _pages("FRAMES"), _pages("RSS")),
    )

    def members(name: str) -> Place:
        def place(summary: Summary) -> View:
            rows = [row for row in summary.processes if key(row) == name]
            return View(f"Processes of {name}", _PROCESS_COLUMNS, _process_rows(rows), 2)

        return place

    rows = [
        Row(
            row.name,
            (
                *(row.name, row.processes, row.pss),
                *((row.own, row.frames) if visible else (_UNKNOWN, _UNKNOWN)),
                row.rss,
            ),
            members(row.name),
        )
        for row in groups
    ]
    return View(title, columns, rows, 2)


def process(pid: int) -> Place:
    """Return the place that shows the VMAs of one process."""
    columns = (
        Column("ADDRESS", 12, lambda value: f"{int(value):012x}"),
        Column("PERM", 4, numeric=False),
        _pages("RSS"),
        _bytes("PSS"),
        _pages("DIRTY"),
        _name("MAPPING", 26),
    )

    def place(summary: Summary) -> View:
        capture, sums = summary.capture, summary.sums
        found = next((row for row in summary.processes if row.process.pid == pid), None)
        if found is None:
            return View(f"Process {pid} is gone", columns)
        low, high = np.searchsorted(capture.vmas.process, (found.number, found.number + 1)).tolist()
        rss, dirty = sums.rss, sums.private_dirty + sums.shared_dirty
        rows = []
        for vma in range(low, high):
            mapping = capture.vmas.mappings[int(capture.vmas.mapping[vma])]
            start = int(capture.vmas.start[vma])
            values = (
                *(start, mapping.perms, int(rss[vma]), int(sums.pss[vma]) >> 12),
                *(int(dirty[vma]), mapping.name or "(anonymous)"),
            )
            rows.append(Row(f"{start:x}", values, pages_of(pid, start)))
        name = printable(process_name(found))
        return View(f"{pid} {name}", columns, rows)

    return place


def pages_of(pid: int, start: int) -> Place:
    """Return the place that shows the pages of one VMA, by the address it starts at."""
    columns = (
        Column("ADDRESS", 12, lambda value: f"{int(value):012x}"),
        Column("FRAME", 10, lambda value: f"{int(value):x}" if value else "-"),
        Column("MAPPED", 7, lambda value: f"{value}x" if value else "-"),
        Column("CONTENT", 14, numeric=False),
        Column("STATE", 24, numeric=False),
    )

    def place(summary: Summary) -> View:
        capture = summary.capture
        pids = [process.pid for process in capture.processes]
        owner = np.array([pids[number] for number in capture.vmas.process.tolist()])
        match = np.flatnonzero((owner == pid) & (capture.vmas.start == start))
        if not len(match):
            return View(f"{pid} has no mapping at {start:x} any more", columns)
        first, last = int(capture.first[match[0]]), int(capture.last[match[0]])
        shown = min(last, first + MAX_ROWS)
        rows = []
        if first < last:
            frames, table = capture.frames, capture.pages.frame
            numbers = capture.pages.vpages(first, shown).tolist()
            for vpage, row, flags in zip(
                numbers,
                table[first:shown].tolist(),
                capture.pages.flags[first:shown].tolist(),
                strict=True,
            ):
                known = row < len(frames)
                rows.append(
                    Row(
                        f"{vpage:x}",
                        (
                            vpage << 12,
                            int(frames.frame[row]) if known else 0,
                            int(frames.mapcount[row]) if known else 0,
                            _KINDS[FrameKind(int(frames.kind[row]))] if known else "?",
                            _state(flags, known),
                        ),
                    )
                )
        mapping = capture.vmas.mappings[int(capture.vmas.mapping[match[0]])]
        title = f"{count(last - first, 'page')} of {pid} at {start:x} {printable(mapping.name)}"
        return View(_cut(title, last - first), columns, rows)

    return place


def file(dev: int, ino: int) -> Place:
    """Return the place that shows the frames of one file."""
    columns = (
        Column("PAGE", 10),
        Column("FRAME", 12, lambda value: f"{int(value):x}"),
        Column("MAPPED", 8, lambda value: f"{value}x"),
        Column("CONTENT", 14, numeric=False),
        Column("STATE", 12, numeric=False),
    )

    def place(summary: Summary) -> View:
        found = next(
            (row for row in summary.files if (row.file.dev, row.file.ino) == (dev, ino)), None
        )
        if found is None:
            return View("The file is not mapped any more", columns)
        frames = summary.capture.frames
        mine = np.flatnonzero((frames.file == found.number) & frames.resident)
        mine = mine[np.argsort(frames.index[mine], kind="stable")]
        rows = [
            Row(
                str(int(frames.index[row])),
                (
                    *(int(frames.index[row]), int(frames.frame[row]), int(frames.mapcount[row])),
                    _KINDS[FrameKind(int(frames.kind[row]))],
                    "dirty" if frames.dirty[row] else "clean",
                ),
            )
            for row in mine[:MAX_ROWS].tolist()
        ]
        return View(_cut(_file_title(found, summary), len(mine)), columns, rows)

    return place


def _file_title(row: FileSum, summary: Summary) -> str:
    users = count(row.processes, "process", "processes")
    name = printable(file_name(row)).rpartition("/")[2]
    if not summary.capture.frames_visible:
        return f"{name}: {users}; its frames need root (CAP_SYS_ADMIN)"
    shared = sum(n for times, n in summary.degrees(row.number).items() if times > 1)
    return f"{name}: {users}, {row.frames} frames, {shared} of them shared"


def _cut(title: str, total: int) -> str:
    return f"{title} (the first {MAX_ROWS})" if total > MAX_ROWS else title


def _state(flags: int, known: bool) -> str:
    """Say what a page is; whether it is dirty is known only with its frame."""
    if flags & PageFlags.SWAPPED:
        return "swapped out"
    names = [name for flag, name in _FLAG_NAMES if flags & flag]
    if known and not flags & PageFlags.DIRTY:
        names.insert(0, "clean")
    return " ".join(names) or "?"
