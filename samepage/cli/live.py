"""`samepage live`: the report from the running system.

The order of what happens here is a matter of speed: the collecting child starts first, and
NumPy is imported while it works. Arrow is imported only if a snapshot is written.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from samepage.cli.arguments import (
    Parser,
    add_by,
    add_file,
    add_output,
    add_selection,
    add_top,
    check_by,
    check_file,
)
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.groups.selection import Selection, group_path
from samepage.live.background import BackgroundCollector
from samepage.live.select import find_processes
from samepage.report import put_report
from samepage.report.forms import REPORTS, choose

if TYPE_CHECKING:
    from samepage.snapshot.columns import Snapshot


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add_selection(parser, "Processes; without any, all of them.")
    add_by(parser)
    add_output(parser, REPORTS)
    add_file(parser)
    add_top(parser)
    parser.add_argument("--proc", default="/proc", help=argparse.SUPPRESS)


def command(
    targets: list[str],
    selection: tuple[tuple[str, str], ...],
    by: str | None,
    output: str | None,
    form: str | None,
    file: str | None,
    top: int,
    proc: str,
) -> None:
    """Show what the processes of this system share, from the kernel's own page tables.

    Without arguments all processes are read; with several kinds of options, those that are one of
    each kind (nginx --user www-data). Frame numbers need root (CAP_SYS_ADMIN); without,
    the kernel's own sums (smaps) of your processes are shown.
    """
    chosen = choose(output, form, REPORTS)  # what is wrong is an error before the work
    check_file(file, output, chosen)
    check_by(by, output, chosen)
    wanted = Selection.of(targets, selection)
    pids = find_processes(wanted, proc) if wanted else None
    collector = BackgroundCollector(pids, proc=proc)
    use_one_thread()
    from samepage.live.capture import capture

    asked = [group_path(path) for path in wanted.values("cgroup")]
    snapshot = capture(
        pids,
        proc=proc,
        collector=collector,
        all_flags=chosen.exact,
        cgroups=asked,
        without_us=proc == "/proc",
    )
    if wanted and not snapshot.processes:
        raise SamepageError(_why_nothing(snapshot))
    missing = _what_is_missing(snapshot)
    put_report(snapshot, chosen, output, top=top, file=file, by=by)
    if missing:
        print(f"samepage: {missing}", file=sys.stderr)


def _count(snapshot: "Snapshot", reason: str) -> int:
    return int(snapshot.meta[f"processes_{reason}"])


def _why_nothing(snapshot: "Snapshot") -> str:
    if _count(snapshot, "denied"):
        return "the process may not be read: run as its user, or with sudo (CAP_SYS_PTRACE)"
    if _count(snapshot, "stuck"):
        return "the process could not be read in time: a lock of its memory is held"
    if _count(snapshot, "without_memory"):
        return "the process has no memory of its own: it is a kernel thread or has exited"
    return "the process exited while it was read"


def _what_is_missing(snapshot: "Snapshot") -> str:
    """Return one line on what could not be seen and how to get it, or ""."""
    denied = _count(snapshot, "denied")
    others = f"{denied} processes of others" if denied > 1 else "1 process of others"
    if not snapshot.frames_visible:
        more = f", and {others} need CAP_SYS_PTRACE" if denied else ""
        return (
            "which pages are shared with whom is not known: frame numbers need CAP_SYS_ADMIN"
            f"{more}; use sudo"
        )
    if denied and os.geteuid() != 0:
        return f"{others} could not be read: that needs CAP_SYS_PTRACE; use sudo"
    return ""
