"""The report of a live system as plain text, 80 columns wide where it can be.

It is written without a table library: `samepage live` is a command that is run again and
again, from scripts too, and importing one would take as long as reading the system.
"""

import pwd
import textwrap
from collections.abc import Iterable, Sequence
from typing import TypeVar

from samepage.analysis.twins import Cause, Copy, causes
from samepage.live.procfs import Tally
from samepage.live.summary import PAGE_SIZE, FileSum, GroupSum, Lost, ProcessSum, Summary
from samepage.report.sizes import count, printable, size

NAME_WIDTH = 31

Row = TypeVar("Row")


def live_text(summary: Summary, top: int) -> Iterable[str]:
    """Yield the lines of the report, with at most `top` rows in each table (0: all)."""
    capture = summary.capture
    yield from _head(summary)
    yield from _processes(summary.processes, top)
    yield from _files(summary.files, top, capture.frames_visible)
    yield from _groups("CONTAINER", summary.containers, top, capture.frames_visible)
    if len({row.process.uid for row in summary.processes}) > 1:
        yield from _groups("USER", _named(summary.users), top, capture.frames_visible)
    yield from _lost(summary, top)


def _head(summary: Summary) -> Iterable[str]:
    total = summary.total
    yield count(len(summary.processes), "process", "processes")
    if summary.capture.frames_visible:
        yield (
            f"{size(total.rss)} resident in {size(total.frames)} of memory: "
            f"sharing saves {size(total.saved)}"
        )
    else:
        pss = sum(row.pss for row in summary.processes)
        yield f"{size(total.rss)} resident, {size(pss / PAGE_SIZE)} of it theirs (PSS)"
    notes = []
    if total.copied:
        notes.append(f"{size(total.copied)} are private copies of file pages")
    if total.swapped:
        notes.append(f"{size(total.swapped)} are swapped out")
    if notes:
        yield ", ".join(notes)
    unknown = summary.capture.ksm_unknown
    if unknown:
        yield from textwrap.wrap(
            f"merged by KSM: ? of {size(unknown)} (this kernel marks all anonymous pages as "
            "merged, and smaps does not show which ones are)",
            80,
        )
    missing = describe_tally(summary.capture.tally)
    if missing:
        yield from textwrap.wrap(f"other processes: {missing}", 80)


def describe_tally(tally: Tally) -> str:
    """Return what is missing from a capture; empty if nothing is."""
    parts = [
        (tally.denied, "may not be read"),
        (tally.vanished, "exited meanwhile"),
        (tally.appeared, "started meanwhile"),
        (tally.changed, "changed meanwhile"),
        (tally.stuck, "could not be read in time"),
        (tally.malformed, "with unreadable maps"),
    ]
    told = [f"{number} {text}" for number, text in parts if number]
    return ", ".join(told)


def _processes(rows: Sequence[ProcessSum], top: int) -> Iterable[str]:
    yield from _table(
        f"{'PROCESS':<{NAME_WIDTH}} {'PID':>8} {'PSS':>9} {'USS':>9} {'RSS':>9} {'ANON':>9}",
        [
            f"{clip(process_name(row)):<{NAME_WIDTH}} {row.process.pid:>8} "
            f"{size(row.pss / PAGE_SIZE):>9} {size(row.uss):>9} {size(row.rss):>9} "
            f"{size(row.anonymous):>9}"
            for row in shown(rows, top)
        ],
        len(rows),
    )


def _files(rows: Sequence[FileSum], top: int, frames_visible: bool) -> Iterable[str]:
    rows = [row for row in rows if row.mapped or row.copied]
    if not frames_visible:
        rows.sort(key=lambda row: -row.pss)
    width = NAME_WIDTH
    yield from _table(
        f"{'FILE':<{width}} {'USED BY':>8} {'MAPPED':>9} {'FRAMES':>9} {'SAVED':>9} {'COPIED':>9}",
        [
            f"{clip(file_name(row)):<{width}} {row.processes:>8} {size(row.mapped):>9} "
            f"{size(row.frames) if frames_visible else '?':>9} "
            f"{size(row.mapped - row.frames) if frames_visible else '?':>9} "
            f"{size(row.copied):>9}"
            for row in shown(rows, top)
        ],
        len(rows),
    )


