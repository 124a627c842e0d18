"""`samepage why`: who un-shares the memory of running processes."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from samepage.cli.arguments import Parser, add_output, add_selection, add_top, number
from samepage.cli.blas import use_one_thread
from samepage.errors import SamepageError
from samepage.records import record
from samepage.report.forms import SNAPSHOT, WHY, choose, writing

if TYPE_CHECKING:
    from samepage.lab.follow import Followed
    from samepage.lab.targets import Target
    from samepage.report.forms import Form
    from samepage.snapshot.columns import Snapshot

_MIN_EPOCH = 0.01
_DURATION = "10s"


@record
class Options:
    """The command line."""

    targets: list[str]
    selection: tuple[tuple[str, str], ...]
    started: list[str]
    model: bool
    duration: str | None
    epoch: str | None
    what_if: list[str]
    stacks: bool
    fail_over: float | None
    form: str | None
    output: str | None
    top: int


USAGE = "[OPTION]... [PID|NAME]...\n       samepage why [OPTION]... -- COMMAND [ARG]..."


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add_selection(
        parser, "The processes; what they have forked and fork meanwhile belongs to them."
    )
    parser.after_dashes = "started"
    add(
        "--model",
        action="store_true",
        help="Run programs (separated by :::; put -- before options of theirs) on the model "
        "machine instead, whose kernel reports each copy.",
    )
    add(
        "--for",
        dest="duration",
        metavar="TIME",
        help=f"How long to watch, as 500ms, 30s, 5m (default: {_DURATION}, or until a started "
        "COMMAND ends); Ctrl-C ends it early, with the answer.",
    )
    add(
        "--epoch",
        metavar="TIME",
        help="Protect written pages again each TIME (such as 100ms), so that later writers are "
        "found too, and savings are no upper bounds. Costs the processes a fault for each page "
        "that they write to in an epoch.",
    )
    add(
        "--what-if",
        action="append",
        metavar="CAUSE",
        default=[],
        help="Show what would stay shared without a cause (gc, refcount, cpython.gc) or "
        "functions (a name or a pattern, gc_*); use it with --epoch.",
    )
    add(
        "--stacks",
        action="store_true",
        help="Look for functions of scripts on the stacks, also if no process has written a map "
        "of them yet (which python -X perf and node --perf-basic-prof do).",
    )
    add(
        "--fail-over",
        metavar="MIB",
        type=number(float, 0),
        help="Exit with 1 if more than so many MiB were copied.",
    )
    add_output(parser, WHY)
    add_top(parser)


def command(options: Options) -> int:
    """Show who writes to the memory that processes share since a fork, and what it costs.

    Watches the processes and all that they fork; after "--" follows a command to start and watch
    from its first instruction on. A page that one of them writes to is copied: the answer names
    the functions that write, groups them by cause, and shows what each cause's end would save.
    It needs root, and x86-64.
    """
    chosen = choose(options.output, options.form, WHY)
    default = f"{1 << 20}h" if options.started else _DURATION
    seconds = _seconds("--for", options.duration or default)
    epoch = _seconds("--epoch", options.epoch) if options.epoch is not None else 0.0
    if options.epoch is not None and epoch < _MIN_EPOCH:
        raise SamepageError(
            f"--epoch {options.epoch}: less than 10ms leaves the processes no time to run"
        )
    use_one_thread()
    from samepage.analysis.what_if import what_if
    from samepage.analysis.why import explain
    from samepage.report.why import Observation
    from samepage.report.why_forms import write_form
    from samepage.snapshot.columns import PAGE_SIZE

    found, snapshot = (
        _on_model(options) if options.model else _follow(options, seconds, epoch, chosen)
    )
    answer = explain(
        found.before,
        found.after,
        found.parents,
        found.writes,
        all_writers=found.epochs > 0,
        execs=found.execs,
    )
    seen = Observation(
        sorted(found.names.items()),
        found.seconds,
        found.epochs,
        found.missing,
        [what_if(answer, found.writes, pattern) for pattern in options.what_if],
        found.notes,
        model=options.model,
    )
    if chosen is SNAPSHOT:
        from samepage.snapshot.parquet import write

        assert snapshot is not None, "taken while the processes were there"
        assert options.output is not None, "choose demands it of a snapshot"
        write(snapshot, options.output, found.writes)
    else:
        with writing(options.output, chosen) as stream:
            write_form(chosen, answer, found.writes, seen, stream, options.output, options.top)
    copied = answer.copied * PAGE_SIZE / (1 << 20)
    return int(options.fail_over is not None and copied > options.fail_over)


def _follow(
    options: Options, seconds: float, epoch: float, form: "Form"
) -> "tuple[Followed, Snapshot | None]":
    """What was seen of live processes, and their memory at the end if the form is of that."""
    from samepage.lab.follow import follow
    from samepage.live.capture import capture

    with _target(options) as target:
        found = follow(target, seconds, epoch=epoch, stacks=options.stacks)
        snapshot = capture(sorted(found.after), all_flags=True) if form is SNAPSHOT else None
    return found, snapshot


def _on_model(options: Options) -> "tuple[Followed, Snapshot | None]":
    """What the model's kernel reports of a run."""
    from samepage.cpu import engines

    words = [*options.targets, *options.started]
    if not words or options.selection or options.epoch is not None:
        raise SamepageError("--model runs programs: name them, and leave out other processes")
    engines.prepare()
    from samepage.lab.commands import split_commands
    from samepage.lab.model_writes import run_on_model

    return run_on_model(split_commands(words))


@contextlib.contextmanager
def _target(options: Options) -> Iterator["Target"]:
    """What to follow. Raises `SamepageError` unless exactly one kind was chosen."""
    from samepage.groups.selection import Selection
    from samepage.lab.targets import Cgroups, Command, Family
    from samepage.live.cgroup_paths import find_cgroup, find_unit
    from samepage.live.select import find_processes

    wanted = Selection.of(options.targets, options.selection)
    if bool(wanted) == bool(options.started):
        raise SamepageError(
            "name processes, or a command to start after --, one of the two "
            "(see samepage why --help)"
        )
    if options.started:
        started = Command(options.started)
        try:
            yield started
        finally:
            started.end()
        return
    if len(wanted.wanted) == 1 and wanted.asks("cgroup", "unit"):
        # The kernel follows one cgroup by itself, whoever is moved there.
        (kind, value), *_ = options.selection
        directory = find_cgroup(value) if kind == "cgroup" else find_unit(value)
        if directory:
            yield Cgroups([directory])
            return
    yield Family(find_processes(wanted))


def _seconds(option: str, text: str) -> float:
    """A duration with its unit, in seconds. Raises `SamepageError`."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * factor
            except ValueError:
                break
            if 0 < value < float("inf"):
                return value
            break
    raise SamepageError(f"{option} {text}: a time is a number with a unit, as 500ms, 30s or 5m")
