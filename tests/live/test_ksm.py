"""Frames that KSM has merged, on kernels whose mark of them can be believed and on others.

A page of samepage's own shows which kernel it is; here what it shows is injected. The same with
real kernels of both kinds is tests/live/test_accounting.py on them (`make verify-kernels`).
"""

from pathlib import Path

import pytest
from live_processes import needs_frames
from proc_tree import PRESENT, ProcTree, maps_line

from samepage.abi.pagemap import Kpf
from samepage.analysis.sharing import Sharing
from samepage.live import ksm
from samepage.live.capture import capture
from samepage.report.text import notes
from samepage.snapshot.kinds import FrameKind

PLAIN = Kpf.ANON | Kpf.SWAPBACKED | Kpf.LRU | Kpf.KSM
MERGED = PLAIN | Kpf.DIRTY


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcTree:
    """A kernel that marks all anonymous frames, on which KSM has run."""
    monkeypatch.setattr(ksm, "own_page_flags", lambda proc: PLAIN)
    monkeypatch.setattr(ksm, "SYSFS", str(tmp_path))
    (tmp_path / "full_scans").write_text("3\n")
    return ProcTree(tmp_path / "proc")


def add(tree: ProcTree, pid: int, frames: list[list[int]], merged: list[int | None]) -> None:
    """Add a process with a VMA for each list of frames, with so many merged pages by smaps."""
    maps, smaps, pages = b"", b"", {}
    for number, (mine, count) in enumerate(zip(frames, merged, strict=True), 1):
        start = number << 24
        line = maps_line(start, start + (len(mine) << 12))
        maps += line
        smaps += line + b"Rss:   %d kB\n" % (4 * len(mine))
        if count is not None:
            smaps += b"KSM:   %d kB\n" % (4 * count)
        pages |= {(start >> 12) + page: PRESENT | frame for page, frame in enumerate(mine)}
    (tree.process(pid, maps, pages) / "smaps").write_bytes(smaps)


def kinds(tree: ProcTree) -> dict[int, FrameKind]:
    frames = capture(proc=tree.proc).frames
    return {int(f): FrameKind(k) for f, k in zip(frames.number, frames.kind, strict=True)}


@needs_frames
def test_a_page_of_our_own_is_anonymous_and_has_no_other_owner() -> None:
    flags = ksm.own_page_flags()
    assert flags & Kpf.ANON
    assert flags & Kpf.SWAPBACKED


def test_marks_are_believed_where_a_page_of_our_own_has_none(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ksm, "own_page_flags", lambda proc: PLAIN & ~Kpf.KSM)
    tree.frame(7, 5, PLAIN)
    tree.frame(8, 1, PLAIN & ~Kpf.KSM)
    add(tree, 10, [[7, 8]], [0])
    assert kinds(tree) == {7: FrameKind.KSM, 8: FrameKind.ANON}


def test_nothing_is_merged_before_ksm_has_ever_run(tree: ProcTree) -> None:
    (tree.path.parent / "full_scans").write_text("0\n")
    tree.frame(7, 1, MERGED)
    add(tree, 10, [[7]], [None])
    assert kinds(tree) == {7: FrameKind.ANON}


def test_a_kernel_without_ksm_merges_nothing(tree: ProcTree) -> None:
    (tree.path.parent / "full_scans").unlink()
    tree.frame(7, 1, MERGED)
    add(tree, 10, [[7]], [None])
    assert kinds(tree) == {7: FrameKind.ANON}


def test_clean_and_large_frames_are_not_merged(tree: ProcTree) -> None:
    tree.frame(6, 1, PLAIN)
    tree.frame(8, 1, MERGED | Kpf.THP | Kpf.COMPOUND_HEAD)
    tree.frame(9, 1, MERGED | Kpf.THP | Kpf.COMPOUND_TAIL)
    add(tree, 10, [[6, 8, 9]], [None])
    assert set(kinds(tree).values()) == {FrameKind.ANON}
    assert capture(proc=tree.proc).meta["frames_ksm_or_not_unknown"] == "0"


def test_smaps_decides_where_all_or_none_of_a_vma_are_merged(tree: ProcTree) -> None:
    for frame in (5, 6, 7, 8):
        tree.frame(frame, 2, MERGED)
    # Frame 6 is merged by the second VMA; so 5 is the one of the first that is not.
    add(tree, 10, [[5, 6], [6, 6, 7]], [1, 3])
    add(tree, 11, [[8]], [0])
    assert kinds(tree) == {
        5: FrameKind.ANON,
        6: FrameKind.KSM,
        7: FrameKind.KSM,
        8: FrameKind.ANON,
    }


def test_what_smaps_leaves_open_is_reported_as_unknown(tree: ProcTree) -> None:
    for frame in (5, 6, 7):
        tree.frame(frame, 1, MERGED)
    add(tree, 10, [[5, 6, 7]], [1])
    assert set(kinds(tree).values()) == {FrameKind.ANON}
    snapshot = capture(proc=tree.proc)
    text = "\n".join(notes(Sharing(snapshot)))
    assert "Merged by KSM: ? of 12 KiB (this kernel marks all anonymous pages" in text
    assert snapshot.meta["frames_ksm_or_not_unknown"] == "3"


def test_a_smaps_without_the_field_decides_nothing(tree: ProcTree) -> None:
    tree.frame(5, 1, MERGED)
    add(tree, 10, [[5]], [None])
    assert capture(proc=tree.proc).meta["frames_ksm_or_not_unknown"] == "1"
