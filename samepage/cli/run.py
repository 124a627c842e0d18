"""`samepage run`: run programs on the model machine, and report what they share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from samepage.cli.arguments import Parser, add_file, add_programs, add_top, check_file, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.programs import split_programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.machine import Machine, StopAt


USAGE = "[OPTION]... PROGRAM [ARG]... [::: PROGRAM [ARG]...]..."


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add_programs(parser, required=True)
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the report to FILE (.json, .html, .txt) or a snapshot to a directory, "
        "instead of printing it to stderr.",
    )
    add("-q", "--quiet", action="store_true", help="Print no report, only the programs' output.")
    add("--timeline", action="store_true", help="Print every event in its order, not the report.")
    add(
        "--stop",
        choices=("entry", "main", "exit"),
        default="exit",
        help="Where to stop each program and look at its memory (default: %(default)s).",
    )
    add(
        "--loader",
        choices=("ldso", "builtin"),
        default="ldso",
        help="Who maps, binds and relocates the libraries: the program's own ld.so, or samepage "
        "(default: %(default)s).",
    )
    add(
        "--lazy",
        action="store_true",
        help="With --loader builtin: bind functions at their first calls, not at the start.",
    )
    add("--ram", default="4G", metavar="SIZE", help="Physical memory (default: %(default)s).")
    add("--root", default="/", metavar="DIR", help="What the programs see as / (read-only).")
    add("--cold", action="store_true", help="Start with an empty page cache: major faults.")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="Decides all that is random (default: %(default)s).",
    )
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="Set a variable.")
    add("--clear-env", action="store_true", help="Start with no environment but --env.")
    add("--cwd", metavar="DIR", help="The programs' working directory.")
    add(
        "--export",
        metavar="DIR",
        help="Save the files that the programs changed in the new directory DIR.",
    )
    add(
        "--max-instructions",
        type=number(int, 1),
        metavar="N",
        help="Stop after N instructions (counting them makes the run slower).",
    )
    add(
        "--timeout",
        type=number(float, 0, above=True),
        metavar="SECONDS",
        help="Stop a program that runs longer.",
    )
    add_file(parser)
    add_top(parser)


def command(
    words: list[str],
    output: str | None,
    quiet: bool,
    timeline: bool,
    stop: str,
    loader: str,
    lazy: bool,
    ram: str,
    root: str,
    cold: bool,
    seed: int,
    env: list[str],
    clear_env: bool,
    cwd: str | None,
    export: str | None,
    max_instructions: int | None,
    timeout: float | None,
    file: str | None,
    top: int,
) -> int:
    """Run unmodified Linux programs on a model machine; `:::` separates them.

    Each runs to its exit and stays resident, so that all can be looked at together. Their
    output goes to stdout, the report to stderr. The exit status is the last program's, or 127
    if one does not exist, 126 if it cannot be executed, 124 at a limit of time or instructions.

        samepage run true ::: uname -a
        samepage run -o report.html python3 -c 'import json' ::: true
    """
    programs = split_programs(words)
    check_file(file, output, None)
    form = _report_form(output)
    if export is not None and os.path.lexists(export):
        raise SamepageError(f"cannot export to {export}: it exists already")
    from samepage.cpu import engine

    engine.prepare()
    from samepage.machine import Machine, StopAt

    machine = Machine(
        ram,
        root=root,
        cold=cold,
        seed=seed,
        timeline=timeline or form in ("snapshot", "html"),
        timeout=timeout,
        max_instructions=max_instructions or 0,
    )
    environment = _environment(env, clear_env)
    use_one_thread()
    status = 0
    for argv in programs:
        status = run_program(
            machine, argv, environment, cwd, StopAt(stop), loader=loader, lazy=lazy
        )
    if export is not None:
        machine.export(export)
    _report(machine, output, quiet=quiet, timeline=timeline, top=top, file=file)
    return status


def _report_form(output: str | None) -> str | None:
    """The form of the report file, found out before the run so that no run is for nothing."""
    if output is None:
        return None
    from samepage.report import format_of

    parent = os.path.dirname(os.path.abspath(output.rstrip("/")))
    if not os.path.isdir(parent):
        raise SamepageError(f"cannot write {output}: there is no directory {parent}")
    return format_of(output)


def _environment(settings: Sequence[str], clear: bool) -> dict[str, str]:
    environment = {} if clear else dict(os.environ)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise SamepageError(f"--env takes NAME=VALUE, not {setting!r}")
        environment[name] = value
    return environment


def run_program(
    machine: Machine,
    argv: list[str],
    environment: dict[str, str],
    cwd: str | None,
    stop: StopAt,
    *,
    loader: str = "ldso",
    lazy: bool = False,
) -> int:
    """Run one program with this process's own streams; return its exit status."""
    sys.stdout.flush()
    guest = machine.spawn(
        argv,
        env=environment,
        cwd=cwd,
        stdin=0,
        stdout=1,
        stderr=2,
        loader=loader,
        lazy=lazy,
    )
    with _kernel_messages(machine):
        return machine.run(guest, stop) or 0


@contextlib.contextmanager
def _kernel_messages(machine: Machine) -> Iterator[None]:
    """Show what the kernel has to say while a program runs: a kill for lack of memory."""
    before = len(machine.log)
    try:
        yield
    finally:
        for line in machine.log[before:]:
            print(f"samepage: kernel: {line}", file=sys.stderr)


def _report(
    machine: Machine,
    output: str | None,
    *,
    quiet: bool,
    timeline: bool,
    top: int,
    file: str | None,
) -> None:
    if output is None and quiet and not timeline:
        return
    from samepage.report import print_report, write_report

    snapshot = machine.snapshot()
    if output is not None:
        write_report(snapshot, output)
    if timeline:
        write_report(snapshot, sys.stderr, "timeline")
    elif output is None and not quiet:
        from samepage.report.tables import console_for

        print_report(snapshot, console_for(sys.stderr), top=top or None, file=file)
