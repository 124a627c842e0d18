"""The report for people: first the answer in a few lines, then the tables.

It fits 80 columns, and tells more where there are more; in a pipe there is no colour.
Processes, files and groups are sorted by what they cost.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from samepage.analysis.counting import Scope
from samepage.analysis.groups import Groups, GroupUse, by_container, by_program, by_user
from samepage.analysis.lost_sharing import LostSharing, lost_sharing
from samepage.analysis.sharing import FileUse, ProcessUse, Sharing, sum_fractions
from samepage.report.sizes import count, percent, printable, size, size_if
from samepage.report.tables import Column, Cut, console_for, fitted

WIDE = 110
"""From this width on, all that is told of a process is in one table."""

SHOWN_MAPPERS = 4
"""How many processes are named for a file; the rest is counted."""


def write(sharing: Sharing, stream: TextIO) -> None:
    """Write the whole report, with all rows, as plain text."""
    print_sharing(sharing, console_for(stream, None if stream.isatty() else 100), top=None)


def print_sharing(sharing: Sharing, console: Console, *, top: int | None = 20) -> None:
    """Print the report; `top` bounds the rows of each table, None prints all."""
    lost = lost_sharing(sharing)
    for line in answer(sharing, lost):
        console.print(Text(line, style="bold" if line.startswith("Sharing saves") else ""))
    for line in notes(sharing):
        console.print(Text(line, style="yellow"))
    _print_processes(sharing, console, top)
    for title, groups in groupings(sharing):
        _print_groups(title, groups, console, top)
    _print_files(sharing, console, top)
    _print_lost(lost, console, top)


def answer(sharing: Sharing, lost: Sequence[LostSharing] = ()) -> list[str]:
    """Return the answer in a few lines: what the group costs, what sharing saves."""
    totals = sharing.totals
    if not totals.processes:
        return ["No processes."]
    lines = [
        f"{count(totals.processes, 'process', 'processes')} with {size(totals.virtual_pages)} of "
        f"virtual memory, {size(totals.resident_pages)} of it resident "
        f"({count(totals.resident_pages, 'page')})."
    ]
    if totals.frames:
        known = totals.resident_pages - totals.unknown_pages
        kinds = (
            ("page cache of files", totals.file_frames),
            ("anonymous", totals.anonymous_frames),
            ("shared memory", totals.shmem_frames),
            ("other (such as the vDSO)", totals.other_frames),
        )
        parts = ", ".join(f"{size(frames)} {name}" for name, frames in kinds if frames)
        lines.append(
            f"These are {count(totals.frames, 'frame')} of physical memory, {size(totals.frames)}"
            + (f": {parts}." if parts else ".")
        )
        lines.append(
            f"Sharing saves {size(totals.saved_pages)} "
            f"({count(totals.saved_pages, 'frame')}, {percent(totals.saved_pages, known)})."
        )
    if sharing.scope is Scope.SYSTEM and totals.frames:
        pss = sum_fractions(process.pss for process in sharing.processes)
        lines.append(f"Their fair share (PSS), counting all processes that run: {size(pss)}.")
    if lost:
        saved = sum(each.saved_frames for each in lost)
        lines.append(f"Lost sharing: {size(saved)} more if equal files were one inode (see below).")
    return lines


def notes(sharing: Sharing) -> list[str]:
    """Return what a reader must know to trust the numbers; usually nothing."""
    found = []
    unknown = sharing.totals.unknown_pages
    if unknown:
        found.append(
            f"The kernel did not tell the frames of {count(unknown, 'page')}: run as root (or "
            "with CAP_SYS_ADMIN) to see what is shared."
        )
    calls = sharing.snapshot.unimplemented_syscalls()
    if calls:
        named = ", ".join(f"{name} ({times})" for name, times in sorted(calls.items()))
        found.append(f"System calls that the model does not have (ENOSYS): {named}.")
    return found


def groupings(sharing: Sharing) -> Iterator[tuple[str, list[GroupUse]]]:
    """Yield a title and the groups of each way to group processes that tells something."""
    kinds = (("Programs", by_program), ("Containers", by_container), ("Users", by_user))
    grouper = Groups(sharing)
    for title, key in kinds:
        groups = grouper.by(key)
        if 1 < len(groups) < len(sharing.processes):
            yield title, groups


def command_line(process: ProcessUse) -> str:
    """Return how a process was called, or its name if it has no arguments (a kernel thread)."""
    return printable(" ".join(process.argv)) or f"[{printable(process.comm)}]"


def file_name(file: FileUse) -> str:
    """Return a file's path as it is shown."""
    return printable(file.path) + (" (deleted)" if file.deleted else "")


def mapped_by(file: FileUse, shown: int = SHOWN_MAPPERS) -> str:
    """Name the processes that have most of a file: "pid: pages+copies".

    All of them if there are no more than `shown`, else half as many and the number of the rest.
    """
    mappers = sorted(file.mappers, key=lambda m: (-m.pages - m.copied, m.pid))
    if len(mappers) > shown:
        shown //= 2
    named = [
        f"{mapper.pid}: {mapper.pages}" + (f"+{mapper.copied}" if mapper.copied else "")
        for mapper in mappers[:shown]
    ]
    if len(mappers) > shown:
        named.append(f"and {len(mappers) - shown} more")
    return ", ".join(named)


