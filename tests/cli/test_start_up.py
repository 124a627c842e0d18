"""What `samepage run` must not import: each of these costs as much as a part of the program."""

import subprocess
import sys

TELL = """
import os, sys
from samepage.cli.main import run
status = run(["run", "--quiet", "true"])
print(*sorted({"typing", "dataclasses", "inspect", "numpy", "rich", "unicorn"} & set(sys.modules)))
"""


def test_a_run_without_a_report_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", TELL]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
