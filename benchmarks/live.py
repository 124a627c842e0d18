"""Reading the live system, against the kernel's own floor and against the peers.

    python -m benchmarks.live [PAGES]

Three comparisons, each as a ratio taken in one run:

1. 240 processes (200 `sleep`, 40 Python): the capture with all frames, against the bare reads
   of maps, resident pagemap ranges, kpagecount and kpageflags of the same processes in one
   plain loop, with one call per range and per run of consecutive frames. That loop is taken in
   two ways: each process with its frames, one after the other; and with each frame of the
   system read once only, which no plain loop can know beforehand. The capture is made
   as the command makes it, where a second process reads while this one makes sense of what it
   has read: for its tables, which need no flags of anonymous frames, and for a snapshot, with
   all flags. The latter is made once more in one process.
2. The whole command `samepage live` against `ps_mem` and `smem` (both see no pages).
3. A process with PAGES resident pages (ten million; one memfd of 1 GiB mapped again and
   again): the capture against the time that the kernel takes to hand out the pagemap, and
   the peak memory of the reading process. Of three runs each, the fastest and the largest.

Everything runs in a pid namespace of its own, so that the 240 processes are all there are, and
other work of the machine changes speed but not the amount. All need root. The peers are taken
if they are there: smem from PATH, ps_mem from PyPI in an environment of its own.
"""

import array
import contextlib
import fcntl
import mmap
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.timing import SAMEPAGE, compare, peer_environment
from samepage.abi.pagemap import PAGEMAP_SCAN
from samepage.live.background import BackgroundCollector
from samepage.live.capture import capture
from samepage.live.pagemap import end_of_memory
from samepage.snapshot.columns import Snapshot

SLEEPS = 200
PYTHONS = 40
RUNS = 15
MEMFD_SIZE = 1 << 30
_MAP_POPULATE = 0x8000
LIVE = [*SAMEPAGE, "live"]

Piece = tuple[int, int]
"""Offset and size in a file, in bytes."""


def main(pages: int = 10_000_000) -> None:
    """Run all comparisons and print them."""
    if os.getpid() != 1:
        # The first process of a namespace is number 1: then we are where we want to be.
        isolated = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m"]
        subprocess.run([*isolated, "benchmarks.live", str(pages)], check=True)
        return
    with population() as pids:
        capture_against_floor(pids)
        command_against_peers()
    many_pages(pages)


@contextlib.contextmanager
def population() -> Iterator[list[int]]:
    """Run 200 `sleep` and 40 Python interpreters for as long as the block lasts."""
    code = "import json, email, time; time.sleep(10000)"
    processes = [subprocess.Popen(["sleep", "10000"]) for _ in range(SLEEPS)]
    processes += [subprocess.Popen([sys.executable, "-c", code]) for _ in range(PYTHONS)]
    time.sleep(3)
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def capture_against_floor(pids: list[int]) -> None:
    """Print how much longer the capture takes than the bare reads."""
    plan = Plan(pids)

    def as_the_command(all_flags: bool) -> Snapshot:
        collector = BackgroundCollector(plan.pids)
        return capture(plan.pids, collector=collector, all_flags=all_flags)

    tables, snapshot, one, each, floor = in_turn(
        lambda: as_the_command(False),
        lambda: as_the_command(True),
        lambda: capture(plan.pids),
        plan.read_each,
        plan.read,
    )
    result = capture(plan.pids)
    print(
        f"capture of {len(result.processes)} processes, {len(result.pages):,} pages, "
        f"{len(result.frames):,} frames; floor: process by process {each * 1e3:.0f} ms, "
        f"with each frame once {floor * 1e3:.0f} ms"
    )
    for name, taken in (("tables", tables), ("snapshot", snapshot), ("in one process", one)):
        print(f"  {name}: {taken * 1e3:.0f} ms, ratios {taken / each:.2f} and {taken / floor:.2f}")


