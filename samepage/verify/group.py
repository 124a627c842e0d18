"""One comparison from beginning to end: a group of programs, live and on the model."""

import contextlib
import enum
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from samepage.cpu.engines import DEFAULT
from samepage.errors import SamepageError
from samepage.lab.commands import Commands
from samepage.lab.keys import Key, describe_key
from samepage.lab.live_side import LiveSide
from samepage.lab.model_side import ModelSide
from samepage.lab.observation import Observation
from samepage.lab.recorded_files import place
from samepage.lab.recorded_side import RecordedSide
from samepage.lab.recording import Recording
from samepage.lab.scenario import MachineOptions, Scenario, replace
from samepage.lab.side import observe
from samepage.stop_at import StopAt
from samepage.verify.compare import Comparison, compare
from samepage.verify.difference import Difference, DifferenceKind
from samepage.verify.kernel_sums import compare_with_smaps

_SIGNALED, _NOT_STARTED = 128, 127
"""What a shell adds to a signal's number; what it, and ld.so, return for what cannot be started."""


class Outcome(enum.Enum):
    """What a comparison ended with."""

    AGREES = "agrees"
    """No difference at all, fault counts included."""
    FAULTS_DIFFER = "faults differ"
    """The same memory to the last page; the number of faults on the way to it differs."""
    DIFFERS = "differs"
    UNTRIED = "could not be tried"


@dataclass(slots=True)
class Options:
    """How a group is compared. `timeout` is in seconds, for each program on each side.

    `against_kernel` compares the kernel with itself, in a second run, and not with the
    model: what differs then is not the same twice, and no model could predict it.

    `attempts` is how many live runs there may be. The kernel's own result varies a little:
    fault-around leaves out a page that another CPU has locked just then
    (`next_uptodate_folio`), and a signal comes one instruction earlier or later. Where a
    first live run differs from the model and a further one does not, those two runs differ
    from each other. The verdict is that of the run that agrees, and records that it was not
    the first; nothing is overlooked in any run.

    `recording` takes the place of the live kernel; `recording_name` is its file's name.
    """

    env: Mapping[str, str]
    stop_at: StopAt = StopAt.EXIT
    cold: bool = False
    timeout: float = 60.0
    timeline: bool = False
    against_kernel: bool = False
    shown: int = 10
    attempts: int = 5
    recording: Recording | None = None
    recording_name: str = ""
    engine: str = DEFAULT

    def scenario(self, commands: Commands) -> Scenario:
        """What both sides run for a group."""
        return Scenario(
            commands,
            self.env,
            stop_at=self.stop_at,
            timeout=self.timeout,
            cold=self.cold,
            machine=MachineOptions(timeline=self.timeline, engine=self.engine),
        )


@dataclass(slots=True)
class Verdict:
    """The result for one group.

    `keys` names the processes that differences refer to by position. `reason` is why it
    could not be tried. `weaker` is why frames were not compared, if they were not.
    `attempt` is the number of its live run. `notes` are what else a reader must know:
    processes that could not be held, files that could not be evicted, system calls that the
    model does not have.
    """

    commands: Commands
    outcome: Outcome
    comparison: Comparison = field(default_factory=Comparison)
    keys: list[Key] = field(default_factory=list)
    reason: str = ""
    weaker: str = ""
    notes: list[str] = field(default_factory=list)
    attempt: int = 1
    seconds: float = 0.0
    ends: list[str] = field(default_factory=list)
    """How each command ended on the live side; "" for one that is held before its end."""


def verify_group(commands: Commands, options: Options) -> Verdict:
    """Run the programs live and on the model, and compare. Raises nothing for what is wrong
    with a program: that is in the verdict."""
    started = time.monotonic()
    try:
        verdict = _verify(commands, options)
    except SamepageError as error:
        verdict = Verdict(commands, Outcome.UNTRIED, reason=error.message)
    verdict.seconds = time.monotonic() - started
    return verdict


def _verify(commands: Commands, options: Options) -> Verdict:
    """The first live run that agrees with the model, else the first one of all."""
    first: Verdict | None = None
    for attempt in range(1, options.attempts + 1):
        verdict = _verify_once(commands, options)
        verdict.attempt = attempt
        if verdict.outcome is Outcome.AGREES:
            if attempt > 1:
                verdict.notes.append(
                    f"live run {attempt} agrees, run 1 did not: the kernel differs from itself"
                )
            return verdict
        first = first or verdict
        if options.against_kernel or options.recording is not None:
            break
    assert first is not None
    return first


