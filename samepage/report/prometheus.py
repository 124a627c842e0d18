"""The report as metrics, for node_exporter's textfile collector.

The text format is Prometheus' exposition format 0.0.4. Names follow its conventions: the
application first, base units (bytes), no unit but these; a gauge is what goes up and down.

Cardinality is bounded, because each label value is a time series that the server keeps: there is
no process id among the labels; programs, files, containers and users beyond the largest `LIMIT`
of each are added up under the value `other`.
"""

from collections.abc import Iterable, Iterator, Sequence

from samepage.live.summary import PAGE_SIZE, GroupSum, Summary
from samepage.report.sizes import printable

LIMIT = 50
OTHER = "other"

Samples = Iterable[tuple[str, int]]


def prometheus_text(summary: Summary, limit: int = LIMIT) -> str:
    """Return the exposition of a summary, with at most `limit` + 1 values for each label."""
    return "".join(_lines(summary, limit))


def _lines(summary: Summary, limit: int) -> Iterator[str]:
    capture, total = summary.capture, summary.total
    visible = capture.frames_visible
    yield from _metric("processes", "Processes that were read.", len(capture.processes))
    unread = [
        (reason, int(getattr(capture.tally, reason)))
        for reason in ("denied", "vanished", "appeared", "changed", "stuck", "malformed")
    ]
    help_text = "Processes that were not, or not wholly, read."
    yield from _labelled("processes_incomplete", help_text, "reason", unread)
    yield from _metric("resident_bytes", "Sum of the RSS of all processes.", total.rss * PAGE_SIZE)
    yield from _metric("swapped_bytes", "Swapped out of the processes.", total.swapped * PAGE_SIZE)
    yield from _metric(
        "copied_bytes", "Private copies of file pages (copy-on-write).", total.copied * PAGE_SIZE
    )
    if visible:
        yield from _metric("frames_bytes", "Physical memory of them.", total.frames * PAGE_SIZE)
        yield from _metric("saved_bytes", "What sharing saves.", total.saved * PAGE_SIZE)
        lost = sum(row.saved for row in summary.lost)
        help_text = "What is lost because the same content is different inodes."
        yield from _metric("lost_sharing_bytes", help_text, lost * PAGE_SIZE)
    programs = summary.groups(lambda process: process.comm or "unknown")
    for label, rows in (
        ("program", programs),
        ("container", summary.containers),
        ("user", summary.users),
    ):
        yield from _group(label, rows, limit, visible)
    if visible:
        saved = [
            (row.file.path, (row.mapped - row.frames) * PAGE_SIZE)
            for row in summary.files
            if row.mapped > row.frames
        ]
        help_text = "What the sharing of a file's pages saves."
        yield from _labelled("file_saved_bytes", help_text, "file", _bounded(saved, limit))


def _group(label: str, rows: Sequence[GroupSum], limit: int, visible: bool) -> Iterator[str]:
    if not rows:
        return
    resident = _bounded([(row.name, row.rss * PAGE_SIZE) for row in rows], limit)
    proportional = _bounded([(row.name, row.pss) for row in rows], limit)
    yield from _labelled(f"{label}_resident_bytes", f"RSS by {label}.", label, resident)
    help_text = f"Proportional set size by {label}."
    yield from _labelled(f"{label}_proportional_bytes", help_text, label, proportional)
    if visible:
        own = _bounded([(row.name, row.own * PAGE_SIZE) for row in rows], limit)
        help_text = f"Memory that only this {label} maps."
        yield from _labelled(f"{label}_own_bytes", help_text, label, own)


def _bounded(samples: Sequence[tuple[str, int]], limit: int) -> Samples:
    """Return the first `limit` samples, equal names added up, and the rest as one."""
    sums: dict[str, int] = {}
    rest = 0
    for name, value in samples:
        name = printable(name) or "unknown"
        if name in sums or (len(sums) < limit and name != OTHER):
            sums[name] = sums.get(name, 0) + value
        else:
            rest += value
    if rest:
        sums[OTHER] = rest
    return sums.items()


def _metric(name: str, help_text: str, value: int) -> Iterator[str]:
    yield from _head(name, help_text)
    yield f"samepage_{name} {value}\n"


def _labelled(name: str, help_text: str, label: str, samples: Samples) -> Iterator[str]:
    yield from _head(name, help_text)
    for value, sample in samples:
        yield f'samepage_{name}{{{label}="{_escape(value)}"}} {sample}\n'


def _head(name: str, help_text: str) -> Iterator[str]:
    yield f"# HELP samepage_{name} {help_text}\n"
    yield f"# TYPE samepage_{name} gauge\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
