"""Live causes against the model's: the same pages copied, by the same functions.

A program runs under the live kernel's events, and on the model. Processes correspond in the order
of their creation. Of each, every page that was copied (after a fork, or from a file) must have
been copied by the same function on both sides. Pages of files are compared by file and page,
others by their address (both sides place memory in one way, without randomization); the stack is
left out, where the bytes of the environment and the kernel's random ones lie.
"""

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from samepage.abi.prctl import ADDR_NO_RANDOMIZE
from samepage.lab.environment import find_program
from samepage.lab.follow import follow
from samepage.lab.model_side import ModelSide
from samepage.lab.model_writes import ModelWrites
from samepage.lab.scenario import MachineOptions, Scenario
from samepage.lab.targets import Command
from samepage.snapshot.writes import WriteTable
from samepage.trace.launch import STACK_LIMIT

Copies = dict[tuple[str, int], str]
"""By memory (file and page of it, or "" and the virtual page): who copied it first."""


@dataclass(slots=True)
class CausesCompared:
    """`copies`: copied pages that agree; `differences`: a line for each that does not;
    `attempts`: live runs."""

    copies: int = 0
    processes: int = 0
    attempts: int = 1
    differences: list[str] = field(default_factory=list)


def verify_causes(
    argv: Sequence[str], env: Mapping[str, str], *, timeout: float, attempts: int
) -> CausesCompared:
    """Run a program on both sides until they agree, at most `attempts` times: which of two
    processes writes first to a page depends on when the live kernel switches between them. Returns
    the comparison with fewest differences. Raises `SamepageError`."""
    best: CausesCompared | None = None
    for attempt in range(1, attempts + 1):
        found = compare_causes(argv, env, timeout=timeout)
        found.attempts = attempt
        if best is None or len(found.differences) < len(best.differences):
            best = found
        if not best.differences:
            break
    assert best is not None, "at least one attempt"
    return best


def compare_causes(
    argv: Sequence[str], env: Mapping[str, str], *, timeout: float
) -> CausesCompared:
    """Run a program once on both sides, and compare who copied what. Raises `SamepageError`."""
    command = [find_program(argv[0]), *argv[1:]]
    with _repeatable():
        target = Command(command, env)
    try:
        live = follow(target, timeout)
    finally:
        target.end()
    side = ModelSide(whole_trees=False)
    side.prepare(
        Scenario([argv], env, timeout=timeout, machine=MachineOptions(timeline=True), cwd=None)
    )
    recorder = ModelWrites(side.machine)
    side.run(argv)
    return _compare(_by_process(live.writes), _by_process(recorder.table()))


def _compare(live: list[Copies], model: list[Copies]) -> CausesCompared:
    found = CausesCompared(processes=len(live))
    if len(live) != len(model):
        found.differences.append(f"{len(live)} processes write live, {len(model)} on the model")
    for number, (theirs, ours) in enumerate(zip(live, model, strict=False)):
        for place in sorted({*theirs, *ours}):
            one, other = theirs.get(place), ours.get(place)
            if one == other:
                found.copies += 1
                continue
            name, page = place
            found.differences.append(
                f"process {number + 1}, {name or 'address'} page {page:#x}: live "
                f"{one or 'not copied'}, model {other or 'not copied'}"
            )
    return found


def _by_process(writes: WriteTable) -> list[Copies]:
    found: dict[int, Copies] = {}
    for row in np.flatnonzero(writes.copies).tolist():
        area = writes.areas[writes.area[row]]
        if area.name == "[stack]":
            continue
        file_page = int(writes.file_page[row])
        place = (area.name, file_page) if file_page >= 0 else ("", int(writes.page[row]))
        function = writes.functions[writes.function[row]]
        copies = found.setdefault(int(writes.pid[row]), {})
        copies.setdefault(place, f"{function} ({function.file or 'no file'})")
    return [found[pid] for pid in sorted(found)]


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """What is started inside gets the layout that the model computes, and runs as its processes do:
    on one CPU, which none loses before it waits (SCHED_FIFO). The order in which a parent and its
    child write decides which of them copies, and one that loses the CPU writes to its rseq area."""
    cpus = os.sched_getaffinity(0)
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setaffinity(0, {max(cpus)})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    libc = ctypes.CDLL(None)
    before = libc.personality(ctypes.c_ulong(0xFFFF_FFFF))
    limits = resource.getrlimit(resource.RLIMIT_STACK)
    libc.personality(ctypes.c_ulong(before | ADDR_NO_RANDOMIZE))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_LIMIT, limits[1]))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, policy, priority)
        os.sched_setaffinity(0, cpus)
        libc.personality(ctypes.c_ulong(before))
        resource.setrlimit(resource.RLIMIT_STACK, limits)
