"""/proc: the live kernel's own text, taken apart and put together by the model's formats,
must come out the same; the figures must be those of the page tables."""

import errno
import os
import re
import resource
import struct
import subprocess
from types import SimpleNamespace

import pytest

from samepage.abi.mman import MapFlags, Prot
from samepage.abi.pagemap import PSS_SHIFT, Pm
from samepage.arch import PAGE_SIZE, Access
from samepage.cpu.ram import Ram
from samepage.kernel.fs.context import Credentials
from samepage.kernel.fs.fdtable import FdTable
from samepage.kernel.fs.procfs import maps, smaps, status
from samepage.kernel.fs.rootfs import HostRoot
from samepage.kernel.fs.vfs import Vfs
from samepage.kernel.mm.address_space import AddressSpace, FaultCounts
from samepage.kernel.mm.fault import handle_mm_fault
from samepage.kernel.mm.fork import dup_mmap
from samepage.kernel.mm.frames import Frames
from samepage.kernel.mm.mmap import do_mmap
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.rules import rules_of
from tests.kernel.fs_helpers import Clock, NoEngine, fails, names

BASE = 0x10_0000_0000


def read(path):
    with open(path) as file:
        return file.read()


@pytest.fixture
def machine(tree):
    """A kernel with one process, which has mapped /big privately and written one page."""
    frames = Frames(Ram(16 << 20), lambda pfn: None)
    cache = PageCache(frames)
    vfs = Vfs(cache, HostRoot(str(tree)), Clock())
    ctx = vfs.context(cwd=b"/dir")
    mm = AddressSpace(frames, cache, NoEngine())
    file = vfs.open(ctx, b"/big", os.O_RDONLY)
    fixed = MapFlags.PRIVATE | MapFlags.FIXED
    rw = Prot.READ | Prot.WRITE
    do_mmap(mm, BASE, 7 * PAGE_SIZE, rw, fixed, file.mappable, path="/big", filp=file)
    do_mmap(mm, BASE + (1 << 30), 4 * PAGE_SIZE, rw, fixed | MapFlags.ANONYMOUS)
    handle_mm_fault(mm, BASE, Access.READ)
    handle_mm_fault(mm, BASE + PAGE_SIZE, Access.WRITE)
    handle_mm_fault(mm, BASE + (1 << 30), Access.READ)
    copy_to_user(mm, BASE + (1 << 30) + PAGE_SIZE, b"prog\0arg one\0A=1\0")
    mm.layout.arg_start = BASE + (1 << 30) + PAGE_SIZE
    mm.layout.arg_end = mm.layout.env_start = mm.layout.arg_start + 13
    mm.layout.env_end = mm.layout.arg_start + 17
    files = FdTable()
    for path in (b"/dev/null", b"/file", b"/dir"):
        files.install(vfs.open(ctx, path, os.O_RDONLY))
    process = SimpleNamespace(
        pid=7, ppid=1, pgid=7, sid=1, comm="prog", state="R", mm=mm, files=files,
        thread_state=lambda tid: "R",
        exe=vfs.lookup(ctx, b"/big"), fs=ctx,
        cred=Credentials(), tids=[7, 8], auxv=b"\6" + bytes(15), limits={},
        nice=0, policy=(0, 0), start_time_ns=10**9, utime_ns=0, stime_ns=0, exit_status=0,
        total_faults=lambda: mm.faults, thread_faults=lambda tid: mm.faults,
        children_faults=FaultCounts(), children_time_ns=0, exited=False, personality=0,
        no_new_privs=False, seccomp_state=lambda tid: (0, 0), sig_shared_pending=0,
        sig_pending=lambda tid: 0, sig_blocked=lambda tid: 0, sig_queued=0,
        sig_ignored=1 << 12, sig_caught=2,
    )  # fmt: skip
    vfs.proc.kernel = SimpleNamespace(
        processes={7: process}, frames=frames, cache=cache, clock=Clock(),
        boot_time_ns=1_600_000_000_000_000_000, current_pid=7, current_tid=8,
        cpu_flags="fpu sse2", cpu_name="model",
    )  # fmt: skip
    return SimpleNamespace(vfs=vfs, ctx=ctx, mm=mm, process=process, frames=frames)


def text(machine, path):
    file = machine.vfs.open(machine.ctx, path, os.O_RDONLY)
    parts = []
    while part := file.read(100):
        parts.append(part)
    return b"".join(parts).decode()


def test_maps_lines_have_the_kernels_form():
    for line in read("/proc/self/maps").splitlines(keepends=True):
        span, rights, offset, dev, rest = line.rstrip("\n").split(" ", 4)
        start, end = (int(part, 16) for part in span.split("-"))
        major, minor = (int(part, 16) for part in dev.split(":"))
        ino, _, name = rest.partition(" ")
        fields = (int(offset, 16), os.makedev(major, minor), int(ino), name.lstrip())
        assert maps.header_line(start, end, rights, *fields) == line


