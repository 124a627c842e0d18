"""The tables of `samepage top`: what each shows, and what opening a row leads to.

A `Place` is where the user is: a function from the newest `Sharing` to the `View` there. So
a refresh is the same call with a newer one, and opening a row is another place on
the stack. Nothing here knows of the terminal.

    processes -> a process: its VMAs -> a VMA: its pages
    files     -> a file: its frames in memory, how often each is mapped
    programs, units, pods, containers, users, trees -> their processes
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from samepage.analysis.cgroup_memory import CHARGED, CgroupAccounts
from samepage.analysis.groups import groups, key_of, members
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing
from samepage.report.group_text import TITLES, group_name
from samepage.report.sizes import count, printable, size_if
from samepage.report.text import command_line, file_name
from samepage.snapshot.columns import PAGE_SIZE, File, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

MAX_ROWS = 2000
"""More rows than that are not made: no user scrolls through a million pages."""

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

Place = Callable[[Sharing], "View"]
Value = int | float | str


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title and width, and how a value is shown."""

    title: str
    width: int
    show: Callable[[Value], str] = str
    numeric: bool = True
    flexible: bool = False
    """Whether it takes what the others leave of the screen's width."""


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


def widths(columns: tuple[Column, ...], room: int, padding: int) -> list[int]:
    """Return the width of each column: the flexible one takes what is left of `room`.

    `padding` is what a column takes beside its width. None gets less than it asks for.
    """
    left = max(0, room - sum(column.width + padding for column in columns))
    return [column.width + (left if column.flexible else 0) for column in columns]


_UNKNOWN = -1
"""The value of what the kernel does not show: how many frames, without CAP_SYS_ADMIN."""


def _size(value: Value) -> str:
    assert not isinstance(value, str)
    return size_if(value != _UNKNOWN, value)


def _address(value: Value) -> str:
    return f"{value:012x}"


def _pages(title: str) -> Column:
    return Column(title, 8, _size)


def _name(title: str, width: int = 28) -> Column:
    return Column(title, width, lambda value: printable(str(value)), numeric=False, flexible=True)


_PROCESS_COLUMNS = (
    _name("PROCESS"),
    Column("PID", 7),
    *(_pages(title) for title in ("PSS", "USS", "RSS", "DIRTY")),
)


def processes(sharing: Sharing) -> View:
    """All processes."""
    return View("Processes", _PROCESS_COLUMNS, _process_rows(sharing.processes), 2)


def _process_rows(uses: Iterable[ProcessUse]) -> list[Row]:
    return [
        Row(
            str(use.process.pid),
            (
                *(command_line(use.process), use.process.pid, float(use.share)),
                *(use.usage.uss, use.usage.rss, use.usage.dirty),
            ),
            process(use.process.pid),
        )
        for use in uses
    ]


def files(sharing: Sharing) -> View:
    """All mapped files."""
    columns = (
        _name("FILE"),
        Column("USERS", 6),
        *(_pages(title) for title in ("MAPPED", "FRAMES", "SAVED", "COPIED")),
    )
    visible = sharing.snapshot.frames_visible
    rows = [
        Row(
            f"{use.file.dev}:{use.file.ino}:{use.file.version}",
            (
                *(file_name(use.file), use.processes, use.mapped_pages),
                *((use.frames, use.saved_pages) if visible else (_UNKNOWN, _UNKNOWN)),
                use.copied_pages,
            ),
            file(use.file),
        )
        for use in sharing.files
        if use.processes
    ]
    return View("Files", columns, rows, 4)


def grouped(kind: str) -> Place:
    """Return the place that shows the groups of a kind (`samepage.analysis.groups.KINDS`)."""
    columns = (
        *(_name(kind.upper()), Column("PROCS", 6)),
        *(_pages(title) for title in ("PSS", "FREED")),
        *(_pages(title) for title in (("CHARGED",) if kind in CHARGED else ("FRAMES",))),
        _pages("RSS"),
    )

    def of(name: str, shown: str) -> Place:
        def place(sharing: Sharing) -> View:
            found = members(sharing, key_of(kind, sharing.snapshot))
            return View(
                f"Processes of {shown}", _PROCESS_COLUMNS, _process_rows(found.get(name, ())), 2
            )

        return place

    def place(sharing: Sharing) -> View:
        visible = sharing.snapshot.frames_visible
        accounts = CgroupAccounts(sharing)
        rows = []
        for group in groups(sharing, key_of(kind, sharing.snapshot)):
            if group.name:
                shown = group_name(sharing.snapshot, kind, group)
                freed = group.freed_frames if visible else _UNKNOWN
                third: Value = group.frames if visible else _UNKNOWN
                if kind in CHARGED:
                    value = accounts.charged_to(kind, group.processes)
                    third = _UNKNOWN if value is None else value // PAGE_SIZE
                values = (
                    *(shown, len(group.processes), float(group.share)),
                    *(freed, third, group.rss),
                )
                rows.append(Row(group.name, values, of(group.name, shown)))
        return View(TITLES[kind], columns, rows, 2)

    return place


PLACES: dict[str, Place] = {
    "processes": processes,
    "files": files,
    **{kind: grouped(kind) for kind in TITLES},
}
"""Where to begin."""


