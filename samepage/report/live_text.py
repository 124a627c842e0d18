"""The report of a live system as plain text, 80 columns wide where it can be.

It is written without a table library: `samepage live` is a command that is run again and
again, from scripts too, and importing one would take as long as reading the system.
"""

from collections.abc import Iterable, Sequence

from samepage.host.procfs import Tally
from samepage.host.summary import FileSum, GroupSum, Lost, ProcessSum, Summary

NAME_WIDTH = 34
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_size(size: int) -> str:
    """Return a number of bytes for people: three digits and an IEC unit."""
    value = float(size)
    for unit in _UNITS[:-1]:
        if value < 999.5 or (unit == "B" and value < 1000):
            break
        value /= 1024
    else:
        unit = _UNITS[-1]
    if unit == "B":
        return f"{size} B"
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def format_pages(pages: int) -> str:
    """Return a number of pages as a size for people."""
    return format_size(pages << 12)


def live_text(summary: Summary, limit: int) -> Iterable[str]:
    """Yield the lines of the report, with at most `limit` rows in each table (0: all)."""
    capture = summary.capture
    yield from _head(summary)
    yield from _processes(summary.processes, limit)
    yield from _files(summary.files, limit, capture.frames_visible)
    yield from _groups("CONTAINER", summary.containers, limit, capture.frames_visible)
    users = summary.users
    if len(users) > 1:
        yield from _groups("USER", _named(users), limit, capture.frames_visible)
    yield from _lost(summary.lost, limit)


def _head(summary: Summary) -> Iterable[str]:
    total = summary.total
    yield f"{_count(len(summary.processes), 'process')}{describe_tally(summary.capture.tally)}"
    if summary.capture.frames_visible:
        yield (
            f"{format_pages(total.rss)} resident in {format_pages(total.frames)} of memory: "
            f"sharing saves {format_pages(total.saved)}"
        )
    else:
        pss = sum(row.pss for row in summary.processes)
        yield f"{format_pages(total.rss)} resident, {format_size(pss)} of it theirs (PSS)"
    notes = []
    if total.copied:
        notes.append(f"{format_pages(total.copied)} are private copies of file pages")
    if total.swapped:
        notes.append(f"{format_pages(total.swapped)} are swapped out")
    if notes:
        yield ", ".join(notes)


def describe_tally(tally: Tally) -> str:
    """Return what is missing from a capture, as the end of a line; empty if nothing is."""
    parts = [
        (tally.denied, "may not be read"),
        (tally.vanished, "exited meanwhile"),
        (tally.appeared, "started meanwhile"),
        (tally.changed, "changed meanwhile"),
        (tally.stuck, "could not be read in time"),
        (tally.malformed, "with unreadable maps"),
    ]
    told = [f"{count} {text}" for count, text in parts if count]
    return f" ({', '.join(told)})" if told else ""


def _processes(rows: Sequence[ProcessSum], limit: int) -> Iterable[str]:
    yield from _table(
        f"{'PROCESS':<{NAME_WIDTH}} {'PID':>8} {'PSS':>9} {'USS':>9} {'RSS':>9} {'DIRTY':>9}",
        [
            f"{clip(_process_name(row)):<{NAME_WIDTH}} {row.process.pid:>8} "
            f"{format_size(row.pss):>9} {format_pages(row.uss):>9} {format_pages(row.rss):>9} "
            f"{format_pages(row.dirty):>9}"
            for row in shown(rows, limit)
        ],
        len(rows),
    )


def _files(rows: Sequence[FileSum], limit: int, frames_visible: bool) -> Iterable[str]:
    rows = [row for row in rows if row.mapped or row.copied]
    if not frames_visible:
        rows.sort(key=lambda row: -row.pss)
    width = NAME_WIDTH
    yield from _table(
        f"{'FILE':<{width}} {'USED BY':>8} {'MAPPED':>9} {'FRAMES':>9} {'SAVED':>9} {'COPIED':>9}",
        [
            f"{clip(_file_name(row)):<{width}} {row.processes:>8} {format_pages(row.mapped):>9} "
            f"{format_pages(row.frames) if frames_visible else '?':>9} "
            f"{format_pages(row.mapped - row.frames) if frames_visible else '?':>9} "
            f"{format_pages(row.copied):>9}"
            for row in shown(rows, limit)
        ],
        len(rows),
    )


def _groups(
    title: str, rows: Sequence[GroupSum], limit: int, frames_visible: bool
) -> Iterable[str]:
    if not rows:
        return
    width = NAME_WIDTH
    yield from _table(
        f"{title:<{width}} {'PROCS':>8} {'PSS':>9} {'OWN':>9} {'FRAMES':>9} {'RSS':>9}",
        [
            f"{clip(row.name):<{width}} {row.processes:>8} {format_size(row.pss):>9} "
            f"{format_pages(row.own) if frames_visible else '?':>9} "
            f"{format_pages(row.frames) if frames_visible else '?':>9} "
            f"{format_pages(row.rss):>9}"
            for row in shown(rows, limit)
        ],
        len(rows),
    )


def _lost(rows: Sequence[Lost], limit: int) -> Iterable[str]:
    if not rows:
        return
    saved = sum(row.saved for row in rows)
    yield ""
    yield f"LOST SHARING: the same content as different inodes, {format_pages(saved)} in all"
    for lost in shown(rows, limit):
        name = _file_name(lost.files[0])
        yield f"  {name}: {len(lost.files)} inodes, one would save {format_pages(lost.saved)}"
        for row in lost.files:
            yield f"    {format_pages(row.frames):>9}  {printable(row.file.path)}{_state(row)}"
    yield from _rest(len(rows), limit)


def _state(row: FileSum) -> str:
    users = _count(row.processes, "process")
    return f"  ({users}{', deleted' if row.file.deleted else ''})"


def _table(head: str, lines: list[str], total: int) -> Iterable[str]:
    yield ""
    yield head
    yield from lines
    yield from _rest(total, len(lines))


def _rest(total: int, listed: int) -> Iterable[str]:
    if 0 < listed < total:
        yield f"  and {total - listed} more (--limit 0 shows all)"


def shown(rows: Sequence[object], limit: int) -> Sequence[object]:
    """Return the rows that a table with this limit shows."""
    return rows[:limit] if limit else rows


def clip(text: str, width: int = NAME_WIDTH) -> str:
    """Return the text cut to `width`; a path keeps its end, which tells more."""
    text = printable(text)
    if len(text) <= width:
        return text
    if text.startswith("/"):
        return "…" + text[-(width - 1) :]
    return text[: width - 1] + "…"


def printable(text: str) -> str:
    """Return a name without what could upset a terminal: control characters and surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _process_name(row: ProcessSum) -> str:
    process = row.process
    if process.argv and process.argv[0]:
        words = [process.argv[0].rpartition("/")[2], *process.argv[1:]]
        return " ".join(words)
    return process.comm or process.exe


def _file_name(row: FileSum) -> str:
    name = row.file.path
    if row.file.deleted:
        return f"{name} (deleted)"
    return name


def _named(users: Sequence[GroupSum]) -> list[GroupSum]:
    import pwd
    from dataclasses import replace

    named = []
    for row in users:
        try:
            name = pwd.getpwuid(int(row.name)).pw_name
        except KeyError:
            name = row.name
        named.append(replace(row, name=name))
    return named


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
