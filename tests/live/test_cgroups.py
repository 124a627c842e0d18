"""What control groups are charged for: real groups, with processes that use memory of each kind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_processes import needs_frames

from samepage.analysis.cgroup_memory import CgroupAccounts, CgroupMemory, Charge
from samepage.analysis.machine_memory import machine_memory
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.live.cgroups import Hierarchy, find_hierarchy
from samepage.report.cgroup_text import charge_lines
from samepage.snapshot.columns import Snapshot

MIB = 1 << 20
PAGES = MIB // 4096
FLUSHED = 2.5
"""Seconds after which memory.stat is exact: the kernel adds up what CPUs counted every two
(FLUSH_TIME in mm/memcontrol.c)."""
BATCH = 64 * 4096 * (os.cpu_count() or 1)
"""What may be charged in advance for all CPUs: MEMCG_CHARGE_BATCH pages for each."""

WORKER = """
import ctypes, mmap, os, sys
group, read, mapped, tmpfs = sys.argv[1:]
open(group + "/cgroup.procs", "w").write("0")
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(None, b"/", None, 0x44000, None):  # NEWNS, REC | PRIVATE
    sys.exit(print("no mount namespace", flush=True))
if libc.mount(b"none", tmpfs.encode(), b"tmpfs", 0, None):
    sys.exit(print("no tmpfs", flush=True))
def touch(path, megabytes):
    with open(path, "rb") as file:
        area = mmap.mmap(file.fileno(), megabytes << 20, prot=mmap.PROT_READ)
    return area, sum(area[i] for i in range(0, len(area), 4096))
buffer = bytearray(1 << 20)
print("base", flush=True); sys.stdin.readline()
with open(read, "rb", buffering=0) as file:
    while file.readinto(buffer): pass
area = touch(mapped, 4)
anonymous = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
anonymous[:] = b"a" * len(anonymous)
shared = mmap.mmap(-1, 2 << 20); shared[:] = b"s" * len(shared)
with open(tmpfs + "/f", "wb", buffering=0) as file:
    for _ in range(3): file.write(b"t" * (1 << 20))
print("done", flush=True); sys.stdin.readline()
"""


@pytest.fixture
def hierarchy() -> Hierarchy:
    found = find_hierarchy()
    if found is None:
        pytest.skip("no hierarchy with the memory controller is mounted")
    if os.geteuid() != 0 or not os.access(f"{found.mount}/cgroup.procs", os.W_OK):
        pytest.skip("control groups can be made by root only")
    return found


@pytest.fixture
def groups(hierarchy: Hierarchy) -> Iterator[list[str]]:
    """Directories of two new groups in a third one, with the memory controller."""
    top = f"{hierarchy.mount}/samepage-test-{os.getpid()}"
    made = [top, f"{top}/a", f"{top}/b"]
    Path(top).mkdir()
    if hierarchy.version == 2:
        Path(hierarchy.mount, "cgroup.subtree_control").write_text("+memory")
        Path(top, "cgroup.subtree_control").write_text("+memory")
    for path in made[1:]:
        Path(path).mkdir()
    yield made[1:]
    for path in reversed(made):
        for _ in range(100):
            try:
                Path(path).rmdir()
                break
            except OSError:  # its processes are still exiting
                time.sleep(0.05)


def make_file(path: Path, megabytes: int) -> Path:
    """A file that is on the disk, and of which nothing is in the page cache."""
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


class Worker:
    """A process in a group, which continues when it gets a line."""

    def __init__(self, code: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if line.startswith("no "):
            pytest.skip(f"cannot be set up here: {line}")
        assert line == word

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def all_read(snapshot: Snapshot) -> Snapshot:
    """Pretend that all processes could be read: those that cannot map nothing of the tests."""
    snapshot.meta |= {"processes_wanted": "all", "processes_denied": "0", "processes_stuck": "0"}
    return snapshot


def memory_of(hierarchy: Hierarchy, directory: str, pid: int) -> CgroupMemory:
    time.sleep(FLUSHED)
    path = hierarchy.path(directory)
    found = CgroupAccounts(Sharing(all_read(capture([pid], cgroups=[path])))).of(path)
    assert found is not None
    return found


def stat_of(directory: str) -> dict[str, int]:
    rows = (line.split() for line in Path(directory, "memory.stat").read_text().splitlines())
    return {key: int(value) for key, value in rows}


@needs_frames
def test_each_kind_of_memory_is_counted(
    hierarchy: Hierarchy, groups: list[str], tmp_path: Path
) -> None:
    read, mapped = make_file(tmp_path / "read", 20), make_file(tmp_path / "mapped", 4)
    (tmp_path / "tmpfs").mkdir()
    limit = "memory.max" if hierarchy.version == 2 else "memory.limit_in_bytes"
    top = os.path.dirname(groups[0])
    Path(top, limit).write_text(str(512 * MIB))
    worker = Worker(WORKER, groups[0], str(read), str(mapped), str(tmp_path / "tmpfs"))
    try:
        worker.wait_for("base")
        before = memory_of(hierarchy, groups[0], worker.pid)
        worker.go()
        worker.wait_for("done")
        after = memory_of(hierarchy, groups[0], worker.pid)
        stat = stat_of(groups[0])
    finally:
        worker.end()
    assert (before.kinds.file_mapped is None, after.kinds.file_mapped is None) == (False, False)
    assert after.kinds.file - before.kinds.file == 24 * MIB
    assert (after.kinds.file_unmapped or 0) - (before.kinds.file_unmapped or 0) == 20 * MIB
    assert (after.kinds.file_mapped or 0) - (before.kinds.file_mapped or 0) == 4 * MIB
    assert after.kinds.shmem - before.kinds.shmem == 5 * MIB
    assert 8 * MIB <= after.kinds.anonymous - before.kinds.anonymous < 10 * MIB
    keys = ("anon", "file", "shmem", "file_mapped")
    if hierarchy.version == 1:
        keys = ("total_rss", "total_cache", "total_shmem", "total_mapped_file")
    anon, file, shmem, _ = (stat[key] for key in keys)
    assert (after.kinds.anonymous, after.kinds.shmem) == (anon, shmem)
    assert after.kinds.file == file - shmem
    assert after.current == after.kinds.sum + after.rest
    assert -BATCH <= after.rest <= BATCH
    assert after.limit is not None
    assert (after.limit.value, after.limit.path) == (512 * MIB, hierarchy.path(top))


TOUCH = """
import mmap, sys
group, path = sys.argv[1:]
open(group + "/cgroup.procs", "w").write("0")
with open(path, "rb") as file:
    area = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(area[i] for i in range(0, len(area), 4096))