def process(pid: int) -> Place:
    """Return the place that shows the VMAs of one process."""
    columns = (
        Column("ADDRESS", 12, _address),
        Column("PERM", 4, numeric=False),
        *(_pages(title) for title in ("RSS", "PSS", "DIRTY")),
        _name("MAPPING", 26),
    )

    def place(sharing: Sharing) -> View:
        number = sharing.snapshot.process_number(pid)
        if number is None:
            return View(f"Process {pid} is gone", columns)
        rows = [
            Row(
                f"{vma.start:x}",
                (
                    *(vma.start, vma.mapping.perms, vma.usage.rss, float(vma.share)),
                    *(vma.usage.dirty, vma.mapping.name or "(anonymous)"),
                ),
                pages_of(pid, vma.start),
            )
            for vma in sharing.vmas(number)
        ]
        name = command_line(sharing.snapshot.processes[number])
        return View(f"{pid} {name}", columns, rows)

    return place


def pages_of(pid: int, start: int) -> Place:
    """Return the place that shows the pages of one VMA, by the address it starts at."""
    columns = (
        Column("ADDRESS", 12, _address),
        Column("FRAME", 10, lambda value: f"{value:x}" if value else "-"),
        Column("MAPPED", 7, lambda value: f"{value}x" if value else "-"),
        Column("CONTENT", 14, numeric=False),
        Column("STATE", 24, numeric=False),
    )

    def place(sharing: Sharing) -> View:
        snapshot = sharing.snapshot
        number = snapshot.process_number(pid)
        found = (
            [vma for vma in sharing.vmas(number) if vma.start == start]
            if number is not None
            else []
        )
        if not found:
            return View(f"{pid} has no mapping at {start:x} any more", columns)
        first, last = snapshot.bounds[found[0].number : found[0].number + 2].tolist()
        rows = _page_rows(sharing, first, min(last, first + MAX_ROWS))
        name = printable(found[0].mapping.name)
        title = f"{count(last - first, 'page')} of {pid} at {start:x} {name}"
        return View(_cut(title, last - first), columns, rows)

    return place


def _page_rows(sharing: Sharing, first: int, last: int) -> list[Row]:
    snapshot = sharing.snapshot
    frames, pages = snapshot.frames, snapshot.pages
    rows = []
    for vpage, row, flags in zip(
        pages.vpages(first, last).tolist(),
        pages.frame[first:last].tolist(),
        pages.flags[first:last].tolist(),
        strict=True,
    ):
        known = row < len(frames)
        values = (
            vpage << 12,
            int(frames.number[row]) if known else 0,
            int(sharing.counted.degree[row]) if known else 0,
            _KINDS[FrameKind(int(frames.kind[row]))] if known else "?",
            _state(flags, known),
        )
        rows.append(Row(f"{vpage:x}", values))
    return rows


def file(shown: File) -> Place:
    """Return the place that shows the frames of one file."""
    columns = (
        Column("PAGE", 10),
        Column("FRAME", 12, lambda value: f"{value:x}"),
        Column("MAPPED", 8, lambda value: f"{value}x"),
        Column("CONTENT", 14, numeric=False),
        Column("STATE", 12, numeric=False),
    )

    def place(sharing: Sharing) -> View:
        key = (shown.dev, shown.ino, shown.version)
        found = next(
            (use for use in sharing.files if (use.file.dev, use.file.ino, use.file.version) == key),
            None,
        )
        if found is None:
            return View("The file is not mapped any more", columns)
        frames = sharing.snapshot.frames
        mine = np.flatnonzero((frames.file == found.number) & frames.resident())
        mine = mine[np.argsort(frames.index[mine], kind="stable")]
        dirty = _dirty_frames(sharing.snapshot)
        rows = [
            Row(
                str(int(frames.index[row])),
                (
                    *(int(frames.index[row]), int(frames.number[row])),
                    int(sharing.counted.degree[row]),
                    _KINDS[FrameKind(int(frames.kind[row]))],
                    "dirty" if dirty[row] else "clean",
                ),
            )
            for row in mine[:MAX_ROWS].tolist()
        ]
        return View(_cut(_file_title(found, sharing), len(mine)), columns, rows)

    return place


def _dirty_frames(snapshot: Snapshot) -> "np.typing.NDArray[np.bool_]":
    """Return which frames a dirty page has."""
    dirty = np.zeros(len(snapshot.frames) + 1, dtype=bool)
    pages = snapshot.pages
    dirty[pages.frame[(pages.flags & np.uint16(PageFlags.DIRTY)) != 0]] = True
    return dirty


def _file_title(use: FileUse, sharing: Sharing) -> str:
    users = count(use.processes, "process", "processes")
    name = file_name(use.file).rpartition("/")[2]
    if not sharing.snapshot.frames_visible:
        return f"{name}: {users}; its frames need root (CAP_SYS_ADMIN)"
    shared = sum(n for times, n in sharing.degrees[use.number].items() if times > 1)
    return f"{name}: {users}, {use.frames} frames, {shared} of them shared"


def _cut(title: str, total: int) -> str:
    return f"{title} (the first {MAX_ROWS})" if total > MAX_ROWS else title


def _state(flags: int, known: bool) -> str:
    """Return what a page is; whether it is dirty is known only with its frame."""
    if flags & PageFlags.SWAPPED:
        return "swapped out"
    names = [name for flag, name in _FLAG_NAMES if flags & flag]
    if known and not flags & PageFlags.DIRTY:
        names.insert(0, "clean")
    return " ".join(names) or "?"
