"""Our counts from frames against the kernel's smaps, for processes that do not run."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_processes import KEYS, group_members, needs_frames, read_smaps

from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.live.pagemap import Scanner, ScanUnsupported, end_of_memory
from samepage.snapshot.kinds import FrameFlags, FrameKind, PageFlags

Start = Callable[[str], int]
pytestmark = needs_frames

FORKED = """
import json, mmap, os, threading, time
shared = mmap.mmap(-1, 64 * 4096)
shared[:8 * 4096] = bytes(range(256)) * 128
private = bytearray(b"x") * (3 << 20)
ready, go = os.pipe()
for worker in range(3):
    if os.fork() == 0:
        private[: 4096 * 100 * (worker + 1)] = b"y" * (4096 * 100 * (worker + 1))
        shared[4096 * (9 + worker)] = 1
        threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        os.write(go, b".")
        time.sleep(1000)
for worker in range(3):
    os.read(ready, 1)
print("ready", flush=True)
time.sleep(1000)
"""

SHARED_FILE = """
import mmap, os, tempfile, time
with tempfile.TemporaryFile(dir={directory!r}) as file:
    file.truncate(64 * 4096)
    view = mmap.mmap(file.fileno(), 64 * 4096)
    view[: 5 * 4096] = b"a" * (5 * 4096)
    os.fsync(file.fileno())
    view[4096] = 7
    other = mmap.mmap(file.fileno(), 64 * 4096, access=mmap.ACCESS_COPY)
    other[8 * 4096] = 1
    total = sum(other[::4096])
    print("ready", flush=True)
    time.sleep(1000)
"""

HUGE = """
import mmap, os, time
area = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_HUGEPAGE)
area[:: 4096] = b"h" * (len(area) >> 12)  # without a read before: that maps the huge zero page
if os.fork() == 0:
    area[0] = 1
    time.sleep(1000)
time.sleep(0.2)
print("ready", flush=True)
time.sleep(1000)
"""

HUGE_SHMEM = """
import mmap, os, time
setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
try:
    before = open(setting).read().partition("[")[2].partition("]")[0]
    open(setting, "w").write("advise")
    area = mmap.mmap(-1, 8 << 20)
    area.madvise(mmap.MADV_HUGEPAGE)
    area[:: 4096] = b"h" * (len(area) >> 12)
    open(setting, "w").write(before)
    smaps = open("/proc/self/smaps").read()
    huge = "ShmemPmdMapped:     8192 kB" in smaps or "ShmemPmdMapped:     6144 kB" in smaps
    print("ready" if huge else "no huge pages of shared memory", flush=True)
except OSError as error:
    print("no huge pages of shared memory:", error, flush=True)
time.sleep(1000)
"""

ZERO = """
import mmap, time
area = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
total = sum(area[::4096])
area[4096] = 1
print("ready", flush=True)
time.sleep(1000)
"""

LAZY_FREE = """
import mmap, os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
area = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[::4096] = b"x" * 64
area.madvise(mmap.MADV_FREE, 0, 16 * 4096)
# The kernel marks the folios later, in batches per CPU; MADV_COLD drains this CPU's.
MADV_COLD = 20
area.madvise(MADV_COLD, 32 * 4096, 4096)
print("ready", flush=True)
time.sleep(1000)
"""

KSM = """
import mmap, time
try:
    names = ("pages_to_scan", "sleep_millisecs", "run")
    before = [open("/sys/kernel/mm/ksm/" + name).read() for name in names]
    area = mmap.mmap(-1, 256 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_MERGEABLE)
    for page in range(256):
        area[page * 4096 : page * 4096 + 4096] = bytes([page % 4 + 1]) * 4096
    for name, value in zip(names, ("5000", "5", "1")):
        open("/sys/kernel/mm/ksm/" + name, "w").write(value)
    end = time.monotonic() + 10
    merged = 0
    while merged < 250 and time.monotonic() < end:
        merged = int(open("/proc/self/ksm_merging_pages").read())
        time.sleep(0.05)
    for name, value in zip(names, before):
        open("/sys/kernel/mm/ksm/" + name, "w").write(value)
    print("ready" if merged >= 250 else f"KSM merged only {merged} pages", flush=True)
