"""What `samepage run` and `live` must not import: each costs as much as a part of the command."""

import os
import subprocess
import sys

from samepage.machine.machine import DEBUG_VARIABLE

RUN = """
import os, sys
from samepage.cli.main import run
status = run(["run", "--quiet", "true"])
print(*sorted({"typing", "dataclasses", "inspect", "numpy", "rich", "unicorn"} & set(sys.modules)))
"""


def test_a_run_without_a_report_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", RUN]
    env = os.environ | {DEBUG_VARIABLE: ""}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert result.stdout == "\n"


LIVE = """
import os, sys
from samepage.cli.main import run
run(["live", str(os.getpid()), "-o", os.devnull, "-f", "text"])
heavy = {"dataclasses", "fractions", "pyarrow", "rich", "shutil", "signal", "unicorn"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_the_tables_of_live_import_nothing_heavy_but_numpy() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIVE], capture_output=True, text=True, check=True
    )
    assert result.stdout == "\n", result.stderr
