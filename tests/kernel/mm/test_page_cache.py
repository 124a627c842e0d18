"""Which file page is in which frame, who maps it, and what may go when memory is short."""

from samepage.abi.mman import Advice, MapFlags, Prot
from samepage.arch.x86_64.paging import Pte
from samepage.kernel.mm import rmap
from samepage.kernel.mm.fork import dup_mmap
from samepage.kernel.mm.madvise import do_madvise
from samepage.kernel.mm.mlock import do_mlock
from samepage.kernel.mm.mmap import do_mmap, do_munmap
from samepage.kernel.mm.reclaim import SWAP_CLUSTER_MAX, shrink
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user, get_u32, get_u64, put_u64
from tests.kernel.mm.mm_helpers import Memory, MemoryFile, check_invariants, numbered

PAGE = 4096
RW = Prot.READ | Prot.WRITE
ANON = MapFlags.PRIVATE | MapFlags.ANONYMOUS


def frame_of(mm, address):
    return (mm.table.get(address) & Pte.FRAME) >> 12


def test_two_processes_get_the_same_frame_of_a_file(memory):
    file = MemoryFile(numbered(20))
    one, two = memory.space(), memory.space()
    a = do_mmap(one, 0, 20 * PAGE, Prot.READ, MapFlags.PRIVATE, file)
    do_mmap(two, 0, 3 * PAGE, RW, ANON)
    b = do_mmap(two, 0, 20 * PAGE, Prot.READ, MapFlags.PRIVATE, file)
    get_u32(one, a)
    get_u32(two, b)
    pfn = frame_of(one, a)
    assert a != b
    assert pfn == frame_of(two, b) == memory.cache.lookup(file, 0)
    assert rmap.mappings(memory.cache.spaces, [pfn]) == {pfn: [(one, a >> 12), (two, b >> 12)]}


def test_reading_many_pages_is_one_read_of_the_storage(memory):
    file = MemoryFile(numbered(200))
    assert memory.cache.read(file, 10, 200 * PAGE) == file.data[10:]
    assert file.reads == 1


def test_written_pages_are_not_read_from_storage(memory):
    file = MemoryFile(numbered(4))
    memory.cache.write(file, PAGE, bytes(PAGE))
    assert file.reads == 0
    memory.cache.write(file, 2 * PAGE + 5, b"x")
    assert file.reads == 1
    memory.cache.write(file, 6 * PAGE + 1, b"end")
    assert memory.cache.read(file, 0, 1 << 20) == (
        file.data[:PAGE]
        + bytes(PAGE)
        + file.data[2 * PAGE : 2 * PAGE + 5]
        + b"x"
        + file.data[2 * PAGE + 6 :]
        + bytes(2 * PAGE + 1)
        + b"end"
    )


def test_pages_that_the_host_has_not_are_left_out_by_fault_around(memory):
    file = MemoryFile(numbered(16))
    memory.cache.residency[file.dev, file.ino] = lambda index: index % 2 == 0
    memory.cache.ra_pages = 1
    mm = memory.space()
    base = do_mmap(mm, 0x10_0000_0000, 16 * PAGE, Prot.READ, MapFlags.PRIVATE, file)
    get_u32(mm, base + 4 * PAGE)
    assert mm.rss == [8, 0, 0]
    assert (mm.faults.minor, mm.faults.major) == (1, 0)
    get_u32(mm, base + 5 * PAGE)
    assert (mm.faults.minor, mm.faults.major) == (1, 1)


def test_memory_given_up_is_taken_only_if_it_was_not_written_again():
    memory = Memory(64 * PAGE)
    mm = memory.space()
    base = do_mmap(mm, 0, 30 * PAGE, RW, ANON)
    copy_to_user(mm, base, b"x" * (30 * PAGE))
    do_madvise(mm, base, 20 * PAGE, Advice.FREE)
    copy_to_user(mm, base, b"\7")
    other = do_mmap(mm, 0, 35 * PAGE, RW, ANON)
    copy_to_user(mm, other, b"y" * (35 * PAGE))
    check_invariants(memory)
    assert copy_from_user(mm, base, 2) == b"\x07\x78"
    assert copy_from_user(mm, base + PAGE, 19 * PAGE) == bytes(19 * PAGE)
    assert copy_from_user(mm, base + 20 * PAGE, PAGE) == b"x" * PAGE


