"""What /proc may contain, and must not confuse or stop a capture."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proc_tree import EXCLUSIVE, FILE, PRESENT, SWAPPED, ProcTree, maps_line

from samepage.abi.pagemap import Kpf
from samepage.analysis.sharing import Sharing
from samepage.errors import SamepageError
from samepage.live import patience
from samepage.live.capture import capture
from samepage.live.maps import MapsParser
from samepage.live.procfs import Tally
from samepage.snapshot.columns import Snapshot
from samepage.snapshot.kinds import FrameKind


def vpages(snapshot: Snapshot) -> list[int]:
    return snapshot.pages.vpages(0, len(snapshot.pages)).tolist()


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


def test_pages_are_read_without_the_ioctl(tree: ProcTree) -> None:
    pages = {0x400: PRESENT | EXCLUSIVE | 7, 0x402: SWAPPED | 5, 0x403: PRESENT | FILE | 9}
    tree.process(10, maps_line(0x400000, 0x404000), pages)
    tree.frame(7, 1, Kpf.ANON | Kpf.SWAPBACKED)
    tree.frame(9, 3, 0)
    snapshot = capture(proc=tree.proc)
    assert vpages(snapshot) == [0x400, 0x402, 0x403]
    assert snapshot.frame_numbers(slice(0, 3)).tolist() == [7, 0, 9]
    assert snapshot.frames.kind.tolist() == [FrameKind.ANON, FrameKind.FILE]
    assert snapshot.frames.mapcount.tolist() == [1, 3]
    (process,) = snapshot.processes
    assert (process.comm, process.argv, process.uid) == ("a (b) c", ("a", "b c"), os.getuid())
    assert (process.ppid, process.minor_faults, process.major_faults) == (1, 70, 8)


def test_a_short_pagemap_is_counted_and_keeps_what_it_has(tree: ProcTree) -> None:
    tree.process(10, maps_line(0x400000, 0x800000), {0x400: PRESENT | 7})
    result = capture(proc=tree.proc)
    assert len(result.pages) == 1
    assert result.meta["processes_changed"] == "1"


def test_a_reservation_of_terabytes_is_not_read_page_by_page(tree: ProcTree) -> None:
    end = 0x7FFF00000000
    maps = maps_line(0x400000, 0x401000) + maps_line(0x10000000, end, "---p 00000000 00:00 0 ")
    base = tree.process(10, maps, {0x400: PRESENT | 7, 0x401: 0})
    (base / "smaps").write_bytes(
        maps_line(0x400000, 0x401000) + b"Rss:    4 kB\nSwap:    0 kB\n"
        b"10000000-7fff00000000 ---p 00000000 00:00 0 \nRss:    0 kB\nSwap:    0 kB\n"
    )
    os.truncate(base / "pagemap", (end >> 12) * 8)
    started = time.monotonic()
    assert len(capture(proc=tree.proc).pages) == 1
    assert time.monotonic() - started < 5


def test_pages_outside_of_all_mappings_are_left_out_and_counted(tree: ProcTree) -> None:
    # As if a mapping had gone between the reading of maps and of pagemap.
    maps = maps_line(0x400000, 0x401000) + maps_line(0x403000, 0x404000)
    tree.process(10, maps, {vpage: PRESENT | vpage for vpage in range(0x400, 0x404)})
    snapshot = capture(proc=tree.proc)
    assert vpages(snapshot) == [0x400, 0x403]
    assert snapshot.meta["processes_changed"] == "1"


def test_an_anonymous_page_that_is_freed_meanwhile_is_no_page_of_a_file(tree: ProcTree) -> None:
    # The flags of a free frame are those of no kind, and so are those of the page cache.
    pages = {0x400: PRESENT | EXCLUSIVE | 7, 0x401: PRESENT | FILE | 9}
    tree.process(10, maps_line(0x400000, 0x402000, "rw-p 00000000 08:01 5 /lib/x"), pages)
    tree.frame(7, 0, 0)
    tree.frame(9, 1, 0)
    snapshot = capture(proc=tree.proc)
    assert snapshot.frames.kind.tolist() == [FrameKind.ANON, FrameKind.FILE]
    assert snapshot.frames.file.tolist() == [-1, 0]
    assert Sharing(snapshot).totals.copied_pages == 1


def test_a_mapping_that_is_there_twice_is_read_once(tree: ProcTree) -> None:
    tree.process(10, 2 * maps_line(0x400000, 0x402000), {0x401: PRESENT | 7})
    assert vpages(capture(proc=tree.proc)) == [0x401]


def test_a_process_that_cannot_be_read_is_counted(tree: ProcTree) -> None:
    tree.process(10, maps_line(0x400000, 0x401000), {0x400: PRESENT | 7})
    for pid, target in ((11, "/dev/null/none"), (12, "maps")):
        (tree.path / str(pid)).mkdir()
        (tree.path / str(pid) / "maps").symlink_to(target)  # ENOTDIR, ELOOP
    result = capture(proc=tree.proc)
    assert [process.pid for process in result.processes] == [10]
    assert result.meta["processes_denied"] == "2"


def test_a_kernel_thread_that_cannot_be_read_has_no_memory(tree: ProcTree) -> None:
    for pid, size in ((11, 0), (12, 4096)):
        (tree.path / str(pid)).mkdir()
        (tree.path / str(pid) / "maps").symlink_to("/dev/null/none")
        fields = ["S", *["0"] * 19, str(size), *["0"] * 29]  # vsize is the 23rd of proc(5)
        (tree.path / str(pid) / "stat").write_text(f"{pid} (k) {' '.join(fields)}\n")
    meta = capture(proc=tree.proc).meta
    assert (meta["processes_denied"], meta["processes_without_memory"]) == ("1", "1")


def test_processes_that_vanish_half_way_are_counted(tree: ProcTree) -> None:
    for pid, missing in ((10, "pagemap"), (11, "stat"), (12, "maps"), (13, None)):
        base = tree.process(pid, maps_line(0x400000, 0x401000), {0x400: PRESENT | 7})
        if missing:
            (base / missing).unlink()
    result = capture(proc=tree.proc)
    assert [process.pid for process in result.processes] == [13]
    assert result.meta["processes_vanished"] == "3"
    assert result.meta["processes_captured"] == "1"


def test_a_process_that_blocks_its_readers_is_given_up(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Opening a FIFO without a writer waits, as reading maps does while its lock is held.
    for pid in (10, 11, 12):
        base = tree.process(pid, maps_line(0x400000, 0x401000), {0x400: PRESENT | pid})
        if pid == 11:
            (base / "cgroup").unlink()
            os.mkfifo(base / "cgroup")
    tally = Tally()
    started = time.monotonic()
    batches = list(patience.collect_system(None, tally, proc=tree.proc, patience=0.2))
    assert time.monotonic() - started < 5
    assert [process.pid for batch in batches for process in batch.processes] == [10, 12]
    assert [list(batch.runs)[:1] for batch in batches if batch.runs] == [[0], [1]]
    assert tally.stuck == 1
    assert tally.captured == 2


def test_a_file_that_does_not_answer_is_named_without_a_look_at_it() -> None:
    started = time.monotonic()

    def look(number: int) -> int:
        if number in (2, 4):
            time.sleep(3)
        return number * 10

    looks = patience.each_patiently(range(6), look, patience=0.2)
    assert looks == [0, 10, None, 30, None, 50]
    assert time.monotonic() - started < 2


def test_an_error_of_a_look_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        patience.each_patiently([1, 0], lambda number: 1 // number)


def test_a_proc_that_is_not_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(SamepageError, match="No such file"):
        capture(proc=str(tmp_path / "none"))


NAMES = st.one_of(
    st.binary(max_size=30).map(lambda name: b"/" + name.replace(b"\n", b"\\012")),
    st.sampled_from(
        [b"", b"[heap]", b"[stack]", b"[vdso]", b"/a (deleted)", b"/a (deleted) (deleted)"]
    ),
)
GOOD_LINE = st.builds(
    lambda start, pages, perms, offset, ino, name: (
        start,
        start + pages,
        b"%x-%x %s %08x fe:00 %d                 %s\n"
        % (start << 12, (start + pages) << 12, perms, offset << 12, ino, name),
    ),
    st.integers(0, (1 << 35) - 1),
    st.integers(1, 1 << 20),
    st.sampled_from([b"r--p", b"rw-p", b"r-xp", b"rw-s"]),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 40),
    NAMES,
)
BAD_LINE = st.one_of(
    st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"") + b"\n"),
    st.sampled_from(
        [
            b"fff-000 rw-p 0 0:0 0\n",
            b"0-ffffffffffffffff rw-p 0 0:0 0\n",
            b"00400000-00400001 rw-p 0 0:0 0\n",
            b"123456789abcdef01-2 rw-p 0 0:0 0\n",
            b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n",
        ]
    ),
)


@given(st.lists(GOOD_LINE, max_size=8))
def test_every_line_of_a_kernel_is_understood(lines: list[tuple[int, int, bytes]]) -> None:
    lines.sort()
    kept = []
    last = 0
    for start, end, text in lines:
        if start >= last:
            kept.append((start, end, text))
            last = end
    tally = Tally()
    parser = MapsParser(tally)
    parser.add([(3, b"".join(text for _, _, text in kept))])
    _, starts, ends, mappings = parser.vmas()
    assert [(s >> 12, e >> 12) for s, e in zip(starts.tolist(), ends.tolist(), strict=True)] == [
        (start, end) for start, end, _ in kept
    ]
    assert tally.malformed == 0
    for row, (_, _, text) in enumerate(kept):
        mapping = parser.mappings[mappings[row]]
        written = text.split(b" ", 4)[4].split(b" ", 1)[1].strip(b" ")[:-1]
        assert mapping.name.encode("utf-8", "surrogateescape") == written.lstrip(b" ")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    processes=st.lists(
        st.tuples(
            st.lists(st.one_of(GOOD_LINE.map(lambda line: line[2]), BAD_LINE), max_size=6),
            st.dictionaries(st.integers(0, 1 << 20), st.integers(0, (1 << 64) - 1), max_size=8),
            st.binary(max_size=80),
        ),
        max_size=4,
    ),
)
def test_no_content_of_proc_breaks_a_capture(
    tmp_path: Path, processes: list[tuple[list[bytes], dict[int, int], bytes]]
) -> None:
    tree = ProcTree(tmp_path / f"proc{time.monotonic_ns()}")
    for pid, (lines, pages, noise) in enumerate(processes, 1):
        base = tree.process(pid, b"".join(lines), pages)
        for name in ("stat", "cgroup", "cmdline"):
            (base / name).write_bytes(noise)
    snapshot = capture(proc=tree.proc)
    snapshot.check()
    assert len(snapshot.processes) + int(snapshot.meta["processes_without_memory"]) + int(
        snapshot.meta["processes_vanished"]
    ) == len(processes)