except OSError as error:
    print("no KSM:", error, flush=True)
time.sleep(1000)
"""


def assert_equal_to_smaps(pids: list[int]) -> None:
    """Every sum of every VMA of the processes equals that of smaps: no page off.

    They do not run, but other processes of the machine map the same libraries and come and
    go between the two readings, which changes a Pss. So each VMA must be equal once, and
    what is wrong with a VMA must be wrong each time.
    """
    left = _differences_from_smaps(pids)
    for _ in range(100):
        if not left:
            return
        again = _differences_from_smaps(pids)
        left = {vma: difference for vma, difference in again.items() if vma in left}
    raise AssertionError(left)


def scans_pagemap() -> bool:
    """Whether the kernel has PAGEMAP_SCAN, which shows what huge entries map (Linux 6.7)."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        try:
            Scanner().scan(pagemap.fileno(), end_of_memory(Path("/proc/self/maps").read_bytes()))
        except ScanUnsupported:
            return False
    return True


def _differences_from_smaps(pids: list[int]) -> dict[int, object]:
    """Return what differs, by the number of the VMA."""
    snapshot = capture(pids)
    snapshot.check()
    assert [process.pid for process in snapshot.processes] == pids
    sharing = Sharing(snapshot)
    differences: dict[int, object] = {}
    for number, pid in enumerate(pids):
        smaps = read_smaps(pid)
        vmas = sharing.vmas(number)
        assert len(vmas) == len(smaps)
        for vma in vmas:
            usage = vma.usage
            columns = (
                usage.rss,
                usage.shared_clean,
                usage.shared_dirty,
                usage.private_clean,
                usage.private_dirty,
                usage.anonymous,
                usage.swap,
            )
            ours = [usage.pss_kib, *(pages * 4 for pages in columns)]
            theirs = [smaps[vma.start][key] for key in KEYS]
            if ours != theirs:
                pairs = zip(ours, theirs, strict=True)
                difference = dict(zip(KEYS, pairs, strict=True))
                differences[vma.number] = (vma.mapping.name, difference)
    return differences


def test_forked_workers_with_threads_and_shared_memory(stopped_program: Start) -> None:
    leader = stopped_program(FORKED)
    assert_equal_to_smaps(group_members(leader))


def test_file_mapped_shared_and_private(stopped_program: Start, tmp_path: os.PathLike[str]) -> None:
    pid = stopped_program(SHARED_FILE.format(directory=str(tmp_path)))
    assert_equal_to_smaps([pid])


def test_transparent_huge_pages(stopped_program: Start) -> None:
    leader = stopped_program(HUGE)
    pids = group_members(leader)
    assert_equal_to_smaps(pids)
    snapshot = capture(pids)
    if scans_pagemap():
        huge = (snapshot.pages.flags & PageFlags.HUGE) != 0
        assert huge.sum() >= 2 * 3 * 512  # the parent's last three, and the child's, at least


def test_huge_pages_of_shared_memory_are_shared_memory_and_dirty(stopped_program: Start) -> None:
    pid = stopped_program(HUGE_SHMEM)
    assert_equal_to_smaps([pid])
    frames = capture([pid]).frames
    huge = (frames.kind == FrameKind.SHMEM) & ((frames.flags & FrameFlags.THP) != 0)
    assert huge.sum() >= 3 * 512


def test_zero_pages_are_present_and_in_no_sum(stopped_program: Start) -> None:
    pid = stopped_program(ZERO)
    assert_equal_to_smaps([pid])
    snapshot = capture([pid])
    zero = snapshot.frames.kind == FrameKind.ZERO
    assert zero.sum() == 1
    row = int(zero.nonzero()[0][0])
    assert (snapshot.pages.frame == row).sum() >= 63


