"""A child process collects; what it does, and what happens if it is killed."""

import os
import signal
import time
from pathlib import Path

import pytest
from proc_tree import PRESENT, ProcTree, maps_line

from samepage.live import background
from samepage.live.background import BackgroundCollector
from samepage.live.capture import capture
from samepage.snapshot.columns import Snapshot

PIDS = range(10, 40)


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path / "proc")
    for pid in PIDS:
        pages = {0x400 + page: PRESENT | (pid * 3 + page) for page in range(20)}
        tree.process(pid, maps_line(0x400000, 0x420000), pages)
    return tree


def contents(snapshot: Snapshot) -> tuple[list[int], list[int], list[int]]:
    every = slice(0, len(snapshot.pages))
    frames = snapshot.frame_numbers(every)
    vpages = snapshot.pages.vpages(every.start, every.stop)
    return [process.pid for process in snapshot.processes], vpages.tolist(), frames.tolist()


def test_it_collects_what_this_process_would(tree: ProcTree) -> None:
    expected = capture(PIDS, proc=tree.proc)
    collector = BackgroundCollector(PIDS, proc=tree.proc)
    snapshot = capture(PIDS, proc=tree.proc, collector=collector)
    assert contents(snapshot) == contents(expected)
    assert snapshot.meta["processes_captured"] == str(len(PIDS))


def test_what_was_read_is_cut_out_of_the_file(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_RELEASE", 4096)
    expected = capture(PIDS, proc=tree.proc)
    collector = BackgroundCollector(PIDS, proc=tree.proc)
    file = os.dup(collector._file)
    snapshot = capture(PIDS, proc=tree.proc, collector=collector)
    assert contents(snapshot) == contents(expected)
    assert os.fstat(file).st_blocks * 512 < os.fstat(file).st_size
    os.close(file)


def test_a_child_that_is_killed_is_replaced(tree: ProcTree) -> None:
    base = tree.path / "25"
    (base / "cgroup").unlink()
    os.mkfifo(base / "cgroup")  # the child waits here
    collector = BackgroundCollector(PIDS, proc=tree.proc)
    time.sleep(0.3)
    os.kill(collector._child, signal.SIGKILL)
    (base / "cgroup").unlink()
    (base / "cgroup").write_bytes(b"0::/\n")
    snapshot = capture(PIDS, proc=tree.proc, collector=collector)
    assert contents(snapshot) == contents(capture(PIDS, proc=tree.proc))
    assert snapshot.meta["processes_captured"] == str(len(PIDS))
