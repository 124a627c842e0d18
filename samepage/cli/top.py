"""`samepage top`: the live report as a full-screen view that refreshes."""

import argparse

from samepage.cli.arguments import Parser, number
from samepage.cli.blas import use_one_thread
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

    Keys: p f g c u show processes, files, programs, containers, users; Enter opens a process or
    file down to its pages, Escape goes back; s sorts, r reverses, / filters, space pauses, q
    quits.
    """
    pids = find_processes(targets, proc) if targets else None
    use_one_thread()
    from samepage.live.capture import capture
    from samepage.report.top import watch

    watch(lambda: capture(pids, proc=proc), interval)