print("done", flush=True); sys.stdin.readline()
"""


@needs_frames
def test_who_reads_a_file_first_is_charged_for_it(
    hierarchy: Hierarchy, groups: list[str], tmp_path: Path
) -> None:
    if not os.path.exists("/proc/kpagecgroup"):
        pytest.skip("this kernel has no /proc/kpagecgroup")
    path = make_file(tmp_path / "shared", 3)
    workers = []
    try:
        for group in groups:
            workers.append(Worker(TOUCH, group, str(path)))
            workers[-1].wait_for("done")
        partial = capture([workers[1].pid])
        snapshot = all_read(capture([worker.pid for worker in workers]))
    finally:
        for worker in workers:
            worker.end()
    a, b = map(hierarchy.path, groups)
    accounts = CgroupAccounts(Sharing(snapshot))
    borrowed, lent = accounts.charges(b).borrowed, accounts.charges(a).lent
    assert borrowed is not None
    assert lent is not None
    frames = int((snapshot.frames.file == file_number(snapshot, path)).sum())
    assert frames == 3 * PAGES
    of_libraries = {each.path: each.frames for each in borrowed}[a] - frames
    assert of_libraries >= 0  # those that A was the first to read
    assert {each.path: each.frames for each in lent} == {b: frames + of_libraries}
    assert a not in {each.path for each in accounts.charges(a).borrowed or ()}
    both = accounts.charges(os.path.dirname(a))
    assert {a, b}.isdisjoint(each.path for each in both.borrowed or ())
    assert both.lent == ()
    # Of a part of the processes it is known what they borrow, not what others do.
    charges = CgroupAccounts(Sharing(partial)).charges(b)
    assert Charge(a, frames + of_libraries) in (charges.borrowed or ())
    assert charges.lent is None
    assert any("?" in line for line in charge_lines(charges))


def file_number(snapshot: Snapshot, path: Path) -> int:
    return next(n for n, file in enumerate(snapshot.files) if file.path == str(path))


def test_the_memory_of_the_machine_adds_up() -> None:
    memory = machine_memory(Sharing(capture([os.getpid()])))
    assert memory is not None
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) << 10
    assert memory.total == total
    parts = ("file_mapped", "file_unmapped")
    known = sum(value or 0 for key, _, value in memory.kinds if key not in parts)
    assert memory.used == known + memory.rest
    assert known > 0.8 * memory.used
