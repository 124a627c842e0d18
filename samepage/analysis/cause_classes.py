"""Causes of writes that have a name and a remedy, by the function that writes.

Each runtime is one small file of `runtimes/`: classes with the files and the functions that
belong to them, as regular expressions that must match as a whole, the first class that matches
counting. What belongs to none is the program's own.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from samepage.snapshot.writes import KERNEL, Function


@dataclass(frozen=True, slots=True)
class CauseClass:
    """A class of writers. `id` is RUNTIME.NAME; `remedy` is what removes the cause, or ""."""

    id: str
    title: str
    remedy: str = ""


KERNEL_WRITES = CauseClass("kernel", "kernel: buffers of system calls")
OWN = "own"


@dataclass(frozen=True, slots=True)
class _Rule:
    found: CauseClass
    file: re.Pattern[str]
    functions: re.Pattern[str]


def classify(function: Function) -> CauseClass:
    """The class of a writer; for what no runtime claims, one class per file."""
    if function == KERNEL:
        return KERNEL_WRITES
    for rule in _rules():
        if rule.file.search(function.file) and rule.functions.fullmatch(function.name):
            return rule.found
    place = function.file.rpartition("/")[2] or "code without a file (a JIT?)"
    return CauseClass(f"{OWN}.{place}", f"{place}: its own data")


def classes_of(functions: Sequence[Function]) -> tuple[list[CauseClass], list[int]]:
    """The classes of some functions, each once, and the number of each function's class."""
    known: dict[CauseClass, int] = {}
    numbers = [known.setdefault(classify(function), len(known)) for function in functions]
    return list(known), numbers


@cache
def _rules() -> list[_Rule]:
    rules = []
    directory = resources.files("samepage.analysis") / "runtimes"
    for entry in sorted(directory.iterdir(), key=lambda item: item.name):
        if not entry.name.endswith(".toml"):
            continue
        for item in tomllib.loads(entry.read_text(encoding="utf-8"))["cause"]:
            name = f"{entry.name.removesuffix('.toml')}.{item['id']}"
            rules.append(
                _Rule(
                    CauseClass(name, item["title"], item["remedy"]),
                    re.compile(item["file"]),
                    re.compile(item["functions"].replace("\n", "")),
                )
            )
    return rules