def test_smaps_figures_have_the_kernels_form():
    places = {
        "Rss": "resident",
        "Pss": "pss",
        "Pss_Dirty": "pss_dirty",
        "Pss_Anon": "pss_anon",
        "Pss_File": "pss_file",
        "Pss_Shmem": "pss_shmem",
        "Shared_Clean": "shared_clean",
        "Shared_Dirty": "shared_dirty",
        "Private_Clean": "private_clean",
        "Private_Dirty": "private_dirty",
        "Referenced": "referenced",
        "Anonymous": "anonymous",
    }
    # A small program's own, without huge pages, which the model does not have.
    text = subprocess.run(["cat", "/proc/self/smaps_rollup"], capture_output=True, check=True)
    live = text.stdout.decode().split("\n", 1)[1]
    stats = smaps.MemSizeStats()
    for line in live.splitlines():
        name, size = line.split(":")
        if name in places:
            bytes_ = int(size.split()[0]) << 10
            bytes_ <<= PSS_SHIFT if name.startswith("Pss") else 0
            setattr(stats, places[name], bytes_)
    mm = SimpleNamespace(rules=rules_of(os.uname().release))
    assert smaps._figures(mm, stats, rollup=True) == live


def shape(content):
    """A text with its numbers taken out."""
    return re.sub(r"[0-9a-f]{3,}|\d+", "N", re.sub(r" +", " ", content))


def test_smaps_has_the_kernels_keys_in_order(machine):
    def keys(content):
        return [line.split(":")[0] for line in content.splitlines() if re.match(r"[A-Z]", line)]

    ours = keys(text(machine, b"/proc/7/smaps"))
    per_vma = len(ours) // 2
    live = keys(read("/proc/self/smaps"))
    # CPUs with protection keys have one more line.
    assert (
        ours[:per_vma] == [key for key in live[: per_vma + 1] if key != "ProtectionKey"][:per_vma]
    )


def test_smaps_counts_page_tables(machine):
    first = smaps.gather(machine.mm, next(iter(machine.mm.vmas)))
    # 16-page window: all seven pages are there; page 1 was written, and copied.
    assert first.resident == 7 * PAGE_SIZE
    assert (first.anonymous, first.private_dirty) == (PAGE_SIZE, PAGE_SIZE)
    assert first.private_clean == 6 * PAGE_SIZE
    anonymous = smaps.gather(machine.mm, list(machine.mm.vmas)[1])
    assert anonymous.resident == PAGE_SIZE  # the zero page does not count
    child = dup_mmap(machine.mm)
    shared = smaps.gather(child, next(iter(child.vmas)))
    assert (shared.shared_clean, shared.shared_dirty) == (6 * PAGE_SIZE, PAGE_SIZE)
    assert shared.pss >> PSS_SHIFT == 7 * PAGE_SIZE // 2


