"""Processes that start, exec, change their mappings and exit while the system is read."""

import subprocess
import sys
import time

from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture

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
            snapshot = capture()
            snapshot.check()
            assert len(snapshot.processes) > 3
            sharing = Sharing(snapshot)
            assert sharing.totals.frames <= sharing.totals.resident_pages
            assert sharing.processes
            assert sharing.files
            captures += 1
        assert captures
    finally:
        for process in processes:
            process.kill()
            process.wait()
