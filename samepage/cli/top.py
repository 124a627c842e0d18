"""`samepage top`: the live report as a full-screen view that refreshes."""

import argparse
from typing import TYPE_CHECKING

from samepage.cli.arguments import Parser, add_by, add_selection, number
from samepage.cli.blas import use_one_thread
from samepage.groups.selection import Selection
from samepage.live.select import find_processes

if TYPE_CHECKING:
    from samepage.snapshot.columns import Snapshot


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add_selection(parser, "Processes; without any, all of them.")
    add_by(parser)
    add(
        "-d",
        "--interval",
        type=number(float, 0.1),
        default=2.0,
        metavar="SECONDS",
        help="Time between two readings (default: %(default)s).",
    )
    add("--proc", default="/proc", help=argparse.SUPPRESS)


def command(
    targets: list[str],
    selection: tuple[tuple[str, str], ...],
    by: str | None,
    interval: float,
    proc: str,
) -> None:
    """Watch what the processes of this system share.

    Keys: p f g show processes, files, programs; c u n o t containers, users, units, pods, process
    trees; Enter opens a process or file down to its pages, Escape goes back; s sorts, r reverses,
    / filters, space pauses, q quits.
    """
    wanted = Selection.of(targets, selection)
    if wanted:
        find_processes(wanted, proc)  # what is wrong is an error before the screen is taken
    use_one_thread()
    from samepage.live.capture import capture
    from samepage.report.top import watch

    def read() -> "Snapshot":
        # Processes come and go: a unit or a container has others at each reading.
        return capture(
            find_processes(wanted, proc) if wanted else None, proc=proc, without_us=proc == "/proc"
        )

    watch(read, interval, by or "processes")
