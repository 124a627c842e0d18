"""Do all programs of this system print on the model what they print natively?

    PYTHONPATH=. python3 corpus/sweep.py RESULTS [PROGRAM]...

Every dynamically linked program of /usr/bin (or those named) is called with `--version`, or
with `--help` if that fails, natively: without ASLR, standard input at /dev/null, an empty
directory as the current one, five seconds to live. Those that end by themselves run on the
model then, each on a machine of its own, and both sides' exit status, standard output and
standard error (many print their usage there) are compared. Where they differ, the program
runs natively once more: a program that differs from itself is reported as such.

RESULTS gets one JSON object a line, as each program is done. Programs that it has already
are not run again, so an interrupted sweep continues where it was; remove a line to repeat it.
Each machine is in a process of its own, so that even a crash of the CPU is a result.
"""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.generate import NEVER, base_programs
from samepage import Machine
from tests.kernel.programs import ENVIRONMENT

DIRECTORY = "/usr/bin"
OPTIONS = ("--version", "--help")
NATIVE_SECONDS = 5
MODEL_SECONDS = 60
CRASHED_SECONDS = 90
"""After which not even the machine's own time limit can have worked."""
WORKERS = 2
VARIES = {
    "groff": "two of its processes write to one stdout, in an order that varies",
    "pkmon": "its warnings begin with the process id and the time of day",
}
"""Programs that do not print the same twice natively, and why. They are not compared."""

Record = dict[str, Any]
"""A line of the results: program, outcome, and what belongs to that outcome."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did, as its caller sees it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def native(argv: Sequence[str], cwd: str) -> Outcome | None:
    """What the program does on this system's kernel; None if it does not end by itself."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["setarch", "-R", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=ENVIRONMENT,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=NATIVE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None
        errors.seek(0)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return Outcome(code, output, errors.read())


def on_model(argv: Sequence[str], cwd: str) -> tuple[Outcome, Record]:
    """What it does on a machine, and the messages of that machine."""
    machine = Machine("2G", timeout=MODEL_SECONDS)
    with tempfile.TemporaryFile() as errors, open(os.devnull, "rb") as null:
        guest = machine.spawn(
            argv, env=ENVIRONMENT, cwd=cwd, stdin=null.fileno(), stderr=errors.fileno()
        )
        code = machine.run(guest)
        errors.seek(0)
        outcome = Outcome(-1 if code is None else code, guest.stdout, errors.read())
    return outcome, {"unimplemented": machine.unimplemented_syscalls, "log": machine.log[-3:]}


@contextmanager
def empty_directory(base: str) -> Iterator[str]:
    """A current directory for a program, each time with the same name."""
    path = Path(base, "cwd")
    path.mkdir()
    try:
        yield str(path)
    finally:
        shutil.rmtree(path)


def difference(expected: Outcome, actual: Outcome) -> str:
    """The first line that is not the same, on both sides, or the status."""
    for stream in ("stdout", "stderr"):
        pair = [getattr(side, stream).splitlines(keepends=True) for side in (expected, actual)]
        for number, lines in enumerate(itertools.zip_longest(*pair), 1):
            left, right = (line[:200] if line else None for line in lines)
            if lines[0] != lines[1]:
                return f"{stream} line {number}: {left!r} natively, {right!r} on the model"
    return f"status: {expected.exit_code} natively, {actual.exit_code} on the model"


def compare(path: str, base: str) -> Record:
    """Run one program on both sides; `base` is a directory for what they need."""
    if os.path.basename(path) in VARIES:
        return {"outcome": "left out", "why": VARIES[os.path.basename(path)]}
    option, expected = None, None
    for candidate in OPTIONS:
        with empty_directory(base) as cwd:
            outcome = native([path, candidate], cwd)
        if outcome is not None:
            option, expected = candidate, outcome
            if outcome.exit_code == 0:
                break
    if option is None or expected is None:
        return {"outcome": "does not end natively"}
    with empty_directory(base) as cwd:
        actual, remarks = on_model([path, option], cwd)
    record: Record = {"outcome": "agrees", "option": option, **remarks}
    record["bytes"] = len(expected.stdout) + len(expected.stderr)
    if actual == expected:
        return record
    with empty_directory(base) as cwd:
        again = native([path, option], cwd)
    record["outcome"] = "differs" if again == expected else "varies natively"
    record["difference"] = difference(expected, actual)
    return record


def examine(path: str) -> Record:
    """`compare` in a process of its own, whose crash is a result."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as base:
        record = _in_child(path, base)
    return {"program": path, **record}


def _in_child(path: str, base: str) -> Record:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(CRASHED_SECONDS)
        try:
            record = compare(path, base)
        except Exception as error:
            record = {"outcome": "differs", "difference": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "w") as pipe:
            json.dump(record, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return {"outcome": "differs", "difference": f"the model died: {status}"}
    answer: Record = json.loads(text)
    return answer


def programs() -> list[str]:
    """What is swept."""
    paths = (p for p in base_programs() if os.path.dirname(p) == DIRECTORY)
    return [path for path in paths if os.path.basename(path) not in NEVER]


def summary(records: Sequence[Record]) -> str:
    """The results in words."""
    printing = sum(record.get("bytes", 0) > 0 for record in records)
    lines = [f"{len(records)} programs, {printing} of them print something"]
    lines += [
        f"{count:5} {name}" for name, count in Counter(r["outcome"] for r in records).most_common()
    ]
    for record in records:
        if "difference" in record:
            name = f"{record['program']} {record.get('option', '')}"
            lines.append(f"{name} {record['outcome']}: {record['difference']}")
        elif record["outcome"] == "left out":
            lines.append(f"{record['program']} left out: {record['why']}")
    calls: Counter[str] = Counter()
    example: dict[str, str] = {}
    for record in records:
        for call, count in record.get("unimplemented", {}).items():
            calls[call] += count
            example.setdefault(call, record["program"])
    lines.append(f"{len(calls)} system calls are not there:" if calls else "no call is missing")
    lines += [f"{count:5} {call}, as of {example[call]}" for call, count in calls.most_common()]
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit((__doc__ or "").splitlines()[2].strip())
    results, wanted = Path(sys.argv[1]), sys.argv[2:] or programs()
    known = results.read_text().splitlines() if results.exists() else []
    records = {record["program"]: record for record in map(json.loads, known)}
    todo = [path for path in wanted if path not in records]
    with results.open("a") as file, multiprocessing.Pool(WORKERS) as pool:
        for record in pool.imap_unordered(examine, todo):
            records[record["program"]] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
    print(summary([records[path] for path in wanted]))


if __name__ == "__main__":
    main()
