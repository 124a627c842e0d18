"""What `samepage run` must not import: each of these costs as much as a part of the program."""

import os
import subprocess
import sys

from samepage.machine.machine import DEBUG_VARIABLE

TELL = """
import os, sys
from samepage.cli.main import run
status = run(["run", "--quiet", "true"])
print(*sorted({"typing", "dataclasses", "inspect", "numpy", "rich", "unicorn"} & set(sys.modules)))
"""


def test_a_run_without_a_report_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", TELL]
    env = os.environ | {DEBUG_VARIABLE: ""}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
