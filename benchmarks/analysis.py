"""How long and in how much memory ten million resident pages are stored and analysed.

    python benchmarks/analysis.py [PAGES]

The snapshot is synthetic: 100 processes; half of each one's pages are one shared file, the
other half are its own, with frame numbers in random order, as on a machine that has been
up for a while. Each step runs in a process of its own, which reads the snapshot and reports
its time and its peak memory beyond that of the snapshot in memory.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from samepage.analysis.diff import Match, diff
from samepage.analysis.groups import by_user, groups
from samepage.analysis.lost_sharing import lost_sharing
from samepage.analysis.page_map import page_maps
from samepage.analysis.sharing import Sharing
from samepage.snapshot import parquet
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot

PROCESSES = 100


def synthetic(pages: int) -> Snapshot:
    """Return a snapshot of about so many resident pages."""
    half = pages // PROCESSES // 2
    builder = SnapshotBuilder("live")
    file = builder.add_file(1, 1, "/lib/shared.so", size=half * 4096, build_id="ab")
    numbers = np.random.default_rng(1).permutation((PROCESSES + 1) * half).astype(np.uint64) + 1
    shared = numbers[:half]
    ones = np.ones(half, dtype=np.int64)
    builder.add_frames(shared, ones, ones * file, np.arange(half), ones * PROCESSES, ones * 0)
    for pid in range(1, PROCESSES + 1):
        own = numbers[pid * half : (pid + 1) * half]
        builder.add_process(Process(pid, argv=("worker",), uid=pid % 5))
        low, middle, high = 1 << 12, (1 + half) << 12, (1 + 2 * half) << 12
        builder.add_vma(pid, low, middle, "r-xp", 0, file, "/lib/shared.so")
        builder.add_vma(pid, middle, high, "rw-p", 0, -1, "")
        flags = np.repeat(np.array([5, 33], dtype=np.uint16), half)
        builder.add_pages(pid, np.arange(1, 1 + 2 * half), np.append(shared, own), flags)
        builder.add_frames(own, ones * 2, ones * -1, ones * 0, ones, ones * 0)
    return builder.build()


def sharing_of(snapshot: Snapshot) -> None:
    sharing = Sharing(snapshot)
    assert sharing.processes
    assert sharing.files
    assert sharing.totals.frames


STEPS: dict[str, Callable[[Snapshot], object]] = {
    "check": Snapshot.check,
    "sharing (processes, files, totals)": sharing_of,
    "sharing and groups by user": lambda snapshot: groups(Sharing(snapshot), by_user),
    "sharing and lost sharing": lambda snapshot: lost_sharing(Sharing(snapshot)),
    "sharing and page map": lambda snapshot: page_maps(Sharing(snapshot), [0]),
    "diff with itself": lambda snapshot: diff(snapshot, snapshot, Match.PID),
}


def run_step(name: str, directory: str, answer: Connection) -> None:
    """Run one step; send its time and the growth of the peak of memory."""
    snapshot = parquet.read(directory)
    # What reading needed for a moment is not the step's: begin a new peak (proc(5), clear_refs).
    with open("/proc/self/clear_refs", "w") as clear_refs:
        clear_refs.write("5")
    before = status_mib("VmRSS")
    start = time.perf_counter()
    STEPS[name](snapshot)
    answer.send((time.perf_counter() - start, status_mib("VmHWM") - before))


def status_mib(key: str) -> float:
    """Return a line of /proc/self/status in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key))


def main() -> None:
    pages = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as parent:
        directory = f"{parent}/snapshot"
        snapshot = synthetic(pages)
        print(f"{len(snapshot.pages):,} pages, {len(snapshot.frames):,} frames")
        start = time.perf_counter()
        parquet.write(snapshot, directory)
        print(f"{'write':<36} {time.perf_counter() - start:6.2f} s")
        del snapshot
        start = time.perf_counter()
        parquet.read(directory)
        print(f"{'read and check':<36} {time.perf_counter() - start:6.2f} s")
        for name in STEPS:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=run_step, args=(name, directory, sender))
            process.start()
            sender.close()
            seconds, memory = receiver.recv()
            process.join()
            print(f"{name:<36} {seconds:6.2f} s  {memory:+6.0f} MiB at the peak")


if __name__ == "__main__":
    main()
