"""Which frames a fault gives, and how it is counted."""

import pytest

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import Access
from samepage.arch.x86_64.paging import Pte
from samepage.kernel.errors import SysError
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault
from samepage.kernel.mm.fork import dup_mmap
from samepage.kernel.mm.mmap import do_mmap
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.uaccess import get_u32, get_u64, put_u32, put_u64
from tests.kernel.mm.mm_helpers import Memory, MemoryFile, numbered

RW = Prot.READ | Prot.WRITE
ANON = MapFlags.PRIVATE | MapFlags.ANONYMOUS
BASE = 0x10_0000_0000


def fixed(mm, pages, prot=RW, flags=MapFlags.PRIVATE, file=None, at=BASE, offset=0):
    flags |= MapFlags.FIXED | (0 if file else MapFlags.ANONYMOUS)
    return do_mmap(mm, at, pages << 12, prot, flags, file, offset)


def present(mm, start=BASE, pages=512):
    return [(a - start) >> 12 for a, _, _ in mm.table.present(start, start + (pages << 12))]


def pfn(mm, page, start=BASE):
    return (mm.table.get(start + (page << 12)) & Pte.FRAME) >> 12


def test_read_of_anonymous_memory_maps_the_zero_page_which_is_not_resident(mm):
    fixed(mm, 4)
    assert get_u64(mm, BASE) == 0
    assert pfn(mm, 0) == mm.frames.zero_pfn
    assert (mm.rss, mm.faults.minor) == ([0, 0, 0], 1)
    put_u64(mm, BASE, 7)
    assert pfn(mm, 0) != mm.frames.zero_pfn
    assert (mm.rss, mm.faults.minor) == ([0, 1, 0], 2)


def test_read_of_a_file_maps_the_aligned_window_with_one_fault(mm):
    fixed(mm, 40, Prot.READ, file=MemoryFile(numbered(40)))
    assert get_u32(mm, BASE + (20 << 12)) == 20
    assert present(mm) == list(range(16, 32))
    assert (mm.rss, mm.faults.minor) == ([16, 0, 0], 1)


def test_window_that_begins_with_the_vma_still_spans_sixteen_pages(mm):
    fixed(mm, 40, Prot.READ, file=MemoryFile(numbered(40)), at=BASE + 0x5000)
    get_u32(mm, BASE + 0x6000)
    assert present(mm) == list(range(5, 21))


def test_window_ends_with_the_file_and_beyond_it_is_a_bus_error(mm):
    fixed(mm, 8, Prot.READ, file=MemoryFile(numbered(3) + b"tail"))
    get_u32(mm, BASE)
    assert present(mm) == [0, 1, 2, 3]
    assert handle_mm_fault(mm, BASE + 0x4000, Access.READ) is FaultResult.BUS_ADRERR
    assert mm.faults.minor == 1


def test_private_write_copies_without_mapping_the_neighbours(mm):
    file = MemoryFile(numbered(8))
    fixed(mm, 8, file=file)
    put_u32(mm, BASE + 0x2000, 99)
    assert present(mm) == [2]
    assert get_u32(mm, BASE + 0x2000 + 4) == 2
    assert mm.cache.read(file, 2 << 12, 4) == b"\2\0\0\0"


def test_write_through_a_shared_mapping_is_seen_by_read(mm):
    file = MemoryFile(numbered(8))
    fixed(mm, 8, flags=MapFlags.SHARED, file=file)
    get_u32(mm, BASE)
    put_u32(mm, BASE + 0x1000, 99)
    assert mm.cache.read(file, 1 << 12, 4) == b"\x63\0\0\0"
    assert mm.faults.minor == 2


def test_shared_anonymous_page_read_first_is_written_without_a_second_fault(mm):
    fixed(mm, 4, flags=MapFlags.SHARED)
    get_u64(mm, BASE)
    put_u64(mm, BASE, 5)
    assert (mm.rss, mm.faults.minor) == ([0, 0, 1], 1)


def test_fork_shares_private_frames_until_one_side_writes(mm):
    fixed(mm, 4)
    put_u64(mm, BASE, 5)
    child = dup_mmap(mm)
    assert pfn(child, 0) == pfn(mm, 0)
    put_u64(child, BASE, 6)
    assert pfn(child, 0) != pfn(mm, 0)
    assert get_u64(mm, BASE) == 5
    mine = pfn(mm, 0)
    put_u64(mm, BASE, 7)
    assert pfn(mm, 0) == mine


def test_fork_copies_file_pages_only_of_vmas_that_were_written_privately(mm):
    file = MemoryFile(numbered(8))
    fixed(mm, 8, file=file)
    fixed(mm, 8, file=file, at=BASE + 0x10000)
    get_u32(mm, BASE)
    get_u32(mm, BASE + 0x10000)
    put_u32(mm, BASE, 1)
    child = dup_mmap(mm)
    assert present(child) == list(range(8))


def test_mprotect_to_writable_spares_the_fault_of_an_exclusive_page_only(mm):
    fixed(mm, 4)
    put_u64(mm, BASE, 1)
    do_mprotect(mm, BASE, 4096, Prot.READ)
    do_mprotect(mm, BASE, 4096, RW)
    assert mm.table.get(BASE) & Pte.WRITE
    child = dup_mmap(mm)
    child.destroy()
    do_mprotect(mm, BASE, 4096, Prot.READ)
    do_mprotect(mm, BASE, 4096, RW)
    assert not mm.table.get(BASE) & Pte.WRITE


def test_page_of_a_range_without_rights_stays_but_cannot_be_read(mm):
    fixed(mm, 1)
    put_u64(mm, BASE, 1)
    do_mprotect(mm, BASE, 4096, Prot.NONE)
    assert present(mm) == [0]
    assert not mm.table.get(BASE) & Pte.PRESENT
    with pytest.raises(SysError):
        get_u64(mm, BASE)
    do_mprotect(mm, BASE, 4096, RW)
    assert get_u64(mm, BASE) == 1


def test_cold_cache_reads_around_and_counts_a_major_fault():
    memory = Memory(cold=True)
    mm = memory.space()
    file = MemoryFile(numbered(64))
    fixed(mm, 64, Prot.READ, file=file)
    get_u32(mm, BASE + (32 << 12))
    assert sorted(file.pages) == list(range(16, 48))
    assert (mm.faults.minor, mm.faults.major) == (0, 1)
    # Page 40 is marked for readahead: it costs a fault of its own, which reads on.
    assert present(mm) == list(range(32, 40)) + list(range(41, 48))
