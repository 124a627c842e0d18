"""`samepage run`: run programs on the model machine, and report what they share."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from samepage.errors import SamepageError

if TYPE_CHECKING:
    from samepage.model import Machine, StopAt

SEPARATOR = ":::"


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    options_metavar="[options]",
)
@click.argument(
    "words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARG]... [::: ...]"
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the report to FILE (.json, .html, .txt) or a snapshot to a directory, "
    "instead of printing it to stderr.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no report, only what the programs print.")
@click.option("--timeline", is_flag=True, help="Print every event in its order, not the report.")
@click.option(
    "--stop",
    type=click.Choice(["entry", "main", "exit"]),
    default="exit",
    show_default=True,
    help="Where to stop each program and look at its memory.",
)
@click.option(
    "--loader",
    type=click.Choice(["ldso", "builtin"]),
    default="ldso",
    show_default=True,
    help="Who maps, binds and relocates the libraries: the program's own ld.so, or samepage.",
)
@click.option(
    "--lazy",
    is_flag=True,
    help="With --loader builtin: bind functions at their first calls, not at the start.",
)
@click.option("--ram", default="4G", show_default=True, metavar="SIZE", help="Physical memory.")
@click.option("--root", default="/", metavar="DIR", help="What the programs see as / (read-only).")
@click.option("--cold", is_flag=True, help="Start with an empty page cache: major faults.")
@click.option("--seed", default=0, show_default=True, help="Decides all that is random.")
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("--clear-env", is_flag=True, help="Start with no environment but --env.")
@click.option("--cwd", metavar="DIR", help="The programs' working directory.")
@click.option(
    "--export",
    metavar="DIR",
    help="Save the files that the programs changed in the new directory DIR.",
)
@click.option(
    "--max-instructions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop after N instructions (counting them makes the run slower).",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop a program that runs longer.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rows of each table; 0 for all.",
)
def command(
    words: tuple[str, ...],
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
    env: tuple[str, ...],
    clear_env: bool,
    cwd: str | None,
    export: str | None,
    max_instructions: int | None,
    timeout: float | None,
    top: int,
) -> int:
    """Run unmodified Linux programs on a model machine; `:::` separates them.

    Each runs to its exit and stays resident, so that all can be looked at together. Their
    output goes to stdout, the report to stderr. The exit status is the last program's.

    \b
    samepage run true ::: uname -a
    samepage run -o report.html python3 -c 'import json' ::: python3 -c 'import re'
    """
    programs = split_programs(words)
    form = _report_form(output)
    if export is not None and os.path.lexists(export):
        raise SamepageError(f"cannot export to {export}: it exists already")
    from samepage.model import Machine, StopAt

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
    status = 0
    for argv in programs:
        status = run_program(
            machine, argv, environment, cwd, StopAt(stop), loader=loader, lazy=lazy
        )
    if export is not None:
        machine.export(export)
    _report(machine, output, quiet=quiet, timeline=timeline, top=top)
    return status


def split_programs(words: tuple[str, ...]) -> list[list[str]]:
    """The command lines between the separators. Raises `SamepageError` if one is empty."""
    programs: list[list[str]] = [[]]
    for word in words:
        if word == SEPARATOR:
            programs.append([])
        else:
            programs[-1].append(word)
    if not all(programs):
        raise SamepageError(f"a program is missing beside {SEPARATOR}")
    return programs


def _report_form(output: str | None) -> str | None:
    """The form of the report file, found out before the run so that no run is for nothing."""
    if output is None:
        return None
    from samepage.report import format_of

    parent = os.path.dirname(os.path.abspath(output.rstrip("/")))
    if not os.path.isdir(parent):
        raise SamepageError(f"cannot write {output}: there is no directory {parent}")
    return format_of(output)


def _environment(settings: tuple[str, ...], clear: bool) -> dict[str, str]:
    environment = {} if clear else dict(os.environ)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise SamepageError(f"--env takes NAME=VALUE, not {setting!r}")
        environment[name] = value
    return environment


def run_program(
    machine: "Machine",
    argv: list[str],
    environment: dict[str, str],
    cwd: str | None,
    stop: "StopAt",
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
def _kernel_messages(machine: "Machine") -> Iterator[None]:
    """Show what the kernel has to say while a program runs: a kill for lack of memory."""
    before = len(machine.log)
    try:
        yield
    finally:
        for line in machine.log[before:]:
            click.echo(f"samepage: kernel: {line}", err=True)


def _report(
    machine: "Machine", output: str | None, *, quiet: bool, timeline: bool, top: int
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

        print_report(snapshot, console_for(sys.stderr), top=top or None)
