"""The comparison of two snapshots, as tables for people and as JSON for programs.

The JSON document has `match` ("pid" or "program"), `equal`, `seconds` between the two (null if not
known), `before` and `after` (the totals), `copied_since` (frames that copy-on-write made since,
`anonymous` and `file`; null where frame numbers do not mean the same), `processes[]` (`state` is
"new", "lost" or "kept", with the numbers of both sides, null where there are none), `mappings[]`
and `files[]` (likewise). All amounts are in pages.
"""

import json
from fractions import Fraction
from typing import Any, TextIO

from samepage.analysis.diff import NO_FILE, Diff, FileChange, FileTotals, ProcessChange
from samepage.analysis.mapping_changes import MappingChange
from samepage.analysis.page_changes import EXPLAINED
from samepage.analysis.sharing import Kinds, ProcessUse
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
    _print_processes(result, changes, terminal, top)
    mappings = sorted(
        result.mappings, key=lambda c: (-abs(c.grown), -c.copied, c.pid, c.name, c.start)
    )
    _print_mappings(mappings, terminal, top)
    files = [change for change in result.files if change.changed]
    files.sort(key=lambda c: (-abs(c.after.frames - c.before.frames), -c.gained - c.lost, c.path))
    _print_files(files, terminal, top)
    if changes:
        terminal.print()
        for word, meaning in EXPLAINED:
            terminal.print(f"  {word + ':':<8} {meaning}.")


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
        f"({size(result.before.frames)} before, {size(result.after.frames)} after)"
        f"{_since(result, frames)}.",
        *_copied(result),
        f"Processes (matched by {result.match.value}): {new} new, {lost} lost, {changed} changed. "
        f"{count(files, 'file')} changed.",
    ]


def _since(result: Diff, frames: int) -> str:
    rate = result.per_hour(frames)
    if result.seconds is None or rate is None:
        return ""
    return f" in {duration(result.seconds)}: {growth(rate) or '0'} per hour"


def _copied(result: Diff) -> list[str]:
    if result.copies is None:
        return []
    anonymous, file = result.copies
    writers = sum(bool(change.pages and change.pages.copied) for change in result.processes)
    if not writers:
        return ["No page left sharing: nothing was copied on write."]
    kinds = ((anonymous, "anonymous memory shared since a fork"), (file, "pages of files"))
    parts = ", ".join(f"{size(frames)} {name}" for frames, name in kinds if frames)
    return [
        f"Copied on write: {size(anonymous + file)} ({parts}) by "
        f"{count(writers, 'process', 'processes')}."
    ]


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> duration(0.25), duration(75), duration(7320), duration(180000)
    ('0.25 s', '1 min 15 s', '2 h 2 min', '2 d 2 h')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    left = round(seconds)
    for unit, length in units:
        number, left = divmod(left, length)
        if number or parts:
            parts.append(f"{number} {unit}" if number else "")
    return " ".join(part for part in parts[:2] if part)


