"""Causes of the live kernel are the model's, page by page, on C programs and on Debian's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.watching import needs_events

PROGRAMS = Path(__file__).parent / "why_programs"
VERIFY = [sys.executable, "-m", "samepage", "verify", "--why"]


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
@pytest.mark.parametrize("name", ["fork", "read", "exec"])
def test_the_same_functions_copy_the_same_pages(name: str, tmp_path: Path) -> None:
    needs_events()
    program = tmp_path / name
    subprocess.run(["gcc", "-O1", "-o", program, PROGRAMS / f"{name}.c"], check=True)
    run = subprocess.run([*VERIFY, program], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"agrees: {program}: who copied ")


def test_programs_without_children_agree_too() -> None:
    needs_events()
    run = subprocess.run([*VERIFY, "true", ":::", "uname", "-a"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line.split(":")[0] for line in run.stdout.splitlines()] == ["agrees", "agrees"]