def test_mapped_clean_pages_are_reclaimed_last_and_come_back_with_a_major_fault():
    memory = Memory(64 * PAGE)
    mm = memory.space()
    file = MemoryFile(numbered(16))
    base = do_mmap(mm, 0, 16 * PAGE, Prot.READ, MapFlags.PRIVATE, file)
    get_u32(mm, base)
    anon = do_mmap(mm, 0, 44 * PAGE, RW, ANON)
    copy_to_user(mm, anon, b"y" * (44 * PAGE))
    assert mm.rss[0] == 0
    do_munmap(mm, anon, 44 * PAGE)
    assert get_u32(mm, base + 3 * PAGE) == 3
    assert mm.faults.major == 1
    check_invariants(memory)


def test_shared_anonymous_memory_ends_with_its_last_mapping(memory):
    mm = memory.space()
    base = do_mmap(mm, 0, 4 * PAGE, RW, MapFlags.SHARED | MapFlags.ANONYMOUS)
    put_u64(mm, base, 5)
    child = dup_mmap(mm)
    do_munmap(mm, base, 4 * PAGE)
    assert get_u64(child, base) == 5
    used = memory.frames.n_used
    child.destroy()
    assert not memory.cache.owner
    assert memory.frames.n_used < used
    check_invariants(memory)


def test_each_frame_that_the_kernel_writes_to_is_reported(memory):
    mm = memory.space()
    base = do_mmap(mm, 0, PAGE, RW, ANON)
    put_u64(mm, base, 1)
    memory.rewritten.clear()
    put_u64(mm, base, 2)
    assert memory.rewritten == [frame_of(mm, base)]
    file = MemoryFile(numbered(1))
    memory.cache.read(file, 0, 1)
    memory.cache.write(file, 0, b"a")
    assert memory.rewritten[-1] == memory.cache.lookup(file, 0)


def test_a_mapped_page_that_was_used_since_reclaim_last_looked_stays():
    memory = Memory(160 * PAGE)
    mm = memory.space()
    file = MemoryFile(numbered(70))
    base = do_mmap(mm, 0, 70 * PAGE, Prot.READ, MapFlags.PRIVATE, file)
    for page in range(70):
        get_u32(mm, base + page * PAGE)
    assert shrink(memory.cache, memory.frames) == SWAP_CLUSTER_MAX
    left = sorted(file.pages)[0]
    get_u32(mm, base + left * PAGE)
    assert shrink(memory.cache, memory.frames) == SWAP_CLUSTER_MAX
    assert left in file.pages
    check_invariants(memory)


def test_a_locked_page_is_not_reclaimed():
    memory = Memory(160 * PAGE)
    mm = memory.space()
    file = MemoryFile(numbered(4))
    base = do_mmap(mm, 0, 4 * PAGE, Prot.READ, MapFlags.PRIVATE, file)
    get_u32(mm, base)
    do_mlock(mm, base, 2 * PAGE)
    assert shrink(memory.cache, memory.frames) == 2
    assert sorted(file.pages) == [0, 1]
    assert shrink(memory.cache, memory.frames) == 0


def test_a_page_that_comes_back_soon_after_its_reclaim_is_a_refault():
    memory = Memory(160 * PAGE)
    file = MemoryFile(numbered(40))
    memory.cache.read(file, 0, 40 * PAGE)
    assert shrink(memory.cache, memory.frames) == SWAP_CLUSTER_MAX
    memory.cache.read(file, 0, 1)
    assert memory.cache.refaults == 1
    memory.cache.evict(file, 0)
    memory.cache.read(file, 0, 1)
    assert memory.cache.refaults == 1
