"""Situations rebuilt for real, and what the analysis has to find in them."""

import io
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samepage.analysis.groups import by_user, groups
from samepage.analysis.sharing import FileUse, Sharing
from samepage.live.capture import capture
from samepage.live.residency import resident_pages
from samepage.report import print_report
from samepage.report.tables import Terminal

Start = Callable[[str], list[int]]


@pytest.fixture
def stopped() -> Iterator[Start]:
    """Run a program until it prints a line, and stop all of its processes; return their pids."""
    running: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> list[int]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line.startswith("ready"):
            pytest.skip(f"cannot be set up here: {line.strip()}")
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            pids = [process.pid, *map(int, children.read().split())]
        os.killpg(process.pid, signal.SIGSTOP)
        for pid in pids:
            wait_until_stopped(pid)
        if not capture([process.pid]).frames_visible:
            pytest.skip("the kernel shows frame numbers only with CAP_SYS_ADMIN")
        return sorted(pids)

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_until_stopped(pid: int) -> None:
    for _ in range(2000):
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "T":
                return
        time.sleep(0.005)
    raise AssertionError(f"{pid} does not stop")


def file_at(sharing: Sharing, path: Path) -> FileUse:
    return next(use for use in sharing.files if use.file.path == str(path))


COPIED = """
import mmap, os, time
with open({path!r}, "r+b") as file:
    area = mmap.mmap(file.fileno(), 64 * 4096, flags=mmap.MAP_PRIVATE)
area[: 8 * 4096] = b"p" * 8 * 4096  # eight copies, which the children inherit
ready, done = os.pipe()
for child in range(3):
    if os.fork() == 0:
        area[: 2 * 4096] = b"c" * 2 * 4096  # two of its own instead
        os.write(done, b".")
        time.sleep(1000)
for child in range(3):
    os.read(ready, 1)
print("ready", flush=True)
time.sleep(1000)
"""


def test_a_copy_that_forked_processes_map_is_one_frame(stopped: Start, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"d" * 64 * 4096)
    sharing = Sharing(capture(stopped(COPIED.format(path=str(path)))))
    use = file_at(sharing, path)
    assert use.copied_pages == 4 * 8
    assert use.copied_frames == 8 + 3 * 2
    assert sharing.totals.copied_frames < sharing.totals.copied_pages
    stream = io.StringIO()
    print_report(sharing.snapshot, Terminal(stream, 200), top=None)
    *_, row = (line for line in stream.getvalue().splitlines() if line.startswith(str(path)))
    assert "56 KiB" in row  # 14 frames


CACHED = """
import mmap, time
with open({path!r}, "r+b") as file:
    area = mmap.mmap(file.fileno(), 2048 * 4096)
total = sum(area[::4096])
own = mmap.mmap(-1, 512 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
own[::4096] = b"o" * 512
print("ready", flush=True)
time.sleep(1000)
"""


def test_the_page_cache_outlives_who_maps_it(stopped: Start, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"d" * 2048 * mmap.PAGESIZE)
    (pid,) = stopped(CACHED.format(path=str(path)))
    (user,) = groups(Sharing(capture([pid])), by_user)
    assert user.own_frames >= 2048 + 512
    assert 512 <= user.freed_frames <= user.own_frames - 2048
    os.kill(pid, signal.SIGKILL)
    assert resident_pages(str(path)).sum() == 2048


HUGETLB = """
import mmap, os, time
MAP_HUGETLB = 0x40000
try:
    area = mmap.mmap(-1, 2 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    area[0] = 1
    ready, done = os.pipe()
    if os.fork() == 0:
        area[4096] = 1
        os.write(done, b".")
        time.sleep(1000)
    os.read(ready, 1)
    print("ready", flush=True)
except OSError as error:
    print("no huge pages:", error, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Two huge pages of hugetlbfs for as long as the test runs."""
    path = "/proc/sys/vm/nr_hugepages"
    try:
        before = int(Path(path).read_text())
        Path(path).write_text(str(before + 2))
    except OSError as error:
        pytest.skip(f"no huge pages can be made here: {error}")
    yield
    Path(path).write_text(str(before))


def test_hugetlb_pages_are_in_the_text(huge_pages: None, stopped: Start) -> None:
    snapshot = capture(stopped(HUGETLB))
    totals = Sharing(snapshot).totals
    assert (totals.hugetlb_frames, totals.hugetlb_pages) == (512, 2 * 512)
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 200))
    text = stream.getvalue()
    assert "Beside them 2 MiB of hugetlb pages are mapped as 4 MiB" in text
    assert "HUGETLB" in text


HUGE = """
import mmap, time
area = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_HUGEPAGE)
area[:: 4096] = b"h" * 2048
print("ready", flush=True)
time.sleep(1000)
"""


def test_transparent_huge_pages_are_those_of_smaps(stopped: Start) -> None:
    (pid,) = stopped(HUGE)
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        kib = next(int(line.split()[1]) for line in rollup if line.startswith("AnonHugePages:"))
    assert Sharing(capture([pid])).totals.anon_huge_pages * 4 == kib
    assert kib >= 6 << 10
