"""The comparison of two snapshots, as tables for people and as JSON for programs.

The JSON document has `match` ("pid" or "program"), `equal`, `before` and `after` (the
totals), `processes[]` (`state` is "new", "lost" or "kept", with the numbers of both sides,
null where there are none) and `files[]` (likewise). All amounts are in pages.
"""

import json
from fractions import Fraction
from typing import Any, TextIO

from samepage.analysis.diff import NO_FILE, Diff, FileChange, FileTotals, ProcessChange
from samepage.analysis.sharing import ProcessUse
from samepage.report.sizes import count, growth, printable, size
from samepage.report.tables import FILE_WIDTH, Column, Cut, Terminal
from samepage.report.text import command_line


def write_text(result: Diff, stream: TextIO) -> None:
    """Write the comparison as plain text, with all rows."""
    print_diff(result, Terminal(stream, None if stream.isatty() else FILE_WIDTH), top=None)


def write_json(result: Diff, stream: TextIO) -> None:
    """Write the comparison as one JSON document."""
    json.dump(document(result), stream, indent=1, ensure_ascii=False)
    stream.write("\n")


def print_diff(result: Diff, terminal: Terminal, *, top: int | None = 20) -> None:
    """Print the answer, the sums, and what changed; `top` bounds the rows of each table."""
    for line in answer(result):
        terminal.print(line)
    _print_totals(result, terminal)
    changes = [change for change in result.processes if change.changed]
    changes.sort(key=lambda change: (-abs(change.pss), -abs(change.rss), _pid(change)))
    _print_processes(changes, terminal, top)
    files = [change for change in result.files if change.changed]
    files.sort(key=lambda c: (-abs(c.after.frames - c.before.frames), -c.gained - c.lost, c.path))
    _print_files(files, terminal, top)


def answer(result: Diff) -> list[str]:
    """Return what changed in a few lines."""
    if result.equal:
        return ["No difference: the same processes have the same pages."]
    new = sum(change.before is None for change in result.processes)
    lost = sum(change.after is None for change in result.processes)
    changed = sum(change.changed for change in result.processes) - new - lost
    files = sum(change.changed for change in result.files)
    frames = result.after.frames - result.before.frames
    return [
        f"{growth(frames) or 'No more'} of physical memory "
        f"({size(result.before.frames)} before, {size(result.after.frames)} after).",
        f"Processes (matched by {result.match.value}): {new} new, {lost} lost, {changed} changed. "
        f"{count(files, 'file')} changed.",
    ]


def document(result: Diff) -> dict[str, Any]:
    """Return the comparison as plain dictionaries and lists."""
    before, after = (
        {**totals._asdict(), "pss": float(pss)}
        for totals, pss in zip((result.before, result.after), result.pss, strict=True)
    )
    return {
        "match": result.match.value,
        "equal": result.equal,
        "before": before,
        "after": after,
        "processes": [
            {
                "state": state(change.before, change.after),
                "changed": change.changed,
                "before": _process(change.before),
                "after": _process(change.after),
                "pages": change.pages._asdict() if change.pages else None,
            }
            for change in result.processes
        ],
        "files": [
            {
                "state": file_state(change),
                "changed": change.changed,
                "content_changed": change.content_changed,
                "path": change.path,
                "gained": change.gained,
                "lost": change.lost,
                "before": _file(change.before),
                "after": _file(change.after),
            }
            for change in result.files
        ],
    }


def state(before: Any, after: Any) -> str:
    """Return "new", "lost" or "kept"."""
    return "new" if before is None else "lost" if after is None else "kept"


def file_state(change: FileChange) -> str:
    """Return "new", "lost" or "kept"."""
    return state(*(None if use is NO_FILE else use for use in (change.before, change.after)))


def _process(use: ProcessUse | None) -> dict[str, Any] | None:
    if use is None:
        return None
    process = use.process
    return {
        "pid": process.pid,
        "exe": process.exe,
        "argv": list(process.argv),
        "rss": use.usage.rss,
        "pss": float(use.share),
        "uss": use.usage.uss,
        "minor_faults": process.minor_faults,
        "major_faults": process.major_faults,
    }


def _file(use: FileTotals) -> dict[str, Any] | None:
    return None if use is NO_FILE else use._asdict()


def _pid(change: ProcessChange) -> int:
    use = change.after or change.before
    return use.process.pid if use else 0


def _print_totals(result: Diff, terminal: Terminal) -> None:
    before, after = result.before, result.after
    more = after.processes - before.processes
    change = f"{more:+d}" if more else ""
    rows = [["Processes", str(before.processes), str(after.processes), change]]
    amounts: list[tuple[str, int | Fraction, int | Fraction]] = [
        ("Virtual memory", before.virtual_pages, after.virtual_pages),
        ("Resident (sum of RSS)", before.resident_pages, after.resident_pages),
        ("Sum of PSS", *result.pss),
        ("Frames", before.frames, after.frames),
        ("Saved by sharing", before.saved_pages, after.saved_pages),
        ("Copied on write", before.copied_pages, after.copied_pages),
    ]
    rows += [[name, size(old), size(new), growth(new - old)] for name, old, new in amounts]
    columns = [Column("Of all", cut=Cut.END), Column("Before"), Column("After"), Column("Change")]
    terminal.print_table(columns, rows, "Sum")


def _print_processes(changes: list[ProcessChange], terminal: Terminal, top: int | None) -> None:
    if not changes:
        return
    columns = [
        Column("PID"),
        Column("Program", cut=Cut.COMMAND),
        Column("State", rank=1),
        Column("RSS"),
        Column("PSS", rank=2),
        Column("Pages\ngained", rank=3),
        Column("\nlost", rank=3),
        Column("\nmoved", rank=4),
    ]
    rows = []
    for change in changes[:top]:
        use = change.after or change.before
        assert use is not None
        pages = change.pages
        moves = (pages.gained, pages.lost, pages.moved) if pages else ()
        rows.append(
            [
                str(use.process.pid),
                command_line(use.process),
                state(change.before, change.after).replace("kept", ""),
                growth(change.rss),
                growth(change.pss),
                *(f"{number:,}" for number in moves),
                *[""] * (3 - len(moves)),
            ]
        )
    _print_rows("Processes", columns, rows, len(changes), terminal)


def _print_files(changes: list[FileChange], terminal: Terminal, top: int | None) -> None:
    if not changes:
        return
    columns = [
        Column("File", cut=Cut.PATH),
        Column("State", rank=1),
        Column("Frames"),
        Column("Mapped", rank=2),
        Column("Copied", rank=3),
        Column("Pages\ngained", rank=4),
        Column("\nlost", rank=4),
    ]
    rows = [
        [
            printable(change.path),
            "content" if change.content_changed else file_state(change).replace("kept", ""),
            growth(change.after.frames - change.before.frames),
            growth(change.after.mapped_pages - change.before.mapped_pages),
            growth(change.after.copied_pages - change.before.copied_pages),
            f"{change.gained:,}",
            f"{change.lost:,}",
        ]
        for change in changes[:top]
    ]
    _print_rows("Files", columns, rows, len(changes), terminal)


def _print_rows(
    title: str, columns: list[Column], rows: list[list[str]], total: int, terminal: Terminal
) -> None:
    terminal.print_table(columns, rows, f"{title} that changed")
    if total > len(rows):
        terminal.print(f"and {total - len(rows)} more")
