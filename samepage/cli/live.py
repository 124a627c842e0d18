"""`samepage live`: the report from the running system.

The order of what happens here is a matter of speed: the collecting child starts first, and
NumPy is imported while it works. Arrow and the report's other libraries are imported only
if an output asks for them.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from samepage.cli.arguments import Parser, add_file, add_top, check_file
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.live.background import BackgroundCollector
from samepage.live.select import find_processes
from samepage.report import format_of

if TYPE_CHECKING:
    from samepage.live.summary import Summary
    from samepage.live.system import Capture


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("targets", nargs="*", metavar="PID|NAME", help="Processes; without any, all of them.")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="Write the report to a file (.json or .html), or the snapshot to a directory "
        "(Parquet).",
    )
    add(
        "--prometheus",
        metavar="FILE",
        help="Write metrics for node_exporter's textfile collector (a name ending in .prom).",
    )
    add(
        "-f",
        "--format",
        choices=("text", "json", "html"),
        dest="form",
        help="Form of the report; told by the suffix of PATH if not given, else text.",
    )
    add_file(parser)
    add_top(parser)
    add("--proc", default="/proc", help=argparse.SUPPRESS)


def command(
    targets: list[str],
    output: str | None,
    form: str | None,
    prometheus: str | None,
    file: str | None,
    top: int,
    proc: str,
) -> None:
    """Show what the processes of this system share, from the kernel's own page tables.

    Without arguments all processes are read. Frame numbers need root (CAP_SYS_ADMIN); without,
    the kernel's own sums (smaps) of your processes are shown.
    """
    if output is not None and form is None:
        format_of(output)  # an unknown suffix is an error before the work, not after it
    check_file(file, output or prometheus, form)
    pids = find_processes(targets, proc) if targets else None
    collector = BackgroundCollector(pids, proc=proc)
    use_one_thread()
    from samepage.live.capture import read_system
    from samepage.live.summary import Summary

    is_report = output is not None or form not in (None, "text")
    # The tables on the terminal and the metrics do not tell what is dirty.
    capture = read_system(
        pids, proc=proc, collector=collector, all_flags=is_report or file is not None
    )
    if targets and not capture.processes:
        raise SamepageError(_why_nothing(capture))
    missing = _what_is_missing(capture)
    if prometheus is not None:
        _write_metrics(Summary(capture, proc), prometheus)
    elif file is not None:
        _print_file(capture, file, proc)
    elif not is_report:
        _print(Summary(capture, proc), top)
    if is_report:
        _write(capture, output, form, proc)
    if missing:
        print(f"samepage: {missing}", file=sys.stderr)


def _print(summary: "Summary", top: int) -> None:
    from samepage.report.live_text import live_text

    sys.stdout.write("\n".join(live_text(summary, top)) + "\n")


def _print_file(capture: "Capture", name: str, proc: str) -> None:
    from samepage.live.to_snapshot import to_snapshot
    from samepage.report import print_report

    print_report(to_snapshot(capture, use_up=True, proc=proc), file=name)


def _write_metrics(summary: "Summary", path: str) -> None:
    from samepage.report.output import replacing
    from samepage.report.prometheus import prometheus_text

    with replacing(path) as stream:
        stream.write(prometheus_text(summary))


def _write(capture: "Capture", output: str | None, form: str | None, proc: str) -> None:
    """Write a report or snapshot, for which the capture is used up."""
    from samepage.live.to_snapshot import to_snapshot, write_snapshot
    from samepage.report import SNAPSHOT_FORMAT, write_report
    from samepage.report.output import stdout_for

    if output is not None and (form or format_of(output)) == SNAPSHOT_FORMAT:
        write_snapshot(capture, output, proc=proc)
    else:
        write_report(
            to_snapshot(capture, use_up=True, proc=proc),
            stdout_for(form or "text") if output is None else output,
            form,
        )


def _why_nothing(capture: "Capture") -> str:
    tally = capture.tally
    if tally.denied:
        return "the process may not be read: run as its user, or with sudo (CAP_SYS_PTRACE)"
    if tally.stuck:
        return "the process could not be read in time: a lock of its memory is held"
    if tally.without_memory:
        return "the process has no memory of its own: it is a kernel thread or has exited"
    return "the process exited while it was read"


def _what_is_missing(capture: "Capture") -> str:
    """Return one line that says what could not be seen and how to get it, or ""."""
    denied = capture.tally.denied
    others = f"{denied} processes of others" if denied > 1 else "1 process of others"
    if not capture.frames_visible:
        more = f", and {others} need CAP_SYS_PTRACE" if denied else ""
        return (
            "which pages are shared with whom is not known: frame numbers need CAP_SYS_ADMIN"
            f"{more}; use sudo"
        )
    if denied and os.geteuid() != 0:
        return f"{others} could not be read: that needs CAP_SYS_PTRACE; use sudo"
    return ""
