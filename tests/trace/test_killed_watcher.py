"""Killing `samepage why` at any moment leaves its targets as they were.

SAMEPAGE_WHY_KILLS is how often (`make verify-why`: 200; the suite: 8).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.watching import WHY, needs_events

KILLS = int(os.environ.get("SAMEPAGE_WHY_KILLS", "8"))
SERVER = """
import os, sys
data = [[i] for i in range(60_000)]
def work(rounds):
    total = 0
    for turn in range(rounds):
        for item in data[turn % 7 :: 7]:
            item[0] = (item[0] * 31 + turn) & 0xFFFFFFFF
    return sum(item[0] for item in data) & 0xFFFFFFFF
expected = int(sys.argv[1]) if len(sys.argv) > 1 else None
if expected is None:
    print(work(10))
    raise SystemExit
if os.fork() == 0:
    pass
os.write(1, b"%d\\n" % os.getpid())  # in one write: two do so at once
while True:
    pid = os.fork()
    if pid == 0:
        os._exit(work(10) != expected)
    if os.waitpid(pid, 0)[1]:
        print("wrong", flush=True)
        os._exit(1)
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_nothing_is_left_of_a_watcher_that_is_killed() -> None:
    needs_events()
    plain = [sys.executable, "-c", SERVER]
    expected = subprocess.run(plain, capture_output=True, text=True, check=True).stdout.strip()
    chance = random.Random(11)
    with subprocess.Popen(
        [*plain, expected], stdout=subprocess.PIPE, text=True, process_group=0
    ) as server:
        assert server.stdout is not None
        try:
            pids = [int(server.stdout.readline()) for _ in range(2)]
            descriptors = {pid: sorted(os.listdir(f"/proc/{pid}/fd")) for pid in pids}
            for _ in range(KILLS):
                watcher = subprocess.Popen(
                    [*WHY, str(server.pid), "--epoch", "20ms", "--for", "60s"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    process_group=0,
                )
                time.sleep(chance.uniform(0.2, 2.5))
                watcher.kill()
                watcher.wait()
            time.sleep(1)
            assert server.poll() is None, "no process computed anything wrong"
            for pid in pids:
                deadline = time.monotonic() + 30
                while state(pid) in "tT" and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert state(pid) not in "tT", "none is stopped"
                assert "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text()
                assert sorted(os.listdir(f"/proc/{pid}/fd")) == descriptors[pid]
        finally:
            os.killpg(server.pid, signal.SIGKILL)
