"""Recording the truth: live runs of some groups, each one seen twice.

The kernel's own result varies a little (`group.Options.attempts` explains why). A recording is
compared with for years, so a group is run until two of its runs agree in every respect, and
what they agree in is recorded. The model has no part in it.
"""

from collections.abc import Callable, Sequence

from samepage.errors import SamepageError
from samepage.lab.commands import Commands, join_commands
from samepage.lab.host_state import this_cpu
from samepage.lab.live_side import LiveSide
from samepage.lab.observation import Observation
from samepage.lab.recorded_files import Keep, identify
from samepage.lab.recorded_memory import pack
from samepage.lab.recording import Recording
from samepage.lab.scenario import Scenario, replace
from samepage.lab.side import observe
from samepage.machine.host import this_host
from samepage.verify.group import Options, Outcome, judge


def record(
    groups: Sequence[Commands],
    options: Options,
    *,
    keep: Keep,
    on_result: Callable[[Commands, Observation], None] = lambda commands, seen: None,
) -> Recording:
    """Run every group live, and return what the kernel had in memory for them.

    `keep` selects the mapped files whose contents the recording has too. `on_result` is called
    as each group is recorded. Raises `SamepageError` if a group cannot be run, if no two
    of its runs agree, or if the kernel shows no frame numbers.
    """
    recording = Recording(this_host(), this_cpu(), options.scenario([]))
    for commands in groups:
        if any(known == commands for known, _ in recording.groups):
            raise SamepageError(f"{join_commands(commands)}: recorded twice")
        seen = _see_twice(replace(recording.scenario, commands=commands), options.attempts)
        recording.groups.append((commands, pack(seen, recording)))
        identify(recording, commands, keep)
        on_result(commands, seen)
    return recording


def _see_twice(scenario: Scenario, attempts: int) -> Observation:
    runs: list[Observation] = []
    for _ in range(max(attempts, 2)):
        run = observe(LiveSide(), scenario)
        if not run.snapshot.frames_visible:
            raise SamepageError("only who sees frame numbers can record: root (CAP_SYS_ADMIN)")
        for earlier in runs:
            if judge(scenario.commands, earlier, run, 0).outcome is Outcome.AGREES:
                return run
        runs.append(run)
    name = join_commands(scenario.commands)
    raise SamepageError(f"{name}: no two of {len(runs)} live runs are the same")
