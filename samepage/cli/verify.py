"""`samepage verify`: the model against the live kernel, page by page."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from samepage.cli.arguments import Parser, add_output, add_programs, number
from samepage.cli.blas import use_one_thread
from samepage.cli.processor import need_models_processor
from samepage.errors import SamepageError
from samepage.lab.commands import join_commands, split_commands
from samepage.report.forms import JSON, TEXT_OR_JSON, choose, writing

if TYPE_CHECKING:
    from samepage.lab.commands import Commands
    from samepage.verify.group import Options
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
        help="Differences told of each kind (default: %(default)s).",
    )
    add(
        "--against-kernel",
        action="store_true",
        help="Compare two live runs: what differs there, no model can predict.",
    )
    add(
        "--env",
        action="append",
        default=[],
        dest="extra",
        metavar="NAME=VALUE",
        help="Add to the fixed environment.",
    )


def command(
    words: list[str],
    corpus: str | None,
    state: str | None,
    jobs: int,
    output: str | None,
    form: str | None,
    stop: str,
    cold: bool,
    timeout: float,
    attempts: int,
    shown: int,
    against_kernel: bool,
    extra: list[str],
) -> int:
    """Run programs live and on the model, and compare their memory page by page.

    Exit status: 0 if all agrees, 1 if not, 2 if it could not be tried. Options come before
    the first program.
    """
    need_models_processor("verify")
    chosen = choose(output, form, TEXT_OR_JSON)
    use_one_thread()
    from samepage.lab.environment import ENVIRONMENT
    from samepage.stop_at import StopAt
    from samepage.verify.corpus import read_corpus
    from samepage.verify.group import Options

    if bool(words) == bool(corpus):
        raise SamepageError("give programs to compare, or --corpus FILE")
    options = Options(
        {**ENVIRONMENT, **_variables(extra)},
        StopAt(stop),
        cold=cold,
        timeout=timeout,
        timeline=True,
        against_kernel=against_kernel,
        shown=shown,
        attempts=attempts,
    )
    if corpus:
        records = _run(read_corpus(corpus), options, jobs, state)
    else:
        records = [_one(split_commands(words), options)]
    with writing(output, chosen) as stream:
        if chosen is JSON:
            json.dump({"results": records}, stream, indent=2)
            stream.write("\n")
        else:
            _print(records, stream, shown=shown, summary=bool(corpus))
    return _status(records)


def _variables(extra: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in extra]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise SamepageError(f"--env {name}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _one(commands: "Commands", options: "Options") -> "Record":
    from samepage.verify.group import verify_group
    from samepage.verify.record import to_record

    return to_record(verify_group(commands, options))


def _run(
    groups: "Sequence[Commands]", options: "Options", jobs: int, state: str | None
) -> "list[Record]":
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

        def on_result(record: "Record") -> None:
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


def _load(state: str | None) -> "dict[str, Record]":
    if state is None or not os.path.exists(state):
        return {}
    try:
        with open(state, encoding="utf-8") as file:
            content = json.load(file)
        return dict(content["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SamepageError(f"{state}: not a state file of samepage verify: {error}") from error


def _save(state: str | None, done: "dict[str, Record]") -> None:
    from samepage.report.output import replacing

    if state is not None:
        with replacing(state) as stream:
            json.dump({"results": done}, stream)


def _print(records: "list[Record]", stream: TextIO, *, shown: int, summary: bool) -> None:
    from samepage.verify.group import Outcome
    from samepage.verify.lines import tell_excluded, tell_record, tell_summary

    for record in records:
        if not summary or record["outcome"] != Outcome.AGREES.value:
            for line in tell_record(record, shown):
                print(line, file=stream)
    for line in tell_excluded(records):
        print(line, file=stream)
    if summary:
        for line in tell_summary(records):
            print(line, file=stream)


def _status(records: "list[Record]") -> int:
    from samepage.verify.group import Outcome

    outcomes = {record["outcome"] for record in records}
    if outcomes & {Outcome.DIFFERS.value, Outcome.FAULTS_DIFFER.value}:
        return DIFFERS
    return UNTRIED if Outcome.UNTRIED.value in outcomes else AGREES
