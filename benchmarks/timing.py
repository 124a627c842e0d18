"""Timing whole processes, and environments for peers."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

SAMEPAGE = [str(Path(sys.executable).parent / "samepage")]
"""The command as it is installed."""


def environment() -> dict[str, str]:
    """This process's, with bytecode caches on: that is how an installed program runs."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def time_command(argv: list[str]) -> tuple[float, float]:
    """Run a command once; return (wall seconds, CPU seconds). Raises if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        argv,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def compare(ours: list[str], peer: list[str], runs: int = 15) -> tuple[float, float, float]:
    """Run two commands in turn; return (median wall of ours, of the peer, median ratio).

    The first run of each warms caches and is not counted.
    """
    time_command(ours), time_command(peer)
    pairs = [(time_command(ours)[0], time_command(peer)[0]) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def peer_environment(name: str, *requirements: str) -> Path:
    """A virtual environment with a peer in it, kept between runs; the path of its python."""
    place = Path(tempfile.gettempdir()) / f"samepage-bench-{name}"
    python = place / "bin" / "python"
    if not (place / ".complete").exists():
        venv.create(place, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        (place / ".complete").touch()
    return python
