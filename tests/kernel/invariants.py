"""What must always hold in a machine: who holds which frame, and that nothing is left over.

Checked from the outside, by walking every page table and counting again.
"""

import itertools
from collections import Counter

from samepage import Machine
from samepage.cpu.paging import Pte
from samepage.cpu.ram import PAGE_SHIFT
from samepage.kernel.boot import Kernel
from samepage.kernel.mm.address_space import RSS_OF_KIND, AddressSpace
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.process.task import TaskState


def check_invariants(kernel: Kernel) -> None:
    """Assert the invariants that the kernel's types state."""
    _check_frames(kernel)
    _check_tasks(kernel)
    _check_descriptors(kernel)


def _spaces(kernel: Kernel) -> set[AddressSpace]:
    return {p.mm for p in kernel.processes.values() if p.mm is not None}


def _check_frames(kernel: Kernel) -> None:
    frames = kernel.frames
    mapped: Counter[int] = Counter()
    spaces = _spaces(kernel)
    assert spaces == set(kernel.cache.spaces), "an address space belongs to nobody"
    for mm in spaces:
        rss = [0, 0, 0]
        areas = list(mm.vmas)
        for address, _, entry in mm.table.present(0, 1 << 47):
            pfn = (entry & Pte.FRAME) >> PAGE_SHIFT
            vma = mm.vmas.find(address)
            assert vma is not None, f"{address:#x} is present outside of all VMAs"
            mapped[pfn] += 1
            kind = RSS_OF_KIND[frames.kinds[pfn]]
            if kind >= 0:
                rss[kind] += 1
        assert rss == mm.rss, f"rss is {mm.rss}, the page table has {rss}"
        assert all(a.end <= b.start for a, b in itertools.pairwise(areas))
    for pfn in range(1, kernel.ram.n_frames - frames.n_free + len(frames._free)):
        kind, references = frames.kinds[pfn], frames.references[pfn]
        assert (kind == FrameKind.FREE) == (references == 0), f"frame {pfn}"
        assert frames.mapcount[pfn] == mapped[pfn], f"frame {pfn} ({FrameKind(kind).name})"
        if kind in (FrameKind.ANONYMOUS, FrameKind.FILE, FrameKind.SHMEM):
            cached = pfn in kernel.cache.owner
            assert references == mapped[pfn] + cached, f"frame {pfn} ({FrameKind(kind).name})"
    for pfn, (inode, index) in kernel.cache.owner.items():
        assert inode.pages[index] == pfn


def _check_tasks(kernel: Kernel) -> None:
    queued = set(kernel.scheduler.tasks)
    for process in kernel.processes.values():
        for task in process.threads.values():
            assert task in queued
            assert (task.blocked_call is not None) >= (task.state is TaskState.BLOCKED)
        assert process.exit_status is None or not process.threads
    assert queued == {t for p in kernel.processes.values() for t in p.threads.values()}


def _check_descriptors(kernel: Kernel) -> None:
    held: Counter[int] = Counter()
    tables = {id(p.files): p.files for p in kernel.processes.values() if p.threads}
    files = {}
    for table in tables.values():
        for fd in table:
            file = table.get(fd)
            held[id(file)] += 1
            files[id(file)] = file
    for ident, count in held.items():
        # A file in flight through a socket, or held by a waiting call, has more.
        assert files[ident].refs >= count
    users = Counter(id(p.files) for p in kernel.processes.values() if p.threads)
    for ident, count in users.items():
        assert tables[ident].users == count


def check_nothing_left(machine: Machine, frames_before: int) -> None:
    """Give back what exited programs hold; then all frames but the page cache are free."""
    kernel = machine.kernel
    for guest in list(machine.guests):
        machine.discard(guest)
    kept = len(kernel.cache.owner)
    assert not [p for p in kernel.processes.values() if p.threads]
    assert not kernel.cache.spaces
    assert kernel.frames.n_used - kept == frames_before, "frames were not given back"
