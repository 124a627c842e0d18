"""What processes share since a fork: real fork servers, compared with their own pagemaps."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from samepage.analysis.forks import Forks, Kin
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.report import print_report, write_report
from samepage.report.tables import Terminal
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags
from tests.live.live_processes import needs_frames

MIB = 256
"""Pages."""

SERVER = """
import mmap, os, sys, time
area = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[:] = b"p" * len(area)
from ctypes import addressof, c_char
first = c_char.from_buffer(area); start = addressof(first); del first
for number in range(3):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if number == 1: area[8 << 20 : 18 << 20] = b"c" * (10 << 20)
        if number == 2 and "grandchild" in sys.argv and os.fork() == 0: number = 3
        os.write(write, b"x")
        if number == 2 and "grandchild" in sys.argv: os._exit(0)
        time.sleep(1000)
    os.read(read, 1)
    if number == 2 and "grandchild" in sys.argv: os.waitpid(child, 0)
print("ready", start, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def server() -> Iterator[Callable[..., tuple[int, list[int], int]]]:
    """Return a function that starts the server: its pid, those of its children, the address."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[int, list[int], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *words],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        running.append(process)
        assert process.stdout is not None
        _, address = process.stdout.readline().split()
        os.killpg(process.pid, signal.SIGSTOP)
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            children = sorted(map(int, file.read().split()))
        return process.pid, children, int(address)

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def frames_at(pid: int, address: int, pages: int) -> list[int]:
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        file.seek(address // 4096 * 8)
        entries = struct.unpack(f"<{pages}Q", file.read(8 * pages))
    return [entry & ((1 << 55) - 1) for entry in entries]


def kin_at(snapshot: Snapshot, forks: Forks, pid: int, address: int) -> tuple[Kin, list[int]]:
    number = snapshot.process_number(pid)
    assert number is not None
    vmas = snapshot.vmas
    vma = next(
        n
        for n in range(*vmas.of(number).indices(len(vmas)))
        if vmas.start[n] <= address < vmas.end[n]
    )
    return forks.of_vmas(number)[vma], forks.sharers(number, vma)


@needs_frames
def test_a_fork_server_of_which_one_child_writes(
    server: Callable[..., tuple[int, list[int], int]],
) -> None:
    parent, children, address = server()
    pids = [parent, *children]
    snapshot = capture(pids)
    forks = Forks(Sharing(snapshot))
    (family,) = forks.families
    assert [(m.pid, m.parent) for m in family.members] == [
        (parent, None),
        *((child, parent) for child in children),
    ]
    maps = [frames_at(pid, address, 64 * MIB) for pid in pids]
    for pid, mine in zip(pids, maps, strict=True):
        kin, sharers = kin_at(snapshot, forks, pid, address)
        others = [each for each in maps if each is not mine]
        shared = sum(any(o[n] == frame for o in others) for n, frame in enumerate(mine))
        assert kin.shared == shared == (54 * MIB if pid == children[1] else 64 * MIB)
        assert kin.copied == (10 * MIB if pid == children[1] else 0)
        assert kin.apart == 0
        assert sharers == [each for each in pids if each != pid]
    assert family.frames >= 64 * MIB
    assert family.mapped - family.frames >= (3 * 54 + 2 * 10) * MIB


@needs_frames
def test_a_process_whose_parent_has_exited_belongs_to_the_family(
    server: Callable[..., tuple[int, list[int], int]],
) -> None:
    parent, _, _ = server("grandchild")
    members = [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _in(pid, parent)
    ]
    forks = Forks(Sharing(capture(members)))
    (family,) = forks.families
    assert family.root == parent
    assert len(family.members) == 4
    orphans = [m.pid for m in family.members if m.parent is None and m.pid != parent]
    assert len(orphans) == 1


def _in(pid: int, group: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[2]) == group and fields[0] != "Z"


@needs_frames
def test_programs_of_the_same_name_are_no_family() -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        os.waitid(os.P_PID, one.pid, os.WNOHANG | os.WEXITED | os.WNOWAIT)
        for pid in (one.pid, other.pid):
            while not os.readlink(f"/proc/{pid}/exe").endswith("sleep"):
                pass
        forks = Forks(Sharing(capture([one.pid, other.pid])))
        one.kill()
        other.kill()
    assert forks.families == []


def made(pages: dict[int, list[tuple[int, int]]], kind: int = FrameKind.ANON) -> Snapshot:
    """A snapshot of processes with these (virtual page, frame)s; each is a child of the first."""
    builder = SnapshotBuilder("live")
    first = min(pages)
    for pid, rows in pages.items():
        parent = first if pid != first else 1
        builder.add_process(Process(pid, parent, comm=str(pid), start_time=pid))
        builder.add_vma(pid, 0x100000, 0x200000, "rw-p", 0, -1, "[heap]")
        builder.add_pages(pid, *zip(*rows, strict=True), (PageFlags.PRESENT,) * len(rows))
    frames = {frame for rows in pages.values() for _, frame in rows}
    for frame in sorted(frames):
        builder.add_frames([frame], [kind], [-1], [-1], [1], [0])
    return builder.build()


def kins(snapshot: Snapshot) -> dict[int, tuple[int, int, int]]:
    return {
        member.pid: tuple(member.kin)
        for family in Forks(Sharing(snapshot)).families
        for member in family.members
    }


def test_shared_copied_and_apart() -> None:
    pages = {
        10: [(0x100, 1), (0x101, 2), (0x102, 3), (0x103, 4)],
        11: [(0x100, 1), (0x101, 20), (0x102, 30), (0x104, 40)],
        12: [(0x100, 1), (0x101, 2), (0x105, 50)],
    }
    # 0x101: 11 has its own; 0x102: 10 and 11 have, and no two share one; the rest is only theirs
    assert kins(made(pages)) == {10: (2, 0, 1), 11: (1, 1, 1), 12: (2, 0, 0)}


def test_frames_at_different_addresses_prove_no_fork() -> None:
    assert kins(made({10: [(0x100, 1)], 11: [(0x101, 1)]})) == {}
    merged = made({10: [(0x100, 1)], 11: [(0x100, 1)]}, FrameKind.KSM)
    assert kins(merged) == {}


def test_a_process_that_has_moved_its_memory() -> None:
    pages = {
        10: [(0x150, 1), (0x151, 2), (0x110, 5)],
        11: [(0x100, 1), (0x101, 2), (0x110, 5)],
        12: [(0x100, 1), (0x101, 2), (0x110, 5)],
    }
    assert kins(made(pages)) == {10: (1, 0, 0), 11: (3, 0, 0), 12: (3, 0, 0)}


def test_each_output_has_it() -> None:
    snapshot = made({10: [(0x100, 1), (0x101, 2)], 11: [(0x100, 1), (0x101, 3)]})
    stream = io.StringIO()
    write_report(snapshot, stream, "json")
    document = json.loads(stream.getvalue())
    assert document["families"][0]["members"][1] == {
        "pid": 11,
        "parent": 10,
        "shared_pages": 1,
        "copied_pages": 0,
        "apart_pages": 1,
    }
    assert document["processes"][0]["vmas"][0]["fork"]["shared_pages"] == 1
    text = io.StringIO()
    print_report(snapshot, Terminal(text, 100))
    assert "Anonymous memory that is shared since a fork" in text.getvalue()


def test_what_ksm_saves_is_a_part_of_its_own() -> None:
    pages = {pid: [(0x100 + n, 1) for n in range(3)] for pid in (10, 11)}
    snapshot = made(pages, FrameKind.KSM)
    totals = Sharing(snapshot).totals
    assert (totals.ksm_pages, totals.ksm_frames, totals.saved_pages) == (6, 1, 5)
    text = io.StringIO()
    print_report(snapshot, Terminal(text, 100))
    assert "KSM has merged 24 KiB into 4 KiB: 20 KiB of what sharing saves" in text.getvalue()


def test_without_frames_it_is_not_known_what_is_shared() -> None:
    builder = SnapshotBuilder("live", processes_wanted="some")
    builder.add_process(Process(10, comm="a"))
    sums = (2, 0, 0, 3, 5, 0)
    builder.add_vma(10, 0x100000, 0x105000, "rw-p", 0, -1, "[heap]", sums)
    builder.add_pages(10, range(0x100, 0x105), (0,) * 5, (PageFlags.PRESENT,) * 5)
    text = io.StringIO()
    print_report(builder.build(), Terminal(text, 120))
    (row,) = (line for line in text.getvalue().splitlines() if line.startswith("[heap]"))
    assert row.split()[-3:] == ["?", "?", "?"]


def test_vmas_of_a_process_that_was_asked_for() -> None:
    snapshot = made({10: [(0x100, 1)], 11: [(0x100, 1)]})
    snapshot.meta["processes_wanted"] = "some"
    text = io.StringIO()
    print_report(snapshot, Terminal(text, 120))
    assert "VMAs of 10: [10], by what they cost" in text.getvalue()
    assert "?" not in text.getvalue()
