"""Running `samepage why` beside servers of the tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from samepage.errors import SamepageError
from samepage.trace.perf.tracefs import find_tracepoints

WHY = [sys.executable, "-m", "samepage", "why"]


def needs_events() -> None:
    """Skip, with the reason, where `samepage why` cannot work."""
    if os.geteuid() != 0:
        pytest.skip("frame numbers and tracepoints need root")
    try:
        if len(find_tracepoints("exceptions:page_fault_user", "kmem:mm_page_alloc")) < 2:
            pytest.skip("this kernel lacks the tracepoints")
    except SamepageError as error:
        pytest.skip(error.message)


class Watcher:
    """`samepage why` with JSON as its answer, from being armed to Ctrl-C."""

    def __init__(
        self,
        arguments: Sequence[str],
        output: Path,
        command: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> None:
        self._output = output
        started = ["--", *command] if command else []
        self.process = subprocess.Popen(
            [*before, *WHY, *arguments, "--for", "300s", "-o", output, *started],
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_armed(self) -> None:
        """Wait until it has read the first frames: it then sleeps, and has events open."""
        end = time.monotonic() + 60
        quiet = 0
        while quiet < 5 and time.monotonic() < end:
            quiet = quiet + 1 if self._sleeps_with_events() else 0
            time.sleep(0.2)
        if self.process.poll() is not None:
            raise AssertionError(self.process.communicate()[1])

    def _sleeps_with_events(self) -> bool:
        proc = f"/proc/{self.process.pid}"
        try:
            events = sum(
                "perf_event" in os.readlink(f"{proc}/fd/{fd}") for fd in os.listdir(f"{proc}/fd")
            )
            with open(f"{proc}/stat") as file:
                sleeping = file.read().rpartition(")")[2].split()[0] == "S"
        except OSError:
            return False
        return events > 0 and sleeping

    def wait_for(self, line: str) -> None:
        """Wait for a line of the command that it started."""
        assert self.process.stderr is not None
        assert line + "\n" in iter(self.process.stderr.readline, "")

    def stop(self, status: int = 0) -> None:
        """Press Ctrl-C, and wait for the answer to be written."""
        time.sleep(0.3)
        self.process.send_signal(2)
        _, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == status, errors

    def finish(self, status: int = 0) -> dict[str, Any]:
        """Press Ctrl-C; the answer."""
        self.stop(status)
        document = json.loads(self._output.read_text())
        assert isinstance(document, dict)
        return document
