"""`samepage verify`: the model against the live kernel, page by page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from samepage import records
from samepage.cli.arguments import (
    Parser,
    add_engine,
    add_output,
    add_programs,
    number,
    variables,
)
from samepage.cli.blas import use_one_thread
from samepage.cli.processor import need_models_processor
from samepage.errors import SamepageError
from samepage.lab.commands import join_commands, split_commands
from samepage.report.forms import JSON, TEXT, TEXT_OR_JSON, choose, writing

if TYPE_CHECKING:
    from samepage.lab.commands import Commands
    from samepage.lab.observation import Observation
    from samepage.verify import group
    from samepage.verify.record import Record

AGREES, DIFFERS, UNTRIED = 0, 1, 2
_SAVE_EVERY = 10


USAGE = "[OPTION]... [PROGRAM [ARG]... [::: PROGRAM [ARG]...]...]"


def arguments(parser: Parser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add_programs(parser, required=False)
    add("--corpus", metavar="FILE", help="Compare every line of a file, and print a summary.")
    add(
        "--state",
        metavar="FILE",
        help="Keep the corpus's results here; what is there already is not run again.",
    )
    add("--jobs", type=number(int, 1, 64), default=1, metavar="N", help="Corpus lines at a time.")
    add_output(parser, TEXT_OR_JSON)
    add(
        "--stop",
        choices=("entry", "main", "exit"),
        default="exit",
        help="The instant: the program's first instruction, main's, or its end "
        "(default: %(default)s).",
    )
    add("--cold", action="store_true", help="Evict the programs' files first, where possible.")
    add(
        "--timeout",
        type=number(float, 0.1),
        default=60.0,
        metavar="SECONDS",
        help="For each (default: %(default)s).",
    )
    add(
        "--attempts",
        type=number(int, 1, 100),
        default=5,
        metavar="N",
        help="Live runs at most; the kernel's own result varies with what other CPUs do "
        "(default: %(default)s).",
    )
    add(
        "--shown",
        type=number(int, 1),
        default=5,
        metavar="N",
        help="Differences printed of each kind (default: %(default)s).",
    )
    add(
        "--why",
        action="store_true",
        help="Compare causes: which function copied which page, live and on the model (root).",
    )
    add(
        "--against-kernel",
        action="store_true",
        help="Compare two live runs: what differs there, no model can predict.",
    )
    add(
        "--record",
        metavar="FILE",
        help="Compare nothing: keep in FILE what the live kernel has in memory (root).",
    )
    add(
        "--with-files",
        choices=("none", "programs", "all"),
        default="none",
        help="With --record: the contents of which mapped files to keep as well, for machines "
        "that do not have the same ones (default: %(default)s).",
    )
    add(
        "--against",
        metavar="FILE",
        help="Compare the model with the recording FILE instead of this kernel: on any "
        "machine, and without root.",
    )
    add_engine(parser)
    add(
        "--env",
        action="append",
        default=[],
        dest="extra",
        metavar="NAME=VALUE",
        help="Add to the fixed environment.",
    )


@records.record(frozen=True)
class Options:
    """The command line; what each option means is in its help text."""

    words: list[str]
    corpus: str | None
    state: str | None
    jobs: int
    output: str | None
    form: str | None
    stop: str
    cold: bool
    timeout: float
    attempts: int
    shown: int
    why: bool
    against_kernel: bool
    record: str | None
    with_files: str
    against: str | None
    engine: str
    extra: list[str]


def command(options: Options) -> int:
    """Run programs live and on the model, and compare their memory page by page.

    Exit status: 0 if all agrees, 1 if not, 2 if it could not be tried. Options come before
    the first program. Programs run in the directory /, with a fixed environment; a recording
    has its own programs, environment and instant.

        samepage verify true ::: uname -a
        samepage verify --record here.recording true ::: uname -a
        samepage verify --against here.recording
    """
    need_models_processor("verify")
    choose(options.output, options.form, TEXT_OR_JSON)  # no run is for nothing
    use_one_thread()
    from samepage.verify.corpus import read_corpus

    sources = (options.words, options.corpus, options.against)
    if sum(map(bool, sources)) != 1 or (options.against and options.record):
        raise SamepageError("give programs to compare, or --corpus FILE, or --against FILE")
    if options.against:
        groups, how = _recorded(options)
        return _compare(groups, how, options)
    groups = read_corpus(options.corpus) if options.corpus else [_found(options.words)]
    if options.record:
        return _record(groups, options)
    if options.why:
        return _compare_causes(groups, options)
    return _compare(groups, _how(options), options)


def _compare_causes(groups: Sequence[Commands], options: Options) -> int:
    """Print for each program whether the same functions copied the same pages."""
    from samepage.lab.environment import ENVIRONMENT
    from samepage.verify.why import verify_causes

    status = AGREES
    env = {**ENVIRONMENT, **variables(options.extra)}
    with writing(options.output, choose(options.output, options.form, (TEXT,))) as stream:
        for argv in (argv for commands in groups for argv in commands):
            found = verify_causes(argv, env, timeout=options.timeout, attempts=options.attempts)
            verdict = "differs" if found.differences else "agrees"
            print(
                f"{verdict}: {join_commands([argv])}: who copied {found.copies} pages of "
                f"{found.processes} processes (live runs: {found.attempts})",
                file=stream,
            )
            for line in found.differences[: options.shown]:
                print(f"    {line}", file=stream)
            if found.differences:
                status = DIFFERS
    return status


def _found(words: Sequence[str]) -> Commands:
    """The programs of the command line. They run in the directory /, so that one that is given
    by a path from here gets its whole path. Raises `SamepageError` for one that is not there.
    """
    commands = split_commands(words)
    for argv in commands:
        if "/" in argv[0]:
            argv[0] = os.path.abspath(argv[0])
            if not os.path.exists(argv[0]):
                raise SamepageError(f"{argv[0]}: No such file or directory")
    return commands


def _how(options: Options) -> group.Options:
    """How groups are compared."""
    from samepage.cpu.engines import hidden_features
    from samepage.lab.environment import environment
    from samepage.stop_at import StopAt
    from samepage.verify import group

    return group.Options(
        {**environment(hidden_features(options.engine)), **variables(options.extra)},
        StopAt(options.stop),
        cold=options.cold,
        timeout=options.timeout,
        timeline=True,
        against_kernel=options.against_kernel,
        shown=options.shown,
        attempts=options.attempts,
        engine=options.engine,
    )


def _recorded(options: Options) -> tuple[list[Commands], group.Options]:
    """The groups of a recording, and how they are compared with it."""
    from samepage.lab.recording import read_recording

    assert options.against is not None
    recording, how = read_recording(options.against), _how(options)
    scenario = recording.scenario
    how.env, how.stop_at, how.cold = scenario.env, scenario.stop_at, scenario.cold
    how.recording, how.recording_name = recording, options.against
    return [commands for commands, _ in recording.groups], how


def _record(groups: Sequence[Commands], options: Options) -> int:
    from samepage.lab.recorded_files import Keep
    from samepage.lab.recording import encode
    from samepage.report.output import replacing
    from samepage.verify import truth

    def on_result(commands: Commands, seen: Observation) -> None:
        print(f"recorded: {join_commands(commands)}: {len(seen.pids)} processes", flush=True)

    keep = Keep(options.with_files)
    recording = truth.record(groups, _how(options), keep=keep, on_result=on_result)
    assert options.record is not None
    with replacing(options.record) as stream:
        stream.buffer.write(encode(recording))
    return AGREES


def _compare(groups: Sequence[Commands], how: group.Options, options: Options) -> int:
    if len(groups) == 1 and not options.corpus:
        results = [_one(groups[0], how)]
    else:
        results = _run(groups, how, options.jobs, options.state)
    many = bool(options.corpus) or len(groups) > 1
    chosen = choose(options.output, options.form, TEXT_OR_JSON)
    with writing(options.output, chosen) as stream:
        if chosen is JSON:
            json.dump({"results": results}, stream, indent=2)
            stream.write("\n")
        else:
            _print(results, stream, shown=options.shown, summary=many)
    return _status(results)


def _one(commands: Commands, options: group.Options) -> Record:
    from samepage.verify.group import verify_group
    from samepage.verify.record import to_record

    return to_record(verify_group(commands, options))


def _run(
    groups: Sequence[Commands], options: group.Options, jobs: int, state: str | None
) -> list[Record]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from samepage.verify.corpus import run_corpus
    from samepage.verify.group import Outcome

    known = _load(state)
    done = dict(known)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("comparing", total=len(groups))

        def on_result(record: Record) -> None:
            progress.advance(task)
            line = join_commands(record["commands"])
            if record["outcome"] != Outcome.AGREES.value and line not in known:
                progress.console.print(f"{record['outcome']}: {line}", markup=False)
            if line not in done:
                done[line] = record
                if len(done) % _SAVE_EVERY == 0:
                    _save(state, done)

        try:
            return run_corpus(groups, options, jobs=jobs, known=known, on_result=on_result)
        finally:
            _save(state, done)


def _load(state: str | None) -> dict[str, Record]:
    if state is None or not os.path.exists(state):
        return {}
    try:
        with open(state, encoding="utf-8") as file:
            content = json.load(file)
        return dict(content["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SamepageError(f"{state}: not a state file of samepage verify: {error}") from error


def _save(state: str | None, done: dict[str, Record]) -> None:
    from samepage.report.output import replacing

    if state is not None:
        with replacing(state) as stream:
            json.dump({"results": done}, stream)


def _print(records: list[Record], stream: TextIO, *, shown: int, summary: bool) -> None:
    from samepage.verify.group import Outcome
    from samepage.verify.lines import excluded_lines, record_lines, summary_lines

    for record in records:
        if not summary or record["outcome"] != Outcome.AGREES.value:
            for line in record_lines(record, shown):
                print(line, file=stream)
    for line in excluded_lines(records):
        print(line, file=stream)
    if summary:
        for line in summary_lines(records):
            print(line, file=stream)


def _status(records: list[Record]) -> int:
    from samepage.verify.group import Outcome

    outcomes = {record["outcome"] for record in records}
    if outcomes & {Outcome.DIFFERS.value, Outcome.FAULTS_DIFFER.value}:
        return DIFFERS
    return UNTRIED if Outcome.UNTRIED.value in outcomes else AGREES
