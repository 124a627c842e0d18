"""Processes that start, exec, change their mappings and exit while the system is read."""

import subprocess
import sys
import time

from samepage.live.capture import capture, read_system
from samepage.live.summary import Summary

CHURN = """
import mmap, os, sys
end = float(sys.argv[1])
import time
while time.monotonic() < end:
    pid = os.fork()
    if pid == 0:
        areas = [mmap.mmap(-1, 1 << 20) for _ in range(4)]
        for area in areas:
            area[::4096] = b"c" * 256
            area.close()
        os.execv("/bin/sh", ["sh", "-c", "true; exec true"])
    os.waitpid(pid, 0)
"""


def test_a_system_in_motion_is_read_without_error() -> None:
    end = time.monotonic() + 2
    processes = [subprocess.Popen([sys.executable, "-c", CHURN, str(end)]) for _ in range(3)]
    try:
        captures = 0
        while time.monotonic() < end:
            summary = Summary(read_system())
            assert summary.total.frames <= summary.total.rss or not summary.total.frames
            assert summary.processes
            assert summary.files
            # The snapshot proves all of its invariants when it is built.
            assert capture().processes.num_rows > 3
            captures += 1
        assert captures
    finally:
        for process in processes:
            process.kill()
            process.wait()
