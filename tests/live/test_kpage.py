"""The flags of frames mean the same on every kernel."""

from pathlib import Path

import numpy as np
import pytest
from proc_tree import FILE, PRESENT, ProcTree, maps_line

from samepage.abi.pagemap import Kpf
from samepage.live.capture import capture
from samepage.live.kpage import read_flags
from samepage.snapshot.kinds import FrameKind, PageFlags


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


def test_tails_have_the_flags_of_their_folio_on_kernels_that_show_them_at_its_head(
    tree: ProcTree,
) -> None:
    # As Linux 6.1 shows a folio of eight pages of shared memory, two single pages before it.
    tree.frame(
        16,
        1,
        Kpf.COMPOUND_HEAD
        | Kpf.THP
        | Kpf.LRU
        | Kpf.DIRTY
        | Kpf.SWAPBACKED
        | Kpf.UPTODATE
        | Kpf.MMAP,
    )
    for frame in range(17, 24):
        tree.frame(frame, 1, Kpf.COMPOUND_TAIL | Kpf.THP | Kpf.MMAP)
    tree.frame(14, 1, Kpf.LRU | Kpf.UPTODATE)
    tree.frame(15, 1, Kpf.LRU | Kpf.DIRTY | Kpf.ANON)
    wanted = np.array([14, 17, 22, 23], dtype=np.uint64)
    single, *tails = read_flags(wanted, tree.proc).tolist()
    assert single == Kpf.LRU | Kpf.UPTODATE
    tail = Kpf.COMPOUND_TAIL | Kpf.THP | Kpf.MMAP
    assert tails == 3 * [tail | Kpf.LRU | Kpf.DIRTY | Kpf.SWAPBACKED | Kpf.UPTODATE]


def test_a_tail_without_a_head_keeps_its_own_flags(tree: ProcTree) -> None:
    tree.frame(1 << 19 | 5, 1, Kpf.COMPOUND_TAIL | Kpf.MMAP)
    tree.frame(1 << 19 | 4, 1, Kpf.LRU | Kpf.DIRTY)
    flags = read_flags(np.array([1 << 19 | 5, 1 << 40], dtype=np.uint64), tree.proc)
    assert flags.tolist() == [Kpf.COMPOUND_TAIL | Kpf.MMAP, Kpf.NOPAGE]


def test_all_pages_of_a_large_folio_of_shared_memory_are_shared_memory_and_dirty(
    tree: ProcTree,
) -> None:
    tree.frame(
        16,
        2,
        Kpf.COMPOUND_HEAD
        | Kpf.THP
        | Kpf.LRU
        | Kpf.DIRTY
        | Kpf.SWAPBACKED
        | Kpf.UPTODATE
        | Kpf.MMAP,
    )
    for frame in range(17, 20):
        tree.frame(frame, 2, Kpf.COMPOUND_TAIL | Kpf.THP | Kpf.MMAP)
    pages = {0x400 + page: PRESENT | FILE | 16 + page for page in range(4)}
    tree.process(10, maps_line(0x400000, 0x404000, "rw-s 00000000 00:01 5 /dev/shm/x"), pages)
    snapshot = capture(proc=tree.proc)
    assert set(snapshot.frames.kind.tolist()) == {FrameKind.SHMEM}
    assert ((snapshot.pages.flags & PageFlags.DIRTY) != 0).all()
