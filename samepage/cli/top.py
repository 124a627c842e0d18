"""`samepage top`: the live report as a full-screen view that refreshes."""

import argparse
import sys

from samepage.cli.arguments import Parser, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.live.select import find_processes


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("targets", nargs="*", metavar="PID|NAME", help="Processes; without any, all of them.")
    add(
        "-d",
        "--interval",
        type=number(float, 0.1),
        default=2.0,
        metavar="SECONDS",
        help="Time between two readings (default: %(default)s).",
    )
    add("--proc", default="/proc", help=argparse.SUPPRESS)


def command(targets: list[str], interval: float, proc: str) -> None:
    """Watch what the processes of this system share.

    Keys: p f c u show processes, files, containers, users; Enter opens a process or file down
    to its pages, Escape goes back; s sorts, r reverses, / filters, space pauses, q quits.
    """
    # Textual reads keys from stdin and draws on stderr.
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise SamepageError("top needs a terminal; use `samepage live` in a pipe")
    pids = find_processes(targets, proc) if targets else None
    use_one_thread()
    try:
        from samepage.report.top_app import TopApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        raise SamepageError("top needs Textual: pip install 'samepage[top]'") from None
    TopApp(pids, interval=interval, proc=proc).run()
