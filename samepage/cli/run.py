"""`samepage run`: run programs on the model machine, and report what they share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from samepage.cli.arguments import (
    USAGE_ERROR,
    Parser,
    add_engine,
    add_file,
    add_output,
    add_programs,
    add_top,
    check_file,
    number,
)
from samepage.cli.blas import use_one_thread
from samepage.cli.images import Start
from samepage.errors import SamepageError
from samepage.lab.commands import split_commands
from samepage.records import record
from samepage.report import put_report
from samepage.report.forms import REPORTS, SNAPSHOT, TIMELINE, choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.lab.model_side import ModelSide
    from samepage.lab.scenario import Scenario
    from samepage.machine import Machine
    from samepage.report.forms import Form


USAGE = "[OPTION]... PROGRAM [ARG]... [::: PROGRAM [ARG]...]..."


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add_programs(parser, required=False)
    add_output(parser, REPORTS)
    add("-q", "--quiet", action="store_true", help="Print no report, only the programs' output.")
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
    add(
        "--root",
        default="/",
        metavar="DIR|IMAGE",
        help="What the programs see as / (read-only): a directory, or a container image.",
    )
    add(
        "--image",
        metavar="IMAGE",
        help="As --root, with the environment, directory and user that the image sets; without "
        "PROGRAM, what it starts. An OCI layout, an archive of docker save, a layer of overlay "
        "storage, or a directory; :TAG chooses one of several.",
    )
    add(
        "--layer",
        action="append",
        default=[],
        dest="layers",
        metavar="DIR",
        help="Put a directory that --export wrote over the files of --root. Of several, the last "
        "is on top.",
    )
    add("--cold", action="store_true", help="Start with an empty page cache: major faults.")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="Decides all that is random (default: %(default)s).",
    )
    add(
        "--kernel",
        metavar="VERSION",
        help="Whose rules the machine has: Linux 6.1, 6.12 or 6.18 (default: this system's).",
    )
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="Set a variable.")
    add("--clear-env", action="store_true", help="Start with no environment but --env.")
    add("--cwd", metavar="DIR", help="The programs' working directory.")
    add(
        "--export",
        metavar="DIR",
        help="Save the files that the programs changed in the new directory DIR.",
    )
    add_engine(parser)
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


@record(frozen=True)
class Options:
    """The command line; what each option means is in its help text."""

    words: list[str]
    output: str | None
    form: str | None
    quiet: bool
    stop: str
    loader: str
    lazy: bool
    ram: str
    root: str
    image: str | None
    layers: list[str]
    cold: bool
    seed: int
    kernel: str | None
    env: list[str]
    clear_env: bool
    cwd: str | None
    export: str | None
    engine: str
    max_instructions: int | None
    timeout: float | None
    file: str | None
    top: int


def command(options: Options) -> int:
    """Run unmodified Linux programs on a model machine; `:::` separates them.

    Each runs to its exit and stays resident, so that all can be looked at together. Their
    output goes to stdout, the report to stderr. The exit status is the last program's, or 127
    if one does not exist, 126 if it cannot be executed, 124 at a limit of time or instructions.

        samepage run true ::: uname -a
        samepage run -o report.html python3 -c 'import json' ::: true
    """
    if options.image is None and not options.words:
        raise SamepageError("the following arguments are required: PROGRAM", USAGE_ERROR)
    form = choose(options.output, options.form, REPORTS)  # so that no run is for nothing
    check_file(options.file, options.output, form)
    _check_directory(options.output)
    if options.export is not None and os.path.lexists(options.export):
        raise SamepageError(f"cannot export to {options.export}: it exists already")
    from samepage.cpu import engines

    engines.prepare(options.engine)
    from samepage.lab.model_side import ModelSide

    with contextlib.ExitStack() as stack:
        scenario = _scenario(options, stack, events=form in (TIMELINE, SNAPSHOT))
        return _run(ModelSide(own_streams=True, whole_trees=False), scenario, form, options)


def _run(side: ModelSide, scenario: Scenario, form: Form, options: Options) -> int:
    """Run the programs, and write the report; the status of the last one."""
    side.prepare(scenario)
    use_one_thread()
    status = 0
    programs = scenario.commands
    for argv in programs:
        sys.stdout.flush()
        with _kernel_messages(side.machine):
            status = side.run(argv) or 0
    if options.export is not None:
        side.machine.export(options.export)
    if options.output is not None or not options.quiet:
        put_report(
            side.machine.snapshot(),
            form,
            options.output,
            stream=sys.stderr,
            top=options.top,
            file=options.file,
        )
    return status


def _scenario(options: Options, stack: contextlib.ExitStack, *, events: bool) -> Scenario:
    """What is to be run; `events`: whether the report needs them. `stack` keeps its files."""
    from samepage.lab.scenario import MachineOptions, Scenario
    from samepage.stop_at import StopAt

    start = _start(options, stack)
    return Scenario(
        start.programs,
        start.environment,
        cwd=options.cwd or start.directory,
        stop_at=StopAt(options.stop),
        timeout=options.timeout,
        machine=MachineOptions(
            ram=options.ram,
            root=start.root,
            user=start.user,
            engine=options.engine,
            cold=options.cold,
            seed=options.seed,
            timeline=events,
            max_instructions=options.max_instructions or 0,
            loader=options.loader,
            lazy=options.lazy,
            kernel=options.kernel,
        ),
    )


def _start(options: Options, stack: contextlib.ExitStack) -> Start:
    """The programs, and the files and settings that they start with."""
    programs = split_commands(options.words) if options.words else ()
    if options.image is None and not options.layers and _is_plain(options.root):
        return Start(programs, _environment(options.env, options.clear_env), options.root)
    from samepage.cli.images import start_image

    environment = _environment(options.env, clear=True)
    inherited = {} if options.clear_env else dict(os.environ)
    return start_image(
        options.image, options.root, options.layers, programs, environment, inherited, stack
    )


def _is_plain(root: str) -> bool:
    """Whether a root is a directory of files, or nothing at all."""
    if root == "/" or not os.path.lexists(root):
        return True
    from samepage.images.source import is_plain

    return os.path.isdir(root) and is_plain(root)


def _check_directory(output: str | None) -> None:
    """Raise `SamepageError` if there is no directory for the output, before the run."""
    if output is not None:
        parent = os.path.dirname(os.path.abspath(output.rstrip("/")))
        if not os.path.isdir(parent):
            raise SamepageError(f"cannot write {output}: there is no directory {parent}")


def _environment(settings: Sequence[str], clear: bool) -> dict[str, str]:
    environment = {} if clear else dict(os.environ)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise SamepageError(f"--env takes NAME=VALUE, not {setting!r}")
        environment[name] = value
    return environment


@contextlib.contextmanager
def _kernel_messages(machine: Machine) -> Iterator[None]:
    """Show the kernel's messages while a program runs: a kill for lack of memory."""
    before = len(machine.log)
    try:
        yield
    finally:
        for line in machine.log[before:]:
            print(f"samepage: kernel: {line}", file=sys.stderr)