def document(result: Diff) -> dict[str, Any]:
    """Return the comparison as plain dictionaries and lists."""
    before, after = (
        {**totals._asdict(), "pss": float(pss)}
        for totals, pss in zip((result.before, result.after), result.pss, strict=True)
    )
    return {
        "match": result.match.value,
        "equal": result.equal,
        "seconds": result.seconds,
        "before": before,
        "after": after,
        "copied_since": result.copies._asdict() if result.copies else None,
        "processes": [
            {
                "state": state(change.before, change.after),
                "changed": change.changed,
                "before": _process(change.before, change.kinds[0]),
                "after": _process(change.after, change.kinds[1]),
                "pages": change.pages._asdict() if change.pages else None,
            }
            for change in result.processes
        ],
        "mappings": [change._asdict() for change in result.mappings],
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


def state(before: object, after: object) -> str:
    """Return "new", "lost" or "kept"."""
    return "new" if before is None else "lost" if after is None else "kept"


def file_state(change: FileChange) -> str:
    """Return "new", "lost" or "kept"."""
    return state(*(None if use is NO_FILE else use for use in (change.before, change.after)))


def _process(use: ProcessUse | None, kinds: Kinds) -> dict[str, Any] | None:
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
        **kinds._asdict(),
        "swap": use.usage.swap,
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
    rows = [["Processes", str(before.processes), str(after.processes), change, ""]]
    amounts: list[tuple[str, int | Fraction, int | Fraction]] = [
        ("Virtual memory", before.virtual_pages, after.virtual_pages),
        ("Resident (sum of RSS)", before.resident_pages, after.resident_pages),
        ("Sum of PSS", *result.pss),
        ("Frames", before.frames, after.frames),
        ("  anonymous", before.anonymous_frames, after.anonymous_frames),
        ("  page cache of files", before.file_frames, after.file_frames),
        ("  shared memory", before.shmem_frames, after.shmem_frames),
        ("  other", before.other_frames, after.other_frames),
        ("Transparent huge pages", before.anon_huge_pages, after.anon_huge_pages),
        ("hugetlb pages", before.hugetlb_frames, after.hugetlb_frames),
        ("Swapped out", before.swapped_pages, after.swapped_pages),
        ("Saved by sharing", before.saved_pages, after.saved_pages),
        ("Copies of file pages", before.copied_frames, after.copied_frames),
    ]
    # What there is none of, neither before nor after, is left out.
    rows += [
        [name, size(old), size(new), growth(new - old), _rate(result, new - old)]
        for name, old, new in amounts
        if old or new or not name.startswith((" ", "T", "h", "Sw"))
    ]
    if result.copies is not None:
        since = sum(result.copies)
        rows.append(["Copied on write since", "", "", growth(since), _rate(result, since)])
    columns = [
        Column("Of all", cut=Cut.END),
        *(Column("Before"), Column("After"), Column("Change"), Column("Per hour", rank=1)),
    ]
    terminal.print_table(columns, rows, "Sum")


def _rate(result: Diff, pages: float | Fraction) -> str:
    rate = result.per_hour(float(pages))
    return "" if rate is None else growth(rate)


def _print_processes(
    result: Diff, changes: list[ProcessChange], terminal: Terminal, top: int | None
) -> None:
    if not changes:
        return
    columns = [
        Column("PID"),
        Column("Program", cut=Cut.COMMAND),
        Column("State", rank=1),
        Column("RSS"),
        Column("PSS", rank=2),
        Column("Per hour", rank=9),
        *(Column(title, rank=8) for title in ("Anon", "File", "Shmem", "THP", "hugetlb")),
        Column("Copied", rank=3),
        Column("Pages\ngained", rank=5),
        Column("\nlost", rank=5),
        Column("\nmoved", rank=6),
    ]
    rows = []
    for change in changes[:top]:
        use = change.after or change.before
        assert use is not None
        old, new = change.kinds
        kinds = (
            new.anonymous - old.anonymous,
            new.file - old.file,
            new.shmem - old.shmem,
            new.huge - old.huge,
            new.hugetlb - old.hugetlb,
        )
        pages = change.pages
        moves = (pages.gained, pages.lost, pages.moved) if pages else ()
        rows.append(
            [
                str(use.process.pid),
                command_line(use.process),
                state(change.before, change.after).replace("kept", ""),
                growth(change.rss),
                growth(change.pss),
                _rate(result, change.pss),
                *map(growth, kinds),
                size(pages.copied) if pages and pages.copied else "",
                *(f"{number:,}" for number in moves),
                *[""] * (3 - len(moves)),
            ]
        )
    _print_rows("Processes", columns, rows, len(changes), terminal)


def _print_mappings(changes: list[MappingChange], terminal: Terminal, top: int | None) -> None:
    if not changes:
        return
    columns = [
        Column("PID"),
        Column("Mapping", cut=Cut.PATH),
        Column("Before", rank=2),
        Column("After", rank=2),
        Column("Change"),
        Column("Copied", rank=1),
    ]
    rows = [
        [
            str(change.pid),
            mapping_name(change),
            size(change.before),
            size(change.after),
            growth(change.grown),
            size(change.copied) if change.copied else "",
        ]
        for change in changes[:top]
    ]
    _print_rows("Mappings", columns, rows, len(changes), terminal)


def mapping_name(change: MappingChange) -> str:
    """Return what a mapping is called; memory without a name by its address."""
    where = f" at {change.start:x}" if change.start else ""
    return (printable(change.name) or "anonymous") + where


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
