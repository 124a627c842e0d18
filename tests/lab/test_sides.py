"""The model's side and the live kernel's side do the same for whoever holds a program."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage.errors import SamepageError
from samepage.lab.environment import ENVIRONMENT
from samepage.lab.live_side import LiveSide
from samepage.lab.model_side import ModelSide
from samepage.lab.scenario import MachineOptions, Scenario, replace
from samepage.lab.side import HoldingSide, observe
from samepage.live.cached_frames import why_no_frames
from samepage.stop_at import StopAt
from samepage.verify.group import Options, Outcome, judge, verify_group

TIMELINE = MachineOptions(ram="256M", timeline=True)


def _why_not() -> str:
    try:
        observe(LiveSide(), Scenario([["true"]], ENVIRONMENT, timeout=20))
    except (SamepageError, OSError) as error:
        return f"programs cannot be observed here: {error}"
    return why_no_frames()


WHY_NOT = _why_not()
needs_live = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
SIDES = [
    pytest.param(ModelSide, id="model"),
    pytest.param(LiveSide, id="live", marks=needs_live),
]
MakeSide = Callable[[], HoldingSide]


@pytest.mark.parametrize("make", SIDES)
@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 3", 3), ("kill -SEGV $$", 139), ("/usr/bin/true; exit 4", 4)],
)
def test_the_exit_status_is_what_a_shell_reports(make: MakeSide, script: str, status: int) -> None:
    with make() as side:
        side.prepare(Scenario([["dash", "-c", script]], ENVIRONMENT, machine=TIMELINE))
        assert side.run(["dash", "-c", script]) == status


@pytest.mark.parametrize("make", SIDES)
def test_a_held_program_has_no_status_and_a_missing_one_is_an_error(make: MakeSide) -> None:
    with make() as side:
        side.prepare(Scenario([["true"]], ENVIRONMENT, stop_at=StopAt.ENTRY, machine=TIMELINE))
        assert side.run(["true"]) is None
        with pytest.raises(SamepageError, match="/no/such"):
            side.run(["/no/such"])


@pytest.mark.parametrize("make", SIDES)
def test_a_program_that_ends_before_an_instant_is_named(make: MakeSide) -> None:
    with make() as side:
        side.prepare(Scenario([["true"]], ENVIRONMENT, machine=TIMELINE))
        with pytest.raises(SamepageError, match="has ended"):
            side.start(["true"]).run_until_mapped("/no/such/library.so")


@pytest.mark.parametrize("make", SIDES)
def test_a_scenario_that_is_run_again_gives_the_same_memory(make: MakeSide) -> None:
    scenario = Scenario([["true"], ["dash", "-c", "ls / | sort"]], ENVIRONMENT)
    first = observe(make(), scenario)
    again = observe(make(), replace(scenario, host=first.host))
    assert sorted(first.pids) == [(0,), (1,), (1, 0), (1, 1)]
    assert judge(scenario.commands, first, again, 3).outcome is Outcome.AGREES


@needs_live
@pytest.mark.parametrize("stop_at", StopAt)
def test_both_sides_stop_at_the_same_instant(stop_at: StopAt) -> None:
    commands = [["cat", "/dev/null"], ["dash", "-c", "exit 0"]]
    options = Options(ENVIRONMENT, stop_at=stop_at, timeline=True)
    assert verify_group(commands, options).outcome is Outcome.AGREES


MAIN = """
#include <stdio.h>
static int constructed;
__attribute__((constructor)) static void construct(void) { constructed = 1; }
int main(void) { return constructed - 1; }
"""


@needs_live
@pytest.mark.parametrize("options", [["-no-pie"], ["-pie"], ["-static"]], ids=str)
def test_main_is_where_the_symbol_table_has_it(options: list[str], tmp_path: Path) -> None:
    if not (shutil.which("gcc") and shutil.which("nm")):
        pytest.skip("needs gcc and nm")
    source, program = tmp_path / "main.c", str(tmp_path / "main")
    source.write_text(MAIN)
    if subprocess.run(["gcc", "-O1", *options, "-o", program, source], check=False).returncode:
        pytest.skip(f"gcc cannot link with {options[0]} here")
    symbols = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    (main,) = [
        int(line.split()[0], 16) for line in symbols.splitlines() if line.endswith(" T main")
    ]
    pcs = set()
    with LiveSide() as live, ModelSide() as model:
        for side in (live, model):
            side.prepare(Scenario([[program]], ENVIRONMENT, stop_at=StopAt.MAIN))
            held = side.start([program])
            base = held.segments(os.path.realpath(program))[0].start if main < 0x400000 else 0
            held.run_to(StopAt.MAIN)
            pcs.add(held.pc - base)
    assert pcs == {main}
