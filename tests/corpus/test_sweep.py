"""The sweep over all programs notices what differs, and continues where it was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corpus import sweep
from corpus.sweep import Outcome, difference, examine

ROOT = Path(__file__).parents[2]


def test_the_first_differing_line_is_named() -> None:
    expected = Outcome(0, b"a\nb\n", b"")
    assert difference(expected, Outcome(0, b"a\nc\n", b"")).startswith("stdout line 2: b'b\\n'")
    assert difference(expected, Outcome(0, b"a\nb", b"")).startswith("stdout line 2")
    assert "None on the model" in difference(expected, Outcome(0, b"a\n", b""))
    assert difference(expected, Outcome(0, b"a\nb\n", b"x")).startswith("stderr line 1: None")
    assert difference(expected, Outcome(1, b"a\nb\n", b"")).startswith("status: 0")


def test_programs_that_differ_from_the_model_or_from_themselves_are_distinguished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert examine("/usr/bin/true")["outcome"] == "agrees"
    monkeypatch.setattr(sweep, "OPTIONS", ("/proc/self/auxv",))  # AT_HWCAP is the CPU's
    assert examine("/usr/bin/cat")["outcome"] == "differs"
    monkeypatch.setattr(sweep, "OPTIONS", ("+%N",))
    assert examine("/usr/bin/date")["outcome"] == "varies natively"


def test_a_program_that_does_not_end_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "NATIVE_SECONDS", 0.2)
    monkeypatch.setattr(sweep, "OPTIONS", ("9",))
    assert examine("/usr/bin/sleep")["outcome"] == "does not end natively"


def test_a_crash_of_the_model_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "on_model", lambda argv, cwd: os.kill(os.getpid(), signal.SIGKILL))
    assert examine("/usr/bin/true")["difference"] == "the model died: 9"


def test_what_is_in_the_results_is_not_run_again(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.write_text(json.dumps({"program": "/usr/bin/true", "outcome": "not run"}) + "\n")
    command = [sys.executable, "corpus/sweep.py", results, "/usr/bin/true", "/usr/bin/false"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    assert "1 not run" in done.stdout
    assert "1 agrees" in done.stdout
    assert len(results.read_text().splitlines()) == 2
