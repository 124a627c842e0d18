"""Many groups of programs, one after the other or a few at a time.

Each group is compared in a process of its own, forked from this one: whatever a program or
its emulation does to that process (a crash inside the CPU's library, memory without end),
the run continues. A worker that dies takes its traced programs with it (PTRACE_O_EXITKILL).

A run can be broken off and taken up again: results are kept by the text of their lines.
"""

import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

from samepage.errors import SamepageError
from samepage.lab.commands import Commands, join_commands, split_commands
from samepage.trace.reap import die_with_parent
from samepage.verify.group import Options, Outcome, Verdict, verify_group
from samepage.verify.record import Record, to_record

_GRACE = 30.0
"""Seconds that a worker may take beyond what its programs may."""


def read_corpus(path: str) -> list[Commands]:
    """The groups of a corpus file: one a line, split as a shell splits words, without
    expansion; lines that start with `#` and empty ones are passed over.

    Raises `SamepageError` with file and line number.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SamepageError(f"cannot read {path}: {error}") from error
    groups: list[Commands] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            groups.append(split_commands(shlex.split(line)))
        except (ValueError, SamepageError) as error:
            raise SamepageError(f"{path}, line {number}: {error}") from error
    return groups


@dataclass(slots=True)
class _Worker:
    process: ForkProcess
    pipe: Connection
    commands: Commands
    deadline: float


def run_corpus(
    groups: Sequence[Commands],
    options: Options,
    *,
    jobs: int = 1,
    known: Mapping[str, Record] | None = None,
    on_result: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Compare every group, `jobs` at a time; records in the order of `groups`.

    Groups whose line is in `known` are not run again. `on_result` is called as each one
    ends, also for known ones.
    """
    records: dict[str, Record] = {}
    todo: list[Commands] = []
    for commands in groups:
        record = (known or {}).get(join_commands(commands))
        if record is None:
            todo.append(commands)
        else:
            records[join_commands(commands)] = record
            on_result(record)
    for commands, record in _run_all(todo, options, jobs):
        records[join_commands(commands)] = record
        on_result(record)
    return [records[join_commands(commands)] for commands in groups]


def _run_all(
    todo: Sequence[Commands], options: Options, jobs: int
) -> Iterator[tuple[Commands, Record]]:
    waiting = list(reversed(todo))
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(), options))
            multiprocessing.connection.wait([worker.pipe for worker in running], timeout=1.0)
            for worker in list(running):
                record = _collect(worker)
                if record is not None:
                    running.remove(worker)
                    yield worker.commands, record
    finally:
        for worker in running:
            _end(worker)


def _start(commands: Commands, options: Options) -> _Worker:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_work, args=(commands, options, theirs))
    process.start()
    theirs.close()
    allowed = 3 * options.timeout * len(commands) * options.attempts + _GRACE
    return _Worker(process, ours, commands, time.monotonic() + allowed)


def _work(commands: Commands, options: Options, pipe: Connection) -> None:
    """In the worker: Ctrl-C is for the parent, which ends us, as its death does."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    pipe.send(to_record(verify_group(commands, options)))


def _collect(worker: _Worker) -> Record | None:
    """The worker's record if it has ended or must be, else None."""
    reason = ""
    if worker.pipe.poll():
        try:
            record: Record = worker.pipe.recv()
        except EOFError:
            worker.process.join(5)
            reason = f"the comparison itself failed (status {worker.process.exitcode})"
        else:
            _end(worker)
            return record
    elif time.monotonic() > worker.deadline:
        reason = "the comparison did not end in time"
    if not reason:
        return None
    _end(worker)
    return to_record(Verdict(worker.commands, Outcome.UNTRIED, reason=reason))


def _end(worker: _Worker) -> None:
    worker.process.join(0.2)
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()
    worker.pipe.close()
