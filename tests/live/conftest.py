"""Real processes for the tests to read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from live_processes import group_members, wait_until_stopped


def reap_orphans(pgid: int) -> None:
    """Wait for the rest of a killed group, if we are the subreaper that inherits it."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if os.waitpid(-pgid, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return


@pytest.fixture
def stopped_program() -> Iterator[Callable[[str], int]]:
    """Return a function that runs Python code until it prints a line, then stops it.

    All processes of its group are stopped, so that nothing that is read can change.
    """
    running: list[subprocess.Popen[str]] = []

    def start(code: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, process_group=0
        )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready"):
            pytest.skip(f"cannot be set up here: {line.strip() or 'the program failed'}")
        os.killpg(process.pid, signal.SIGSTOP)
        for pid in group_members(process.pid):
            wait_until_stopped(pid)
        return process.pid

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        reap_orphans(process.pid)
        assert process.stdout is not None
        process.stdout.close()