def _groups(title: str, rows: Sequence[GroupSum], top: int, frames_visible: bool) -> Iterable[str]:
    if not rows:
        return
    width = NAME_WIDTH
    yield from _table(
        f"{title:<{width}} {'PROCS':>8} {'PSS':>9} {'OWN':>9} {'FRAMES':>9} {'RSS':>9}",
        [
            f"{clip(row.name):<{width}} {row.processes:>8} {size(row.pss / PAGE_SIZE):>9} "
            f"{size(row.own) if frames_visible else '?':>9} "
            f"{size(row.frames) if frames_visible else '?':>9} "
            f"{size(row.rss):>9}"
            for row in shown(rows, top)
        ],
        len(rows),
    )


def _lost(summary: Summary, top: int) -> Iterable[str]:
    rows = summary.lost
    if not rows:
        return
    saved = sum(row.saved for row in rows)
    yield ""
    yield f"LOST SHARING: the same content as different inodes, {size(saved)} in all"
    for lost in shown(rows, top):
        why = _causes(summary, lost)
        name = clip(why[0][0].file.path.rpartition("/")[2])
        yield f"  {name}: {len(lost.files)} inodes, one would save {size(lost.saved)}"
        for row, cause in why:
            yield f"    {size(row.frames):>9}  {printable(row.file.path)}  ({_users(row)})"
            if cause is not None:
                yield f"{'':15}{cause.value}"
    yield from _rest(len(rows), top)


def _causes(summary: Summary, lost: Lost) -> list[tuple[FileSum, Cause | None]]:
    """Return the inodes and why each is one of its own, the one to keep first."""
    copies = [
        Copy(
            *(row.file.dev, row.file.path, row.file.deleted),
            *(tuple(summary.containers_of(row.number)), row.frames),
        )
        for row in lost.files
    ]
    pairs = zip(lost.files, causes(copies), strict=True)
    return sorted(pairs, key=lambda pair: pair[1] is not None)


def _users(row: FileSum) -> str:
    return count(row.processes, "process", "processes")


def _table(head: str, lines: list[str], total: int) -> Iterable[str]:
    yield ""
    yield head
    yield from lines
    yield from _rest(total, len(lines))


def _rest(total: int, listed: int) -> Iterable[str]:
    if 0 < listed < total:
        yield f"  and {total - listed} more (--top 0 shows all)"


def shown(rows: Sequence[Row], top: int) -> Sequence[Row]:
    """Return the rows that a table with this top shows."""
    return rows[:top] if top else rows


def clip(text: str, width: int = NAME_WIDTH) -> str:
    """Return the text cut to `width`.

    A path keeps its end, which tells more; a file name too long for that its beginning and end.
    """
    text = printable(text)
    if len(text) <= width:
        return text
    if not text.startswith("/"):
        return text[: width - 1] + "…"
    name = text.rpartition("/")[2]
    if len(name) < width:
        return "…" + text[-(width - 1) :]
    half = width // 2
    return name[:half] + "…" + name[-(width - half - 1) :]


def process_name(row: ProcessSum) -> str:
    """Return what a process is called by: its program and arguments."""
    process = row.process
    if process.argv and process.argv[0]:
        words = [process.argv[0].rpartition("/")[2], *process.argv[1:]]
        return " ".join(words)
    return process.comm or process.exe


def file_name(row: FileSum) -> str:
    """Return the path of a file, marked if it is deleted."""
    name = row.file.path
    if row.file.deleted:
        return f"{name} (deleted)"
    return name


def _named(users: Sequence[GroupSum]) -> list[GroupSum]:
    named = []
    for row in users:
        try:
            name = pwd.getpwuid(int(row.name)).pw_name
        except KeyError:
            name = row.name
        named.append(row._replace(name=name))
    return named
