"""Reports: one module per form of output, all made from one `Sharing`.

A form is a module with a function `write(sharing, stream)`; a new one is a new module and a
row in `samepage.report.forms`. The modules are imported when they are used.

    from samepage.report import print_report, write_report
    print_report(snapshot)                       # tables on the terminal
    write_report(snapshot, "report.json")        # the suffix decides the form
    write_report(snapshot, "capture/")           # a directory: the snapshot itself
"""

from __future__ import annotations

import importlib
import os

from samepage.report.forms import REPORTS, SNAPSHOT, TEXT, TOP, Form, choose, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from samepage.analysis.counting import Scope
    from samepage.report.tables import Terminal
    from samepage.snapshot.columns import Snapshot


def print_report(
    snapshot: Snapshot,
    terminal: Terminal | None = None,
    *,
    scope: Scope | None = None,
    top: int | None = 20,
    file: str | None = None,
    by: str | None = None,
) -> None:
    """Print the report for people, on stdout if no terminal is given.

    `top` bounds the rows of each table, None prints all. `file` asks for the files whose path
    ends in it instead; raises `SamepageError` if there is none. `by` groups the processes.
    """
    from samepage.analysis.sharing import Sharing
    from samepage.report.tables import Terminal
    from samepage.report.text import print_sharing

    sharing, terminal = Sharing(snapshot, scope), terminal or Terminal()
    if file is not None:
        from samepage.report.file_text import print_files

        print_files(sharing, file, terminal)
    else:
        print_sharing(sharing, terminal, top=top, by=by)
    terminal.stream.flush()  # an error of it is one of the command


def write_report(
    snapshot: Snapshot,
    target: str | os.PathLike[str] | TextIO,
    form: str | None = None,
    *,
    scope: Scope | None = None,
) -> None:
    """Write the report to a path, as a whole or not at all, or to an open text stream.

    `form` is the name of a row of `REPORTS`; None takes what the path's suffix means, and text
    for a stream. Raises `SamepageError` if it cannot be written.
    """
    output = os.fspath(target) if isinstance(target, str | os.PathLike) else None
    stream = None if isinstance(target, str | os.PathLike) else target
    _write(snapshot, choose(output, form, REPORTS), output, stream, scope)


def put_report(
    snapshot: Snapshot,
    form: Form,
    output: str | None,
    *,
    stream: TextIO | None = None,
    scope: Scope | None = None,
    top: int = 20,
    file: str | None = None,
    by: str | None = None,
) -> None:
    """Do what `-o` and `-f` ask of a snapshot: write it, print it, or show it.

    `stream` (None: stdout) is where it is printed without `output`; `top` 0 prints all rows.
    """
    if form is TOP:
        from samepage.report.top import watch

        watch(lambda: snapshot, first=by or "processes")
    elif form is TEXT and output is None:
        from samepage.report.tables import Terminal

        print_report(snapshot, Terminal(stream), scope=scope, top=top or None, file=file, by=by)
    else:
        _write(snapshot, form, output, stream, scope)


def _write(
    snapshot: Snapshot,
    form: Form,
    output: str | None,
    stream: TextIO | None,
    scope: Scope | None,
) -> None:
    if form is SNAPSHOT:
        from samepage.snapshot import parquet

        assert output is not None  # `choose` refuses it
        parquet.write(snapshot, output)
        return
    from samepage.analysis.sharing import Sharing

    write = importlib.import_module(form.module).write
    sharing = Sharing(snapshot, scope)
    with writing(output, form, stream) as file:
        write(sharing, file)
