"""Reports: one module per output form, all made from one `Sharing`.

A form is a module with a function `write(sharing, stream)`; a new one is a new module and a
line in `FORMATS`. The modules are imported when they are used, so that a JSON report does
not load Rich.

    from samepage.report import print_report, write_report
    print_report(snapshot)                       # tables on the terminal
    write_report(snapshot, "report.json")        # the form is told by the name
    write_report(snapshot, "capture/")           # a directory: the snapshot itself
"""

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, cast

from samepage.errors import SamepageError

if TYPE_CHECKING:
    from rich.console import Console

    from samepage.analysis.counting import Scope
    from samepage.analysis.sharing import Sharing
    from samepage.snapshot.tables import Snapshot

FORMATS: dict[str, str] = {
    "text": "samepage.report.text",
    "json": "samepage.report.json",
    "html": "samepage.report.html",
    "timeline": "samepage.report.timeline",
}
"""The forms by name, and their modules."""

SNAPSHOT_FORMAT = "snapshot"
"""Not a report: the snapshot's tables, as a directory of Parquet files."""

SUFFIXES = {".txt": "text", ".json": "json", ".html": "html", ".htm": "html"}


def print_report(
    snapshot: "Snapshot",
    console: "Console | None" = None,
    *,
    scope: "Scope | None" = None,
    top: int | None = 20,
    file: str | None = None,
) -> None:
    """Print the report for people, on stdout if no console is given.

    `top` bounds the rows of each table, None prints all. `file` asks for the files whose path
    ends in it instead; raises `SamepageError` if there is none.
    """
    from samepage.analysis.sharing import Sharing
    from samepage.report.file_text import print_files
    from samepage.report.tables import console_for
    from samepage.report.text import print_sharing

    sharing, console = Sharing(snapshot, scope), console or console_for(None)
    if file is not None:
        print_files(sharing, file, console)
    else:
        print_sharing(sharing, console, top=top)


def write_report(
    snapshot: "Snapshot",
    target: "str | os.PathLike[str] | TextIO",
    format: str | None = None,
    *,
    scope: "Scope | None" = None,
) -> None:
    """Write the report to a path, as a whole or not at all, or to an open text stream.

    `format` is a name of `FORMATS`, or "snapshot" for the tables themselves; None tells it
    by the path's suffix (.txt .json .html, else a snapshot's directory), and takes text for
    a stream. Raises `SamepageError` if it cannot be written.
    """
    from samepage.analysis.sharing import Sharing
    from samepage.report.output import replacing

    path = os.fspath(target) if isinstance(target, str | os.PathLike) else None
    form = format or (format_of(path) if path is not None else "text")
    if form == SNAPSHOT_FORMAT:
        from samepage.snapshot import store

        if path is None:
            raise SamepageError("a snapshot is a directory: name one with -o DIR")
        store.write(snapshot, path)
        return
    write = writer(form)
    sharing = Sharing(snapshot, scope)
    if path is None:
        write(sharing, cast(TextIO, target))
        return
    with replacing(path) as stream:
        write(sharing, stream)


def format_of(path: str) -> str:
    """Tell the form by the suffix of a path; what has none is a snapshot's directory.

    Raises `SamepageError` for a suffix that is unknown.
    """
    suffix = os.path.splitext(path.rstrip("/"))[1].lower()
    if not suffix or path.endswith("/") or os.path.isdir(path):
        return SNAPSHOT_FORMAT
    if suffix not in SUFFIXES:
        raise SamepageError(
            f"cannot tell the format of {path}: use {' '.join(SUFFIXES)}, "
            "or a directory (ending in /)"
        )
    return SUFFIXES[suffix]


def writer(form: str) -> "Callable[[Sharing, TextIO], None]":
    """Return the function that writes a form, by its name in `FORMATS`."""
    if form not in FORMATS:
        raise SamepageError(f"no report format {form!r}: there are {', '.join(FORMATS)}")
    write = importlib.import_module(FORMATS[form]).write
    return cast("Callable[[Sharing, TextIO], None]", write)