def in_turn(*functions: Callable[[], object]) -> list[float]:
    """Return the median times of all, run in turn after one run that is not counted.

    The order changes from turn to turn: each finds in the caches what the one before it left.
    """
    times: list[list[float]] = [[] for _ in functions]
    order = list(zip(functions, times, strict=True))
    shuffle = random.Random(0).shuffle
    for number in range(RUNS + 1):
        shuffle(order)
        for function, kept in order:
            begun = time.perf_counter()
            function()
            if number:
                kept.append(time.perf_counter() - begun)
    return [statistics.median(kept) for kept in times]


class Plan:
    """What a capture must read, found out beforehand: `read` does nothing but to read it."""

    def __init__(self, pids: list[int]) -> None:
        self.pids: list[int] = []
        self.ranges: list[list[Piece]] = []
        self.runs_of_each: list[list[Piece]] = []
        all_frames: set[int] = set()
        for pid in pids:
            try:
                with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
                    ranges = resident_ranges(pid, pagemap.fileno())
                    frames = set()
                    for offset, size in ranges:
                        entries = memoryview(os.pread(pagemap.fileno(), size, offset)).cast("Q")
                        frames.update(entry & ((1 << 55) - 1) for entry in entries)
            except OSError:
                continue
            self.pids.append(pid)
            self.ranges.append(ranges)
            self.runs_of_each.append(runs_of(sorted(frames)))
            all_frames |= frames
        self.runs = runs_of(sorted(all_frames))

    def read(self) -> None:
        """One call for each resident range, and for each run of consecutive frames of all."""
        for pid, ranges in zip(self.pids, self.ranges, strict=True):
            read_process(pid, ranges)
        read_frames(self.runs)

    def read_each(self) -> None:
        """The same, with the frames of each process read with it."""
        for pid, ranges, runs in zip(self.pids, self.ranges, self.runs_of_each, strict=True):
            read_process(pid, ranges)
            read_frames(runs)


def read_process(pid: int, ranges: list[Piece]) -> None:
    """Read maps, and these ranges of pagemap."""
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as maps:
        while maps.read(1 << 16):
            pass
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    for offset, size in ranges:
        os.pread(pagemap, size, offset)
    os.close(pagemap)


def read_frames(runs: list[Piece]) -> None:
    """Read these pieces of kpagecount and kpageflags."""
    for name in ("kpagecount", "kpageflags"):
        fd = os.open(f"/proc/{name}", os.O_RDONLY)
        for offset, size in runs:
            os.pread(fd, size, offset)
        os.close(fd)


def resident_ranges(pid: int, pagemap: int) -> list[Piece]:
    """Return offset and size of the entries of each range that is present, in bytes."""
    end = end_of_memory(Path(f"/proc/{pid}/maps").read_bytes())
    regions = array.array("Q", bytes(24 << 16))
    present = 1 << 3
    arg = bytearray(
        struct.pack(
            "12Q",
            *(96, 0, 0, end, 0, regions.buffer_info()[0], 1 << 16),
            *(0, 0, 0, present, present),
        )
    )
    count = fcntl.ioctl(pagemap, PAGEMAP_SCAN, arg)
    bounds = regions[: 3 * count]
    return [
        (start >> 9, (end - start) >> 9)
        for start, end in zip(bounds[::3], bounds[1::3], strict=True)
    ]


def runs_of(numbers: list[int]) -> list[Piece]:
    """Return offset and size in bytes of the runs of consecutive numbers."""
    runs: list[Piece] = []
    for number in numbers:
        if runs and runs[-1][0] + runs[-1][1] == number * 8:
            runs[-1] = (runs[-1][0], runs[-1][1] + 8)
        else:
            runs.append((number * 8, 8))
    return runs


