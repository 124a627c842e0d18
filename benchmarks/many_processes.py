"""The whole command `samepage live` against `smem`, where 5,000 processes run.

    python -m benchmarks.many_processes [PROCESSES]

smem (Debian's package) reads smaps of each process, and sees no pages. Everything runs in a pid
namespace of its own; needs root. The target: no more than 0.6 of smem's time.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.live import LIVE
from benchmarks.timing import compare

PROCESSES = 5_000
RUNS = 3


@contextlib.contextmanager
def sleepers(number: int) -> Iterator[None]:
    """Run so many `sleep` for as long as the block lasts."""
    processes = [subprocess.Popen(["sleep", "10000"]) for _ in range(number)]
    time.sleep(5)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def main(number: int = PROCESSES) -> None:
    """Print the times and their ratio."""
    if os.getpid() != 1:
        isolated = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m"]
        subprocess.run([*isolated, "benchmarks.many_processes", str(number)], check=True)
        return
    smem = shutil.which("smem")
    if smem is None:
        raise SystemExit("smem is not installed (apt-get install smem)")
    with sleepers(number):
        ours, peer, ratio = compare(LIVE, [smem], RUNS)
    print(f"{number:,} processes: samepage {ours:.2f} s, smem {peer:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
