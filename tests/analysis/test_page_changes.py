"""What left sharing between two captures: forked servers whose processes write, for real."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from samepage.analysis.diff import Diff, diff
from samepage.live.capture import capture
from samepage.report.diff import print_diff
from samepage.report.tables import Terminal
from tests.live.live_processes import needs_frames, wait_until_stopped

pytestmark = needs_frames

PAGES = 1024
SERVER = """
import mmap, os, signal, sys
PAGE = 4096
heap = mmap.mmap(-1, 1024 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
heap.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(1024):
    heap[page * PAGE] = 1
with open(sys.argv[1], "r+b") as file:
    data = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
sum(data[::PAGE])
children = []
for number in range(3):
    child = os.fork()
    if not child:
        sum(data[::PAGE]), sum(heap[::PAGE])
        os.kill(os.getpid(), signal.SIGSTOP)
        for page in range(100 * (number + 1)):
            heap[page * PAGE] = 2
        for page in range(number):
            data[page * PAGE] = 2
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    children.append(child)
print(*children, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
late = os.fork()
if not late:
    for page in range(1000, 1010):
        heap[page * PAGE] = 3
    os.kill(os.getpid(), signal.SIGSTOP)
print(late, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A stopped server with three stopped children, which write when they continue."""
    (tmp_path / "data").write_bytes(bytes(8 * 4096))
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    try:
        children = [int(pid) for pid in process.stdout.readline().split()]
        for pid in (process.pid, *children):
            wait_until_stopped(pid)
        yield process, children
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def go_on(pids: list[int]) -> None:
    """Let stopped processes continue to where they stop again."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for pid in pids:
        wait_until_stopped(pid)


def printed(result: Diff) -> list[str]:
    """Return the lines of the text form."""
    stream = io.StringIO()
    print_diff(result, Terminal(stream, 120))
    return stream.getvalue().splitlines()


def copied_of_heap(result: Diff) -> dict[int, int]:
    """Return how many pages of the server's own area each process copied."""
    return {
        change.pid: change.copied
        for change in result.mappings
        if not change.name and change.copied and change.after >= PAGES
    }


def test_children_that_write_to_their_parents_heap_copy_it(
    server: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, children = server
    before = capture([process.pid, *children])
    go_on(children)
    result = diff(before, capture([process.pid, *children]))
    assert copied_of_heap(result) == dict(zip(children, (100, 200, 300), strict=True))
    data = {
        change.pid: change.copied for change in result.mappings if change.name.endswith("/data")
    }
    assert {pid: n for pid, n in data.items() if n} == {children[1]: 1, children[2]: 2}
    assert result.copies is not None
    assert result.copies.file >= 3
    # The children's own writes: at least to the heap; each of their copies is a frame.
    by_process = [change.pages for change in result.processes if change.pages]
    assert result.copies.anonymous >= 600
    assert sum(pages.copied_anonymous for pages in by_process) == result.copies.anonymous
    lines = printed(result)
    assert any(line.startswith("Copied on write: 2.") for line in lines)
    (since,) = (line for line in lines if line.startswith("Copied on write since"))
    assert since.split()[4].startswith("+2.")
    assert "per hour" in lines[0]
    for word in ("gained", "lost", "copied", "moved"):
        assert any(line.startswith(f"  {word}:") for line in lines)
    # RSS of the area is what it was: what left sharing shows only here.
    heap = [c for c in result.mappings if not c.name and c.after >= PAGES and c.pid in children]
    assert {change.grown for change in heap} == {0}


def test_what_a_new_child_copied_since_its_fork_is_counted(
    server: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, children = server
    before = capture([process.pid, *children])
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout is not None
    late = int(process.stdout.readline())
    wait_until_stopped(process.pid)
    wait_until_stopped(late)
    result = diff(before, capture([process.pid, *children, late]))
    (new,) = (change for change in result.processes if change.before is None)
    assert new.after is not None
    assert new.after.process.pid == late
    assert new.pages is not None
    assert new.pages.copied_anonymous >= 10
    assert (new.pages.gained, new.pages.lost) == (0, 0)


def test_memory_that_is_allocated_again_has_moved_and_is_no_copy(
    stopped_again: subprocess.Popen[str],
) -> None:
    before = capture([stopped_again.pid])
    go_on([stopped_again.pid])
    result = diff(before, capture([stopped_again.pid]))
    (change,) = result.processes
    assert change.pages is not None
    assert change.pages.copied == 0
    # Some frames may be the same again, by chance.
    assert change.pages.moved > 200


AGAIN = """
import mmap, os, signal
area = mmap.mmap(-1, 512 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
area[::4096] = b"1" * 512
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
other = mmap.mmap(-1, 512 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
other.madvise(mmap.MADV_NOHUGEPAGE)
other[::4096] = b"1" * 512
area.madvise(mmap.MADV_DONTNEED)
area[::4096] = b"2" * 512
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def stopped_again() -> Iterator[subprocess.Popen[str]]:
    """A stopped program that frees an area and fills it again when it continues."""
    process = subprocess.Popen([sys.executable, "-c", AGAIN], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    wait_until_stopped(process.pid)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
