"""`samepage why --model`: causes from the model's kernel, whose pages can be counted by hand."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_why_targets import of_function
from tests.cli.watching import WHY

SOURCE = Path(__file__).parents[1] / "verify" / "why_programs" / "fork.c"


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_model_names_who_copied(tmp_path: Path) -> None:
    program = tmp_path / "fork"
    subprocess.run(["gcc", "-O1", "-o", program, SOURCE], check=True)
    output = tmp_path / "why.json"
    run = subprocess.run(
        [*WHY, "--model", "--what-if", "alpha", "-o", output, "--", program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(output.read_text())
    assert of_function(found, "alpha")["first_written_pages"] == 2 * 50
    assert of_function(found, "beta")["first_written_pages"] == 2 * (20 + 1)
    assert found["what_if"] == [
        {"cause": "alpha", "saved_pages": 100, "left_pages": found["copied_pages"] - 100}
    ]
    assert [process["name"] for process in found["processes"]] == ["fork"] * 3


def test_the_answer_states_that_it_is_the_models(tmp_path: Path) -> None:
    run = subprocess.run([*WHY, "--model", "true"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "1 process (true), on the model" in run.stdout
    assert "complete: yes, the model's kernel reports every copy" in run.stdout
    assert "ld.so: relocation" in run.stdout


def test_options_of_live_processes_are_refused() -> None:
    run = subprocess.run([*WHY, "--model"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.startswith("samepage: --model runs programs: name them")
