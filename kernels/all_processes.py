"""Run on another kernel: every sum of every process that samepage counts equals that of smaps.

Starts processes that share and copy in different ways, stops them, and compares RSS, PSS, USS and
dirty memory of each VMA. Prints one line for each difference, and a summary; exit status 1 if
anything differs. PSS depends on who else maps a page, so a VMA must be equal once in some rounds.
"""

import os
import signal
import subprocess
import sys
import time

from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.live.smaps import read_smaps

WORKER = """
import mmap, os, sys, time
data = bytearray(os.urandom(1 << 20))
shared = mmap.mmap(-1, 1 << 20)
shared[: 64 << 10] = b"s" * (64 << 10)
for number in range(9):
    if os.fork() == 0:
        data[: 64 << 10] = bytes(64 << 10)
        break
time.sleep(1000)
"""
COMMANDS = [
    *([[sys.executable, "-c", WORKER]] * 3),
    *([["sleep", "1000"]] * 16),
    *([["bash", "-c", "sleep 1000; true"]] * 6),
]
ROUNDS = 20
_FIELDS = (b"Private_Clean", b"Private_Dirty", b"Shared_Clean", b"Shared_Dirty")


def main() -> int:
    """Compare all processes of the system but this one; return the exit status."""
    started = [subprocess.Popen(command, start_new_session=True) for command in COMMANDS]
    time.sleep(20)
    for process in started:
        os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(2)
    try:
        left: dict[tuple[int, int], str] | None = None
        for _ in range(ROUNDS):
            found, counts = _differences()
            left = {k: v for k, v in found.items() if left is None or k in left}
            if not left:
                break
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
    for text in (left or {}).values():
        print(text)
    print(f"{counts[0]} processes, {counts[1]} VMAs, {counts[2]} pages: {len(left or {})} differ")
    return bool(left)


def _differences() -> tuple[dict[tuple[int, int], str], tuple[int, int, int]]:
    """Return what differs, by process and VMA, and how many processes, VMAs and pages there are."""
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid()]
    snapshot = capture(pids)
    sharing = Sharing(snapshot)
    found = {}
    for number, process in enumerate(snapshot.processes):
        try:
            smaps = read_smaps(process.pid)
        except OSError:  # it has ended
            continue
        for vma in sharing.vmas(number):
            usage = vma.usage
            columns = (
                usage.private_clean,
                usage.private_dirty,
                usage.shared_clean,
                usage.shared_dirty,
            )
            kernel = smaps.get(vma.start, {})
            theirs = [kernel.get(name, 0) for name in (*_FIELDS, b"Pss")]
            ours = [*(pages * 4 for pages in columns), usage.pss_kib]
            if ours != theirs:
                found[process.pid, vma.start] = (
                    f"{process.comm} {process.pid} {vma.start:x}: {ours}, smaps {theirs}"
                )
    return found, (len(snapshot.processes), len(snapshot.vmas), len(snapshot.pages))


if __name__ == "__main__":
    sys.exit(main())