def test_pagemap_shows_model_frames(machine):
    file = machine.vfs.open(machine.ctx, b"/proc/7/pagemap", os.O_RDONLY)
    raw = file.pread(8 * 7, BASE // PAGE_SIZE * 8)
    entries = struct.unpack("<7Q", raw)
    for number, entry in enumerate(entries):
        pte = machine.mm.table.get(BASE + number * PAGE_SIZE)
        assert entry & ((1 << 55) - 1) == (pte >> 12) & ((1 << 40) - 1)
        assert bool(entry & Pm.FILE) == (number != 1)
        assert entry & Pm.PRESENT
    assert file.pread(8, 0) == bytes(8)
    with fails(errno.EINVAL):
        file.pread(4, 0)


def test_status_has_the_kernels_keys_in_order(machine):
    ours = [line.split(":")[0] for line in text(machine, b"/proc/self/status").splitlines()]
    live = [line.split(":")[0] for line in read("/proc/self/status").splitlines()]
    optional = {"x86_Thread_features", "x86_Thread_features_locked"}
    assert ours == [key for key in live if key not in optional]


def test_stat_and_statm_have_the_kernels_fields(machine):
    stat = text(machine, b"/proc/self/stat")
    assert stat.startswith("7 (prog) R 1 7 1 0 -1 ")
    assert len(stat.split()) == len(read("/proc/self/stat").split())
    total, resident, shared, *_ = map(int, text(machine, b"/proc/self/statm").split())
    assert (total, resident, shared) == (11, 8, 6)
    assert f"VmRSS:\t{32:8} kB\n" in text(machine, b"/proc/self/status")


def test_limits_are_written_as_the_kernel_does():
    limits = {number: resource.getrlimit(number) for number, _, _ in status.LIMITS}
    assert status.limits(SimpleNamespace(limits=limits)) == read("/proc/self/limits")


def test_meminfo_has_the_kernels_form(machine):
    ours = text(machine, b"/proc/meminfo").splitlines()
    live = {line.split(":")[0]: line for line in read("/proc/meminfo").splitlines()}
    for line in ours:
        name = line.split(":")[0]
        assert shape(line) == shape(live[name])
        if len(live[name]) == len("MemTotal:       12345678 kB"):
            assert len(line) == len(live[name])
    assert int(ours[0].split()[1]) == (machine.frames.ram.n_frames - 1) * 4


def test_command_line_environment_and_names(machine):
    assert text(machine, b"/proc/7/cmdline") == "prog\0arg one\0"
    assert text(machine, b"/proc/7/environ") == "A=1\0"
    assert text(machine, b"/proc/7/comm") == "prog\n"
    machine.vfs.open(machine.ctx, b"/proc/7/comm", os.O_WRONLY).write(b"a new name that is long\n")
    assert machine.process.comm == "a new name that"
    assert machine.vfs.readlink(machine.ctx, b"/proc/self/exe") == b"/big"
    assert machine.vfs.readlink(machine.ctx, b"/proc/self/cwd") == b"/dir"
    assert machine.vfs.readlink(machine.ctx, b"/proc/thread-self") == b"7/task/8"


def test_descriptors_are_magic_links(machine):
    vfs, ctx = machine.vfs, machine.ctx
    assert names(vfs.open(ctx, b"/proc/self/fd", os.O_RDONLY))[2:] == [b"0", b"1", b"2"]
    assert vfs.readlink(ctx, b"/dev/fd/1") == b"/file"
    machine.process.files.get(1)
    vfs.unlink(ctx, b"/file")
    assert vfs.readlink(ctx, b"/dev/fd/1") == b"/file (deleted)"
    assert vfs.open(ctx, b"/dev/fd/1", os.O_RDONLY).read(7) == b"content"
    assert vfs.lookup(ctx, b"/proc/self/fd/2/inner").inode.size == 6
    reader, _ = vfs.pipe()
    number = machine.process.files.install(reader)
    link = vfs.readlink(ctx, b"/proc/self/fd/%d" % number)
    assert link == b"pipe:[%d]" % reader.inode.ino
    info = text(machine, b"/proc/self/fdinfo/1").splitlines()
    assert [line.split(":")[0] for line in info] == ["pos", "flags", "mnt_id", "ino"]
    with fails(errno.ENOENT):
        vfs.lookup(ctx, b"/proc/self/fd/99")


def test_tasks_and_processes_are_listed(machine):
    vfs, ctx = machine.vfs, machine.ctx
    assert names(vfs.open(ctx, b"/proc/7/task", os.O_RDONLY))[2:] == [b"7", b"8"]
    assert b"7" in names(vfs.open(ctx, b"/proc", os.O_RDONLY))
    thread = text(machine, b"/proc/thread-self/status")
    assert "\nTgid:\t7\n" in thread
    assert "\nPid:\t8\n" in thread
    assert text(machine, b"/proc/7/task/8/stat").startswith("8 (prog)")
    for missing in (b"/proc/1", b"/proc/07", b"/proc/7/task/9"):
        with fails(errno.ENOENT):
            vfs.lookup(ctx, missing)


def test_every_file_of_proc_can_be_read(machine):
    vfs, ctx = machine.vfs, machine.ctx
    pending, seen = [b"/proc", b"/sys"], 0
    while pending:
        path = pending.pop()
        for name in names(vfs.open(ctx, path, os.O_RDONLY))[2:]:
            inner = path + b"/" + name
            inode = vfs.lookup(ctx, inner, follow=False).inode
            if inode.is_dir and name != b"task":
                pending.append(inner)
            elif inode.is_symlink:
                assert inode.readlink()
            elif not inode.is_dir:
                vfs.open(ctx, inner, os.O_RDONLY).read(4096)
                seen += 1
    assert seen > 50


def test_nothing_can_be_made_in_proc(machine):
    for call, number in (
        (lambda: machine.vfs.mkdir(machine.ctx, b"/proc/x", 0o755), errno.ENOENT),
        (lambda: machine.vfs.unlink(machine.ctx, b"/proc/version"), errno.EPERM),
        (lambda: machine.vfs.open(machine.ctx, b"/proc/x", os.O_CREAT), errno.ENOENT),
        (lambda: machine.vfs.rmdir(machine.ctx, b"/proc"), errno.EBUSY),
    ):
        with fails(number):
            call()


def test_mounts_and_mountinfo_agree(machine):
    places = [line.split()[1] for line in text(machine, b"/proc/mounts").splitlines()]
    assert places == ["/", "/proc", "/sys", "/dev", "/dev/shm"]
    lines = text(machine, b"/proc/self/mountinfo").splitlines()
    assert [line.split()[4] for line in lines] == places
    for line in lines:
        major, minor = line.split()[2].split(":")
        dev = machine.vfs.stat(machine.ctx, line.split()[4].encode()).dev
        assert (os.major(dev), os.minor(dev)) == (int(major), int(minor))