def _print_processes(sharing: Sharing, console: Console, top: int | None) -> None:
    processes = sorted(sharing.processes, key=lambda p: (-p.pss, -p.usage.rss, p.pid))
    shown = processes[:top]
    who = [[str(process.pid), command_line(process)] for process in shown]
    names = [Column("PID"), Column("Program", cut=Cut.COMMAND)]
    cost = [(_COST, _cost), (_DIVISION, _division)]
    if console.width >= WIDE:
        cost = [([*_COST, *_DIVISION], lambda process: [*_cost(process), *_division(process)])]
    for number, (columns, cells) in enumerate(cost):
        rows = [[*head, *cells(process)] for head, process in zip(who, shown, strict=True)]
        title = "Shared and private pages of the processes" if number else "Processes"
        _print_table(title, [*names, *columns], rows, console)
    rest = processes[len(shown) :]
    if rest:
        pss = sum_fractions(process.pss for process in rest)
        console.print(f"and {len(rest)} more with a PSS of {size(pss)}")


_COST = [
    Column("RSS", rank=1),
    Column("PSS"),
    Column("USS", rank=2),
    Column("Faults\nminor", rank=4),
    Column("\nmajor", rank=5),
    Column("Exit", rank=3),
]
_DIVISION = [
    Column("Shared\nclean", rank=7),
    Column("\ndirty", rank=7),
    Column("Private\nclean", rank=6),
    Column("\ndirty", rank=6),
    Column("Swap", rank=8),
]


def _cost(process: ProcessUse) -> list[str]:
    usage = process.usage
    faults = [f"{process.minor_faults:,}", f"{process.major_faults:,}"]
    code = "" if process.exit_code is None else str(process.exit_code)
    return [size(usage.rss), size(process.pss), size(usage.uss), *faults, code]


def _division(process: ProcessUse) -> list[str]:
    usage = process.usage
    shared = (usage.shared_clean, usage.shared_dirty)
    return [size(n) for n in (*shared, usage.private_clean, usage.private_dirty, usage.swap)]


def files_in_memory(sharing: Sharing) -> list[FileUse]:
    """Return the files of which a process has pages or copies, the largest first."""
    files = [file for file in sharing.files if file.mapped_pages or file.copied_pages]
    return sorted(files, key=lambda f: (-f.frames - f.copied_pages, f.path, f.file))


def _print_files(sharing: Sharing, console: Console, top: int | None) -> None:
    files = files_in_memory(sharing)
    columns = [
        Column("File", cut=Cut.PATH),
        Column("Mapped", rank=2),
        Column("Frames"),
        Column("Saved"),
        Column("Copied", rank=1),
        Column("By", rank=3),
        Column("Inode", rank=4),
    ]
    shown = files[:top]
    rows = [
        [
            f"{file_name(file)}\n  {mapped_by(file)}",
            size(file.mapped_pages),
            size_if(file.frames_known, file.frames),
            size_if(file.frames_known, file.saved_pages),
            size(file.copied_pages),
            str(len(file.mappers)),
            str(file.inode),
        ]
        for file in shown
    ]
    title = "Files (below each, by pid: pages mapped + copied on write)"
    _print_table(title, columns, rows, console)
    rest = files[len(shown) :]
    if rest:
        console.print(f"and {len(rest)} more with {size(sum(f.frames for f in rest))} of frames")


def _print_groups(title: str, groups: list[GroupUse], console: Console, top: int | None) -> None:
    columns = [
        Column(title[:-1], cut=Cut.PATH),
        Column("Processes", rank=3),
        Column("RSS", rank=2),
        Column("PSS"),
        Column("Frames", rank=1),
        Column("Own frames"),
    ]
    rows = [
        [
            printable(group.name) or "(none)",
            str(len(group.pids)),
            size(group.rss),
            size(group.pss),
            size_if(group.frames_known, group.frames),
            size_if(group.frames_known, group.own_frames),
        ]
        for group in groups[:top]
    ]
    _print_table(title, columns, rows, console)


def _print_lost(lost: list[LostSharing], console: Console, top: int | None) -> None:
    if not lost:
        return
    columns = [
        Column("File", cut=Cut.FOLD),
        Column("Inodes", rank=2),
        Column("Frames", rank=1),
        Column("Would save"),
    ]
    rows = [
        [
            "\n  ".join([printable(each.name), *_reasons(each)]),
            str(len(each.twins)),
            size(each.frames),
            size(each.saved_frames),
        ]
        for each in lost[:top]
    ]
    _print_table("Lost sharing: equal content under several inodes", columns, rows, console)


def _reasons(lost: LostSharing) -> Iterable[str]:
    for twin in lost.twins:
        where = ", ".join(printable(name) for name in twin.containers if name)
        path = printable(twin.file.path) + (f" in {where}" if where else "")
        yield f"{path}: {twin.cause.value}" if twin.cause else path


def _print_table(
    title: str, columns: list[Column], rows: list[list[str]], console: Console
) -> None:
    console.print()
    console.print(fitted(title, columns, rows, console.width))
