"""Who writes: the events of real processes against what pagemap shows before and after."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import PAGESIZE

import numpy as np
import pytest

from samepage.errors import SamepageError
from samepage.snapshot.writes import WriteKind
from samepage.trace.perf.decode import decode
from samepage.trace.perf.session import Session
from samepage.trace.perf.tracefs import find_tracepoints, parse_format
from samepage.trace.writes import TRACEPOINTS, Writes, find_writes, write_events

PAGE_SHIFT = PAGESIZE.bit_length() - 1
PFN_MASK = (1 << 55) - 1
PAGES = 1500

SERVER = """
import ctypes, mmap, os, signal, sys, threading
page, pages, workers = mmap.PAGESIZE, {pages}, {workers}
memory = mmap.mmap(-1, page * pages, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for i in range(pages):
    memory[i * page] = 1
base = ctypes.addressof(ctypes.c_char.from_buffer(memory)) // page
go, start = os.pipe()
done, end = os.pipe()
pids = []
for k in range(workers):
    pid = os.fork()
    if pid == 0:
        os.read(go, 1)
        {work}
        os.write(end, b"x")
        signal.pause()
    pids.append(pid)
print(base, os.getpid(), *pids, flush=True)
sys.stdin.readline()
os.write(start, b"g" * workers)
left = workers
while left:
    left -= len(os.read(done, left))
print("done", flush=True)
sys.stdin.readline()
"""


@dataclass
class Run:
    """One recorded run: the area's first page, the parent, its workers, what they wrote, and
    frames (pid, page) -> frame before and after."""

    base: int
    parent: int
    workers: list[int]
    writes: Writes
    before: dict[tuple[int, int], int]
    after: dict[tuple[int, int], int]

    def pages(self, kind: WriteKind, pid: int) -> set[int]:
        """The pages of the area that it wrote to with that outcome, from 0."""
        mine = self.writes.of_kind(kind) & (self.writes.pid == pid)
        pages = self.writes.page[mine].astype(np.int64) - self.base
        return set(pages[(pages >= 0) & (pages < PAGES)].tolist())

    def unshared(self, pid: int) -> set[int]:
        """The pages whose frame was the parent's before and is another now (pagemap)."""
        return {
            page
            for page in range(PAGES)
            if self.before[pid, page] == self.before[self.parent, page]
            and self.after[pid, page] != self.after[self.parent, page]
        }


def frames(base: int, pids: list[int]) -> dict[tuple[int, int], int]:
    found = {}
    for pid in pids:
        with open(f"/proc/{pid}/pagemap", "rb", 0) as file:
            data = os.pread(file.fileno(), PAGES * 8, base * 8)
        for page, (entry,) in enumerate(struct.iter_unpack("<Q", data)):
            found[pid, page] = entry & PFN_MASK
    return found


@pytest.fixture(scope="module")
def needs_tracepoints() -> None:
    try:
        found = find_tracepoints(*TRACEPOINTS)
        with Session(write_events(found)) as session:
            session.add_processes([os.getpid()])
    except SamepageError as error:
        pytest.skip(error.message)
    if len(found) < len(TRACEPOINTS):
        pytest.skip("this kernel lacks a tracepoint")


@pytest.fixture
def record(needs_tracepoints: None) -> Iterator[Callable[..., Run]]:
    started: list[subprocess.Popen[str]] = []
    everyone: list[int] = []

    def run(work: str, workers: int = 3) -> Run:
        code = SERVER.format(pages=PAGES, workers=workers, work=work)
        server = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(server)
        assert server.stdin is not None
        assert server.stdout is not None
        base, parent, *pids = (int(word) for word in server.stdout.readline().split())
        everyone.extend(pids)
        tracepoints = find_tracepoints(*TRACEPOINTS)
        with Session(write_events(tracepoints)) as session:
            session.add_processes([parent, *pids])
            session.enable()
            before = frames(base, [parent, *pids])
            server.stdin.write("go\n")
            server.stdin.flush()
            assert server.stdout.readline() == "done\n"
            after = frames(base, [parent, *pids])
            session.disable()
            records = decode(session.chunks, session.specs)
        writes = find_writes(records, tracepoints, page_shift=PAGE_SHIFT)
        return Run(base, parent, pids, writes, before, after)

    yield run
    for pid in everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for server in started:
        server.kill()
        server.communicate(timeout=10)


def test_copies_are_the_pages_that_left_the_parents_frames(record: Callable[..., Run]) -> None:
    run = record("for i in range(k, pages, 3 + k): memory[i * page] = 2")
    assert run.writes.lost == 0
    for k, pid in enumerate(run.workers):
        expected = set(range(k, PAGES, 3 + k))
        assert run.unshared(pid) == expected
        # The last owner of a page that all others have copied reuses its frame.
        assert run.pages(WriteKind.COPY, pid) | run.pages(WriteKind.REUSE, pid) == expected
        assert run.pages(WriteKind.FIRST_TOUCH, pid) == set()


def test_the_allocated_frame_is_the_one_that_the_page_has(record: Callable[..., Run]) -> None:
    run = record("for i in range(0, pages, 2): memory[i * page] = 2", workers=2)
    writes = run.writes
    for pid in run.workers:
        mine = writes.of_kind(WriteKind.COPY) & (writes.pid == pid)
        pages = writes.page[mine].astype(np.int64) - run.base
        shown = {
            page: frame
            for page, frame in zip(pages.tolist(), writes.frame[mine].tolist(), strict=True)
            if 0 <= page < PAGES
        }
        assert len(shown) == PAGES // 2
        assert shown == {page: run.after[pid, page] for page in shown}


def test_writes_of_system_calls_are_distinguished(record: Callable[..., Run]) -> None:
    work = "os.preadv(os.open('/dev/zero', 0), [memoryview(memory)[: 100 * page]], 0)"
    run = record(work, workers=1)
    (pid,) = run.workers
    assert run.unshared(pid) == set(range(100))
    assert run.pages(WriteKind.COPY, pid) == set(range(100))
    writes = run.writes
    mine = (writes.pid == pid) & (writes.page >= run.base) & (writes.page < run.base + PAGES)
    assert writes.from_kernel[mine].all()


def test_what_the_last_owner_writes_is_no_copy(record: Callable[..., Run]) -> None:
    work = "[memory.__setitem__(i * page, 2) for r in (0, 1) for i in range(200)]"
    run = record(work, workers=1)
    (pid,) = run.workers
    assert run.pages(WriteKind.COPY, pid) == set(range(200))
    assert run.pages(WriteKind.REUSE, pid) == set()
    assert len(run.writes.page[run.writes.pid == pid]) < 400, "the second round faults no more"


def test_threads_and_processes_started_later_are_recorded(record: Callable[..., Run]) -> None:
    work = """
        t = threading.Thread(target=lambda: [memory.__setitem__(i * page, 2) for i in range(50)])
        t.start(); t.join()
        child = os.fork()
        if child == 0:
            for i in range(100, 180): memory[i * page] = 3
            os._exit(0)
        os.waitpid(child, 0)
    """
    run = record(work.strip(), workers=1)
    (pid,) = run.workers
    assert run.pages(WriteKind.COPY, pid) == set(range(50))
    others = set(run.writes.pid.tolist()) - {pid, run.parent}
    assert len(others) == 1, "the child"
    assert run.pages(WriteKind.COPY, others.pop()) == set(range(100, 180))


def test_first_touches_are_distinguished_from_copies(record: Callable[..., Run]) -> None:
    work = (
        "fresh = mmap.mmap(-1, 64 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); "
        "fresh.madvise(mmap.MADV_NOHUGEPAGE); "
        "[fresh.__setitem__(i * page, 1) for i in range(64)]"
    )
    run = record(work, workers=1)
    (pid,) = run.workers
    mine = run.writes.of_kind(WriteKind.FIRST_TOUCH) & (run.writes.pid == pid)
    assert len(set(run.writes.page[mine].tolist())) >= 64


def test_records_that_find_no_space_are_counted(needs_tracepoints: None) -> None:
    tracepoints = find_tracepoints(*TRACEPOINTS)
    code = (
        "import mmap, sys; sys.stdin.readline(); n = 20000\n"
        "m = mmap.mmap(-1, n * mmap.PAGESIZE); m.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "[m.__setitem__(i * mmap.PAGESIZE, 1) for i in range(n)]\n"
        "print(flush=True); sys.stdin.readline()"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        Session(write_events(tracepoints), ring_pages=1) as session,
    ):
        session.add_processes([process.pid])
        session.enable()
        process.communicate("\n\n", timeout=60)
        session.disable()
        records = decode(session.chunks, session.specs)
    assert records.lost > 0
    assert find_writes(records, tracepoints, page_shift=PAGE_SHIFT).lost == records.lost


def test_a_format_file_is_read_field_by_field() -> None:
    text = (
        "name: x\nID: 7\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:unsigned long address;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;\n"
    )
    assert parse_format(text) == {"common_type": (0, 2), "address": (8, 8), "comm": (16, 16)}
