"""Every dynamically linked program of a directory: our linker against glibc's ld.so.

    python -m benchmarks.linker_corpus [--output FILE] [--directory /usr/bin]

For each program, ld.so runs under ptrace up to the program's entry point, once with
LD_BIND_NOW=1 and once lazily, and is compared with ours (see `samepage.verify.linking`).
Each result is appended to FILE (JSON lines) when it is known, so that an interrupted run
continues where it stopped. Programs that are one file under several names run once. At the
end comes a summary; the exit status is 1 if any program differs.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.verify.linking import compare


def programs(directory: str) -> list[str]:
    """The dynamically linked programs of a directory, one path for each file."""
    found: dict[str, str] = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        real = os.path.realpath(path)
        try:
            if DynamicObject.open(real).interpreter:
                found.setdefault(real, path)
        except (OSError, ElfError):
            continue
    return list(found.values())


def measure(path: str) -> dict[str, Any]:
    """Compare one program in both modes; a record for the output file."""
    record: dict[str, Any] = {"path": path}
    for bind_now in (True, False):
        mode = "now" if bind_now else "lazy"
        try:
            result = compare(path, bind_now=bind_now)
        except SamepageError as error:
            record[mode] = {"error": error.message}
            continue
        record[mode] = {
            "agrees": result.agrees,
            "objects": result.objects,
            "bindings": result.bindings,
            "bytes": result.bytes_compared,
            "rules": {rule.name: count for rule, count in result.by_rule.items()},
            "order": result.order_differences[:5],
            "binding_differences": result.binding_differences[:20],
            "unexplained": len(result.unexplained),
            "words": [
                [word.object, hex(word.offset), hex(word.theirs), hex(word.ours)]
                for word in result.unexplained[:20]
            ],
        }
    return record


def summary(records: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """The lines of the summary, and whether all programs agree."""
    modes = [record[mode] for record in records for mode in ("now", "lazy")]
    good = [mode for mode in modes if "error" not in mode]
    rules: Counter[str] = Counter()
    for mode in good:
        rules.update(mode["rules"])
    clean = sum(
        all(record[mode].get("agrees", False) for mode in ("now", "lazy")) for record in records
    )
    lines = [
        f"programs                      {len(records)}",
        f"same objects and order        {sum(not mode['order'] for mode in good)} of {len(modes)}",
        f"same bindings                 "
        f"{sum(not mode['binding_differences'] for mode in good)} of {len(modes)}",
        f"no unexplained byte           {sum(not m['unexplained'] for m in good)} of {len(modes)}",
        f"programs that agree in all    {clean}",
        f"objects, bindings, bytes      {sum(mode['objects'] for mode in good):,} "
        f"{sum(mode['bindings'] for mode in good):,} {sum(mode['bytes'] for mode in good):,}",
        *(f"words by rule {rule:15} {count:,}" for rule, count in sorted(rules.items())),
    ]
    for record in records:
        for mode in ("now", "lazy"):
            if not record[mode].get("agrees", False):
                lines.append(f"differs: {record['path']} ({mode}): {json.dumps(record[mode])}")
    return lines, clean == len(records)


def command() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", default="/usr/bin")
    parser.add_argument("--output", default="linker-corpus.jsonl")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one program")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    done: dict[str, dict[str, Any]] = {}
    if os.path.exists(options.output):
        with open(options.output, encoding="utf-8") as file:
            done = {record["path"]: record for record in map(json.loads, file)}
    paths = programs(options.directory)
    for number, path in enumerate(paths, 1):
        if path in done:
            continue
        record = _in_a_process(path, options.timeout)
        done[path] = record
        with open(options.output, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if sys.stderr.isatty():
            print(f"\r{number} of {len(paths)}", end="", file=sys.stderr)
    lines, agree = summary([done[path] for path in paths])
    print("\n".join(lines))
    return 0 if agree else 1


def _in_a_process(path: str, timeout: float) -> dict[str, Any]:
    """Each program in its own process: a crash or a hang is that program's result."""
    command = [sys.executable, "-m", "benchmarks.linker_corpus", "--one", path]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        failure = {"error": f"no result in {timeout} seconds"}
    else:
        if result.returncode == 0:
            record: dict[str, Any] = json.loads(result.stdout)
            return record
        failure = {"error": (result.stderr.strip().splitlines() or ["killed"])[-1]}
    return {"path": path, "now": failure, "lazy": failure}


if __name__ == "__main__":
    sys.exit(command())