def command_against_peers() -> None:
    """Print how the whole command compares with tools that sum up memory."""
    peers = []
    try:
        peers.append(("ps_mem", [str(peer_environment("ps_mem", "ps_mem").parent / "ps_mem")]))
    except (OSError, subprocess.CalledProcessError):
        print("ps_mem cannot be installed here")
    smem = shutil.which("smem")
    if smem:
        peers.append(("smem", [smem]))
    for name, command in peers:
        ours, peer, ratio = compare(LIVE, command, RUNS)
        print(f"samepage live {ours * 1e3:.0f} ms, {name} {peer * 1e3:.0f} ms, ratio {ratio:.2f}")


def many_pages(pages: int) -> None:
    """Print time and memory for one process with very many resident pages."""
    child, ready = mapper(pages)
    place = tempfile.mkdtemp()
    try:
        ready()
        size = pages_of(child)
        handed_out = min(hand_out(child) for _ in range(3))
        for name, code in (
            ("captured", "capture([pid])"),
            ("with all sums", _SUMS),
            ("captured without dirtiness", "capture([pid], all_flags=False)"),
            ("captured and checked", "s = capture([pid]); s.check()"),
            ("captured and written", _WRITE),
            ("read back", _READ),
        ):
            runs = [measured(code, child, f"{place}/snapshot") for _ in range(3)]
            seconds, memory = min(time for time, _ in runs), max(peak for _, peak in runs)
            print(
                f"{size:,} resident pages, {name}: {seconds * 1e3:.0f} ms, pagemap alone "
                f"{handed_out * 1e3:.0f} ms, ratio {seconds / handed_out:.2f}, "
                f"peak {memory >> 20} MiB"
            )
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        shutil.rmtree(place)


def mapper(pages: int) -> tuple[int, Callable[[], object]]:
    """Fork a process that maps `pages` pages of one memfd; return it, and a wait for it."""
    get, put = os.pipe()
    child = os.fork()
    if child == 0:
        fd = os.memfd_create("many")
        for _ in range(MEMFD_SIZE >> 20):
            os.write(fd, b"m" * (1 << 20))
        maps = []
        left = pages * mmap.PAGESIZE
        while left > 0:
            size = min(left, MEMFD_SIZE)
            maps.append(mmap.mmap(fd, size, flags=mmap.MAP_SHARED | _MAP_POPULATE))
            left -= size
        os.write(put, b"r")
        signal.pause()
    return child, lambda: os.read(get, 1)


_SUMS = "s = Sharing(capture([pid])); s.processes, s.files, s.totals, lost_sharing(s)"
_WRITE = "write(capture([pid]), place)"
_READ = "read(place)"

_MEASURE = """
import resource, sys, time
from samepage.analysis.lost_sharing import lost_sharing
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
{imports}
pid, place = int(sys.argv[1]), sys.argv[2]
begun = time.perf_counter()
kept = {code}
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def measured(code: str, pid: int, place: str) -> tuple[float, int]:
    """Run a capture in a process of its own; return its seconds and its peak memory."""
    statement, _, rest = code.rpartition("; ")
    arrow = "from samepage.snapshot.parquet import read, write" if code in (_WRITE, _READ) else ""
    program = _MEASURE.replace("kept = {code}", f"{statement}\nkept = {rest}")
    done = subprocess.run(
        [sys.executable, "-c", program.replace("{imports}", arrow), str(pid), place],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, memory = done.stdout.split()
    return float(seconds), int(memory)


def hand_out(pid: int) -> float:
    """Return the seconds that reading the resident pagemap of a process takes, and no more."""
    buffer = bytearray(1 << 20)
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        ranges = resident_ranges(pid, pagemap.fileno())
        begun = time.perf_counter()
        for offset, size in ranges:
            while size > 0:
                with memoryview(buffer)[: min(size, len(buffer))] as view:
                    got = os.preadv(pagemap.fileno(), [view], offset)
                offset += got
                size -= got
        return time.perf_counter() - begun


def pages_of(pid: int) -> int:
    """Return how many pages are present."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        return sum(size for _, size in resident_ranges(pid, pagemap.fileno())) >> 3


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
