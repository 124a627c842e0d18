"""Many programs in one command, against `ldd` on each in turn; and what one costs.

`samepage link --missing DIRECTORY` finds the libraries and binds the symbols of every program
below a directory, functions included, as `ldd -r` does. Each `ldd` is a process of a shell
that starts ld.so twice; each program of ours is some array operations in one process. All
figures are of the same run, alternating, and the least disturbed of the runs counts.
"""

import os
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.timing import SAMEPAGE, time_command
from samepage.elf.walk import find_files

RUNS = 3
DIRECTORY = "/usr/bin"
STARTS = 15
"""Runs of the short commands."""


def main(directory: str = DIRECTORY) -> None:
    """Print seconds of CPU and of wall clock, for all programs and for each."""
    programs = list(find_files(directory))
    each = 'for file; do ldd $FLAG "$file"; done; true'
    commands = {
        "samepage link --missing": [*SAMEPAGE, "link", "--missing", directory],
        "ldd, each in turn": ["sh", "-c", each, "ldd", *programs],
        "ldd -r, each in turn": ["sh", "-c", "FLAG=-r; " + each, "ldd", *programs],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            # --missing has status 1 for what is missing, which is none of our business.
            times[name].append(time_command(["sh", "-c", '"$@" || true', "sh", *command]))
    table = Table("", "wall s", "CPU s", "CPU ms each", title=f"{len(programs)} programs")
    for name, pairs in times.items():
        wall, cpu = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        table.add_row(name, f"{wall:.2f}", f"{cpu:.2f}", f"{cpu / len(programs) * 1e3:.1f}")
    console = Console(width=110)
    console.print(table)
    git = "/usr/bin/git" if os.path.exists("/usr/bin/git") else "/bin/ls"
    table = Table("one program", "CPU ms, least", title="Start-up")
    for words in (
        [sys.executable, "-c", "pass"],
        [sys.executable, "-c", "import numpy"],
        [*SAMEPAGE, "link", git],
    ):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        cpu = min(time_command(words)[1] for _ in range(STARTS))
        table.add_row(" ".join([os.path.basename(words[0]), *words[1:]]), f"{cpu * 1e3:.0f}")
    console.print(table)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
