"""A program on the model has the scheduling priority that it would have natively."""

import subprocess
import sys

import pytest

SHOW = "nice; cut -d' ' -f18,19,40,41 /proc/self/stat; nice -n 3 cut -d' ' -f18,19 /proc/self/stat"


@pytest.mark.parametrize("nice", [0, 7, 18])
def test_the_nice_value_is_inherited_from_whoever_runs_the_machine(nice: int) -> None:
    native = ["nice", "-n", str(nice), "sh", "-c", SHOW]
    model = ["nice", "-n", str(nice), sys.executable, "-m", "samepage", "run", "-q"]
    answers = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (native, [*model, "sh", "-c", SHOW])
    ]
    assert answers[0]
    assert answers[0] == answers[1]