def _verify_once(commands: Commands, options: Options) -> Verdict:
    scenario = options.scenario(commands)
    if options.recording is not None:
        return _against_recording(scenario, options.recording, options)
    kernel = observe(LiveSide(), scenario)
    other = LiveSide() if options.against_kernel else ModelSide()
    try:
        model = observe(other, replace(scenario, host=kernel.host))
    except SamepageError as error:
        side = "second run" if options.against_kernel else "model"
        raise SamepageError(f"{side}: {error.message}") from error
    return judge(commands, model, kernel, options.shown)


def _against_recording(scenario: Scenario, recording: Recording, options: Options) -> Verdict:
    with place(recording) as (root, notes):
        kernel = observe(RecordedSide(recording, root, options.recording_name), scenario)
        kernel.notes += notes
        model = observe(ModelSide(), replace(scenario, host=kernel.host))
    return judge(scenario.commands, model, kernel, options.shown)


def judge(commands: Commands, model: Observation, kernel: Observation, shown: int) -> Verdict:
    """The comparison of two observations of a group, with at most `shown` differences of each
    kind described."""
    keys = sorted(model.pids.keys() & kernel.pids.keys())
    pairs = [(model.pids[key], kernel.pids[key]) for key in keys]
    result = compare(model.snapshot, kernel.snapshot, pairs, shown=shown)
    compare_with_smaps(result, model.snapshot, pairs, kernel.smaps, shown)
    _compare_processes(result, model, kernel)
    _compare_ends(result, model, kernel)
    verdict = Verdict(commands, _outcome(result), result, keys, notes=_notes(model, kernel))
    verdict.ends = [describe_end(status) for status in kernel.statuses]
    if not kernel.snapshot.frames_visible:
        verdict.weaker = "the kernel shows no frame numbers here (root sees them)"
    return verdict


def _outcome(result: Comparison) -> Outcome:
    if result.same:
        return Outcome.AGREES
    if result.same_memory and not result.counts[DifferenceKind.END]:
        return Outcome.FAULTS_DIFFER
    return Outcome.DIFFERS


def describe_end(status: int | None) -> str:
    """How a program ended, from its exit status as a shell has it; "" if it has not ended.

    A program can exit with 139 itself: that a shell cannot distinguish either.
    """
    if status is None:
        return ""
    if status > _SIGNALED:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(status - _SIGNALED).name}"
    if status == _NOT_STARTED:
        return "exit status 127, as of a program that ld.so refuses (samepage link shows why)"
    return f"exit status {status}"


def _compare_ends(result: Comparison, model: Observation, kernel: Observation) -> None:
    """The exit statuses of all commands, if both sides ran them."""
    if not (model.was_run and kernel.was_run):
        return
    for number, (ours, theirs) in enumerate(zip(model.statuses, kernel.statuses, strict=False)):
        if ours == theirs:
            continue
        ends = (f"command {number + 1}: {describe_end(s) or 'held'}" for s in (ours, theirs))
        result.counts[DifferenceKind.END] += 1
        result.differences.insert(0, Difference(DifferenceKind.END, -1, 0, *ends))


def _compare_processes(result: Comparison, model: Observation, kernel: Observation) -> None:
    """A process that only one side has; one that the host could not hold is only noted."""
    for key in sorted(model.pids.keys() ^ kernel.pids.keys()):
        if key in kernel.lost:
            continue
        ours, theirs = (
            f"{describe_key(key)} exists" if key in side.pids else "no such process"
            for side in (model, kernel)
        )
        result.counts[DifferenceKind.PROCESS] += 1
        result.differences.insert(0, Difference(DifferenceKind.PROCESS, -1, 0, ours, theirs))


def _notes(model: Observation, kernel: Observation) -> list[str]:
    lost = [f"{describe_key(key)} is not compared: {why}" for key, why in kernel.lost.items()]
    return list(dict.fromkeys([*lost, *kernel.notes, *model.notes]))
