"""`samepage top`: the live report as a full-screen view that refreshes."""

import os
import sys

import click

from samepage.errors import SamepageError
from samepage.host.select import find_processes


@click.command("top")
@click.argument("targets", nargs=-1, metavar="[PID|NAME]...")
@click.option(
    "-d",
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two readings.",
)
@click.option("--proc", type=click.Path(), default="/proc", hidden=True)
def command(targets: tuple[str, ...], interval: float, proc: str) -> None:
    """Watch what the processes of this system share.

    Keys: p f c u show processes, files, containers, users; Enter opens a process or file down
    to its pages, Escape goes back; s sorts, r reverses, / filters, space pauses, q quits.
    """
    # Textual reads keys from stdin and draws on stderr.
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise SamepageError("top needs a terminal; use `samepage live` in a pipe")
    pids = find_processes(targets, proc) if targets else None
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from samepage.report.top_app import TopApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        raise SamepageError("top needs Textual: pip install 'samepage[top]'") from None
    TopApp(pids, interval=interval, proc=proc).run()