def test_pages_given_up_by_madv_free_are_clean(stopped_program: Start) -> None:
    assert_equal_to_smaps([stopped_program(LAZY_FREE)])


SWAPPED = """
import mmap, time
MADV_PAGEOUT = 21
area = mmap.mmap(-1, 512 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(512):
    area[page * 4096 : page * 4096 + 8] = page.to_bytes(8, "little")
area.madvise(MADV_PAGEOUT, 0, 256 * 4096)
total = sum(area[: 16 * 4096 : 4096])  # back from swap, unchanged: clean
area[20 * 4096] = 1  # back from swap and changed
print("ready", flush=True)
time.sleep(1000)
"""

SHARED_READ_FIRST = """
import mmap, time
area = mmap.mmap(-1, 64 * 4096)
total = sum(area[: 32 * 4096 : 4096])
area[32 * 4096 : 33 * 4096] = b"w" * 4096
{then}
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Swap space of 64 MiB for as long as the test runs."""
    path = tmp_path_factory.mktemp("swap") / "file"
    path.touch(0o600)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
    for command in (["mkswap", str(path)], ["swapon", str(path)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not installed")
        if done.returncode:
            pytest.skip(f"no swap can be made here: {done.stderr.strip()}")
    yield
    subprocess.run(["swapoff", str(path)], check=True, timeout=60)


def test_pages_in_swap_and_back_from_it(swap: None, stopped_program: Start) -> None:
    pid = stopped_program(SWAPPED)
    assert_equal_to_smaps([pid])
    assert Sharing(capture([pid])).totals.swapped_pages >= 200


def test_shared_memory_that_was_read_first_and_then_written(stopped_program: Start) -> None:
    # The PTEs are dirty and the folios are not: neither pagemap nor kpageflags shows it.
    pid = stopped_program(SHARED_READ_FIRST.format(then="area[: 64 * 4096 : 4096] = b'x' * 64"))
    assert_equal_to_smaps([pid])


def test_shared_memory_of_which_some_pages_were_written(stopped_program: Start) -> None:
    pid = stopped_program(SHARED_READ_FIRST.format(then="area[: 8 * 4096 : 4096] = b'x' * 8"))
    assert_equal_to_smaps([pid])


HUGETLB = """
import mmap, os, time
MAP_HUGETLB = 0x40000
try:
    areas = [
        mmap.mmap(-1, 2 << 20, flags=kind | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
        for kind in (mmap.MAP_PRIVATE, mmap.MAP_SHARED)
    ]
    for area in areas:
        area[0] = 1
    print("ready", flush=True)
except OSError as error:
    print("no huge pages:", error, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Four huge pages of hugetlbfs for as long as the test runs."""
    path = "/proc/sys/vm/nr_hugepages"
    try:
        with open(path) as file:
            before = int(file.read())
        with open(path, "w") as file:
            file.write(str(before + 4))
    except OSError as error:
        pytest.skip(f"no huge pages can be made here: {error}")
    yield
    with open(path, "w") as file:
        file.write(str(before))


def test_hugetlb_pages_are_distinguished_and_not_resident(
    huge_pages: None, stopped_program: Start
) -> None:
    pid = stopped_program(HUGETLB)
    assert_equal_to_smaps([pid])
    for all_flags in (True, False):
        snapshot = capture([pid], all_flags=all_flags)
        assert (snapshot.frames.kind == FrameKind.HUGETLB).sum() == 2 * 512


def test_pages_merged_by_ksm(stopped_program: Start) -> None:
    pid = stopped_program(KSM)
    assert_equal_to_smaps([pid])
    snapshot = capture([pid])
    assert (snapshot.frames.kind == FrameKind.KSM).sum() == 4
