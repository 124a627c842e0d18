"""The timeline: each event of a model run on a line, in the order in which it happened.

    order pid  event            address        pages  frame  file page              at
        2   1  file read fault  0x7ffff7d31000     3     11  libc.so.6 page 1  hit  strlen

`frame` is the frame of the page that faulted. "hit" and "miss" mean whether the page cache
had the page. The last column is the function whose instruction did it; it is empty where
the kernel did it itself (exec, or a system call's buffer).
"""

from collections.abc import Iterator
from typing import TextIO

from samepage.analysis.sharing import Sharing
from samepage.report.sizes import printable
from samepage.snapshot.columns import Event, Snapshot

HEADER = (
    f"{'order':>6} {'pid':>6}  {'event':<18}  {'address':<14} {'pages':>6} {'frame':>8}  "
    "file page, page cache, instruction"
)


def write(sharing: Sharing, stream: TextIO) -> None:
    """Write the timeline of the snapshot behind a report."""
    for line in lines(sharing.snapshot):
        stream.write(line + "\n")


def lines(snapshot: Snapshot) -> Iterator[str]:
    """Yield a header and a line per event; one line if there are none."""
    if not snapshot.events:
        yield "No events: only runs on the model record them."
        return
    yield HEADER
    paths = [printable(file.path) for file in snapshot.files]
    for event in snapshot.events:
        yield _line(event, paths)


def _line(event: Event, paths: list[str]) -> str:
    frame, pages = (str(number or "") for number in (event.frame, event.pages))
    line = (
        f"{event.order:>6} {event.pid:>6}  {printable(event.kind):<18}  "
        f"{event.address:#014x} {pages:>6} {frame:>8}  {_place(event, paths)}"
    )
    return line.rstrip()


def _place(event: Event, paths: list[str]) -> str:
    parts = []
    if event.file >= 0:
        parts.append(paths[event.file] + (f" page {event.page}" if event.page >= 0 else ""))
    if event.cached is not None and event.frame:  # an mmap looks no page up
        parts.append("hit" if event.cached else "miss")
    if event.ip:
        parts.append(f"at {printable(event.symbol)}" if event.symbol else f"at {event.ip:#x}")
    return ", ".join(parts)
