"""Which part of an address space is read: all that the process has, on any processor."""

import os
from pathlib import Path

import numpy as np
import pytest
from live_processes import needs_frames
from proc_tree import PRESENT, ProcTree, maps_line

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import Kpf
from samepage.live.capture import capture
from samepage.live.maps import MapsParser
from samepage.live.pagemap import Scanner, ScanUnsupported, end_of_memory
from samepage.live.procfs import Tally
from samepage.snapshot.columns import Vmas, place
from samepage.snapshot.pages import Pages

VSYSCALL = maps_line(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp 00000000 00:00 0 [vsyscall]")
LAYOUTS = {
    "x86-64, four levels": (0x55D0C0DE0000, 0x7FFFFFFFF000),
    "x86-64, five levels": (0x55D0C0DE0000, 0xFFFFFFFFFFF000),
    "i386": (0x8048000, 0xFFFFE000),
    "arm64, 39 bits": (0x5500000000, 0x8000000000),
    "arm64, 48 bits": (0xAAAAC0DE0000, 0x1000000000000),
    "arm64, 52 bits": (0xAAAAC0DE0000, 0x10000000000000),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gate", [b"", VSYSCALL])
def test_the_end_is_that_of_the_last_vma(layout: str, gate: bytes) -> None:
    text, stack = LAYOUTS[layout]
    maps = maps_line(text, text + 0x1000) + maps_line(stack - 0x21000, stack, "rw-p 0 00:00 0 ")
    assert end_of_memory(maps + gate) == stack


@pytest.mark.parametrize("maps", [b"", b"\n", VSYSCALL, b"nothing at all", b"\n\n"])
def test_without_a_vma_there_is_nothing_to_read(maps: bytes) -> None:
    assert end_of_memory(maps) == 0


@pytest.mark.parametrize("layout", ["x86-64, four levels", "i386", "arm64, 48 bits"])
def test_programs_at_the_usual_addresses_of_a_processor(layout: str, tmp_path: Path) -> None:
    text, stack = LAYOUTS[layout]
    tree = ProcTree(tmp_path / "proc")
    maps = maps_line(text, text + 0x2000) + maps_line(stack - 0x1000, stack) + VSYSCALL
    pages = {text >> 12: PRESENT | 7, (text >> 12) + 1: PRESENT | 8, (stack >> 12) - 1: PRESENT | 9}
    tree.process(10, maps, pages)
    for frame in (7, 8, 9):
        tree.frame(frame, 1, Kpf.ANON | Kpf.SWAPBACKED)
    snapshot = capture(proc=tree.proc)
    assert np.diff(snapshot.bounds).tolist() == [2, 1, 0]
    assert snapshot.meta["processes_changed"] == "0"


def test_virtual_pages_of_five_levels_keep_their_order() -> None:
    # 57 bits of address: half of them the user's, 44 bits of page number.
    high = (1 << 44) - 2
    pages = Pages(
        np.array([0, 0, 1], dtype=np.int32),
        np.array([5, high, 5], dtype=np.uint64),
        np.array([0, 3, 5], dtype=np.int64),
        np.zeros(9, dtype=np.int32),
        np.zeros(9, dtype=np.uint16),
    )
    parser = MapsParser(Tally())
    lines = maps_line(5 << 12, 8 << 12) + maps_line(high << 12, high + 2 << 12) + VSYSCALL
    parser.add([(0, lines), (1, maps_line(5 << 12, 9 << 12))])
    first, last = place(Vmas(*parser.vmas(), []), pages)
    assert first.tolist() == [0, 3, 5, 5]
    assert last.tolist() == [3, 5, 5, 9]


@needs_frames
def test_the_kernel_scans_up_to_the_end_of_memory() -> None:
    maps = Path("/proc/self/maps").read_bytes()
    end = end_of_memory(maps)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        ranges, _ = Scanner().scan(fd, end)
    except ScanUnsupported:
        pytest.skip("PAGEMAP_SCAN is of Linux 6.7")
    finally:
        os.close(fd)
    # The last VMA but the gate is the stack, or [vdso] above it: a page of it is resident.
    assert ranges[-1][1] * HOST_PAGE_SIZE > end - (8 << 20)
