"""The full-screen form, for any source of snapshots: the running system, a run, or a directory."""

import sys
from collections.abc import Callable

from samepage.errors import SamepageError
from samepage.snapshot.columns import Snapshot


def watch(
    source: Callable[[], Snapshot], interval: float | None = None, first: str = "processes"
) -> None:
    """Show what `source` returns until the user leaves; again every `interval` seconds, or once.

    `first` is the table to begin with: processes, files, or a kind of groups.

    Raises `SamepageError` without a terminal (Textual reads keys from stdin and draws on stderr),
    or without Textual.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise SamepageError("top needs a terminal; use `samepage live` in a pipe")
    try:
        from samepage.report.top_app import TopApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        raise SamepageError("top needs Textual: pip install 'samepage[top]'") from None
    TopApp(source, interval=interval, first=first).run()
