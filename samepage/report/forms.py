"""The forms of output, one row each, and where output goes.

Every command asks for its output in the same way, `-o FILE|DIR` and `-f FORM`, and declares which
of these forms it has. Without `-f` the suffix of FILE decides, without FILE it is the first one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from samepage.errors import SamepageError
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


@record(frozen=True)
class Form:
    """One form of output.

    `module` has `write(sharing, stream)`, if it is a form of a snapshot's report as text. A
    `document` is UTF-8 in every locale. One that is `exact` also shows what is dirty or
    merged, for which a live capture reads more.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    module: str = ""
    document: bool = False
    exact: bool = False


TEXT = Form("text", (".txt",), "samepage.report.text")
JSON = Form("json", (".json",), "samepage.report.json", document=True, exact=True)
HTML = Form("html", (".html", ".htm"), "samepage.report.html", document=True, exact=True)
TIMELINE = Form("timeline", (), "samepage.report.timeline")
PROMETHEUS = Form("prometheus", (".prom",), "samepage.report.prometheus", document=True)
TOP = Form("top", exact=True)
"""Not for files: full-screen, down to the pages."""
SNAPSHOT = Form("snapshot", exact=True)
"""A directory of Parquet files: the snapshot itself."""

MARKDOWN = Form("markdown", (".md",), document=True)
"""For a pull request."""

REPORTS = (TEXT, JSON, HTML, TIMELINE, PROMETHEUS, TOP, SNAPSHOT)
"""The forms of a snapshot's report."""
TEXT_OR_JSON = (TEXT, JSON)
MARKDOWN = Form("markdown", (".md",), document=True)
COST = (TEXT, JSON, MARKDOWN)
"""The forms of `samepage cost`; Markdown is for its comparisons."""
COLLAPSED = Form("collapsed", (".folded", ".collapsed"), document=True)
SPEEDSCOPE = Form("speedscope", document=True)
PPROF = Form("pprof", (".pprof", ".pb.gz"), document=True)
"""Binary; like the two before it a profile weighted in pages."""
WHY = (TEXT, JSON, HTML, COLLAPSED, SPEEDSCOPE, PPROF, SNAPSHOT)
"""The forms of the answer of `samepage why`."""
IMAGE_FORMS = (TEXT, JSON, MARKDOWN)


def choose(output: str | None, name: str | None, forms: Sequence[Form]) -> Form:
    """Return the form that is meant by a name, or by the path of the output, or by neither.

    Raises `SamepageError` if no form has that name or suffix, or it cannot go where it should.
    """
    form = _by_name(name, forms) if name else _by_path(output, forms) if output else forms[0]
    if form is SNAPSHOT and output is None:
        raise SamepageError("a snapshot is a directory: name one with -o DIR")
    if form is TOP and output is not None:
        raise SamepageError("top is for the terminal: leave out -o")
    return form


def _by_name(name: str, forms: Sequence[Form]) -> Form:
    found = next((form for form in forms if form.name == name), None)
    if found is None:
        raise SamepageError(f"no form {name!r}: there are {', '.join(f.name for f in forms)}")
    return found


def _by_path(path: str, forms: Sequence[Form]) -> Form:
    suffix = os.path.splitext(path.rstrip("/"))[1].lower()
    if path.lower().endswith(".pb.gz"):
        suffix = ".pb.gz"
    if SNAPSHOT in forms and (not suffix or path.endswith("/") or os.path.isdir(path)):
        return SNAPSHOT
    found = next((form for form in forms if suffix in form.suffixes), None)
    if found is None:
        known = " ".join(suffix for form in forms for suffix in form.suffixes)
        directory = ", or a directory (ending in /)" if SNAPSHOT in forms else ""
        raise SamepageError(f"unknown format of {path}: use {known}{directory}")
    return found


@contextlib.contextmanager
def writing(output: str | None, form: Form, stream: TextIO | None = None) -> Iterator[TextIO]:
    """Give the stream that a form is written to: a file that is replaced as a whole, or `stream`.

    Without either it is stdout. Raises `SamepageError` if the file cannot be written.
    """
    if output is not None:
        from samepage.report.output import replacing

        with replacing(output) as file:
            yield file
        return
    stream = stream or sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if form.document and reconfigure is not None:
        reconfigure(encoding="utf-8")
    yield stream
    stream.flush()  # an error of it is one of the command
