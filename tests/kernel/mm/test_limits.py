"""What a process may not have, and which errno it gets."""

import errno

import pytest

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import Access, mmap_base
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import vma_name
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault
from samepage.kernel.mm.mlock import do_mlock, do_mlockall
from samepage.kernel.mm.mmap import do_brk, do_mmap, do_munmap
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.mremap import do_mremap
from samepage.kernel.mm.uaccess import get_u64, put_u64
from samepage.kernel.mm.vma import VmFlags, flag_names

PAGE = 4096
RW = Prot.READ | Prot.WRITE
ANON = MapFlags.PRIVATE | MapFlags.ANONYMOUS
BASE = 0x10_0000_0000


def fails(number, function, *args):
    with pytest.raises(SysError) as caught:
        function(*args)
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def fixed(mm, page, pages, flags=ANON):
    return do_mmap(mm, BASE + page * PAGE, pages * PAGE, RW, flags | MapFlags.FIXED)


def test_address_space_limit_counts_mapped_pages(mm):
    mm.limits.address_space = 10 * PAGE
    fixed(mm, 0, 10)
    fails(errno.ENOMEM, do_mmap, mm, 0, PAGE, RW, ANON)
    fixed(mm, 2, 4)  # in place of others
    fails(errno.ENOMEM, do_mremap, mm, BASE, 10 * PAGE, 11 * PAGE, 1)


def test_data_limit_counts_private_writable_pages(mm):
    mm.limits.data = 4 * PAGE
    do_mmap(mm, 0, 100 * PAGE, Prot.READ, ANON)
    fixed(mm, 0, 4)
    fails(errno.ENOMEM, do_mmap, mm, 0, PAGE, RW, ANON)
    do_mmap(mm, BASE + 50 * PAGE, PAGE, Prot.READ, ANON | MapFlags.FIXED)
    fails(errno.ENOMEM, do_mprotect, mm, BASE + 50 * PAGE, PAGE, RW)


def test_one_request_larger_than_ram_is_refused_unless_it_is_not_reserved(mm):
    size = mm.frames.ram.size + PAGE
    fails(errno.ENOMEM, do_mmap, mm, 0, size, RW, ANON)
    assert do_mmap(mm, 0, size, RW, ANON | MapFlags.NORESERVE)
    assert do_mmap(mm, 0, size, Prot.NONE, ANON)


def test_locked_memory_is_limited_without_privilege(mm):
    mm.limits.memlock = 4 * PAGE
    fixed(mm, 0, 8)
    do_mlock(mm, BASE, 4 * PAGE)
    fails(errno.ENOMEM, do_mlock, mm, BASE, 5 * PAGE)
    fails(errno.EAGAIN, do_mmap, mm, 0, PAGE, RW, ANON | MapFlags.LOCKED)
    fails(errno.ENOMEM, do_mlockall, mm, 1)
    mm.limits.memlock = 0
    fails(errno.EPERM, do_mlock, mm, BASE, PAGE)
    mm.limits.privileged = True
    do_mlock(mm, BASE, 8 * PAGE)
    assert mm.locked_pages == 8


def test_map_count_limits_new_mappings_and_splits(mm):
    mm.limits.max_map_count = 2
    fixed(mm, 0, 8)
    fixed(mm, 10, 8)
    fails(errno.ENOMEM, do_munmap, mm, BASE + PAGE, PAGE)
    fails(errno.ENOMEM, do_mprotect, mm, BASE + PAGE, PAGE, Prot.READ)
    fixed(mm, 20, 1)
    fails(errno.ENOMEM, do_mmap, mm, 0, PAGE, RW, ANON)


def test_stack_grows_to_its_limit_and_keeps_the_guard_gap(mm):
    mm.limits.stack = 1024 * PAGE
    fixed(mm, 3000, 4, ANON | MapFlags.GROWSDOWN)
    put_u64(mm, BASE + 2500 * PAGE, 1)
    low = BASE + (3004 - 1025) * PAGE
    assert handle_mm_fault(mm, low, Access.WRITE) is FaultResult.SEGV_MAPERR
    put_u64(mm, low + PAGE, 1)
    do_munmap(mm, BASE, 3004 * PAGE)
    fixed(mm, 3000, 4, ANON | MapFlags.GROWSDOWN)
    fixed(mm, 2500, 1)
    assert handle_mm_fault(mm, BASE + 2700 * PAGE, Access.READ) is FaultResult.SEGV_MAPERR
    assert get_u64(mm, BASE + 2757 * PAGE) == 0


def test_heap_grows_shrinks_and_stops_at_its_neighbour(mm):
    mm.brk.start = mm.brk.end = BASE + 8
    mm.layout.start_stack = 0x7FFF_FFFF_E000
    assert do_brk(mm, BASE + 10 * PAGE) == BASE + 10 * PAGE
    put_u64(mm, BASE + 9 * PAGE, 1)
    (heap,) = mm.vmas
    assert vma_name(mm, heap) == "[heap]"
    do_mmap(mm, BASE + 20 * PAGE, PAGE, RW, ANON | MapFlags.FIXED)
    assert do_brk(mm, BASE + 20 * PAGE) == BASE + 10 * PAGE
    assert do_brk(mm, BASE + 19 * PAGE) == BASE + 19 * PAGE
    assert do_brk(mm, BASE + PAGE) == BASE + PAGE
    assert mm.rss == [0, 0, 0]
    assert do_brk(mm, 0) == BASE + PAGE


def test_mmap_base_follows_the_stack_limit():
    assert mmap_base(8 << 20) == 0x7FFF_F7FF_F000
    assert mmap_base(1 << 30) == 0x7FFF_FFFF_F000 - (1 << 30) - (1 << 20)


def test_flags_have_names():
    assert flag_names(VmFlags.READ | VmFlags.LOCKED) == ["READ", "LOCKED"]
