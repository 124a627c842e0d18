"""The kernel's invariants, checked while it runs (CONFIG_DEBUG_VM, mm/page_table_check.c).

The invariants that the types state are checked here against what the hardware sees, the
page tables in RAM. With `KernelConfig.debug` this is done

- after each page fault: the entry that it has left at its address (`check_entry`);
- at each exit from the kernel: the states of all tasks (`check_tasks`); and, if it has
  resolved a fault or changed a count since the last exit, the address space of the process
  that it served (`check_space`);
- at an exit after a process was made or has ended, and at each `FULL_EVERY`-th: all address
  spaces and every frame (`check_memory`), and all descriptors (`check_descriptors`).

A check that fails is a bug of the kernel, not of the program: it raises `KernelBug`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from samepage.arch import (
    FRAME_MASK,
    LEVEL_SHIFTS,
    PAGE_SHIFT,
    Access,
    pte_permits,
    pte_pfn,
    pte_valid,
    pte_write,
)
from samepage.cpu.ram import Ram
from samepage.kernel.mm.address_space import RSS_OF_KIND, AddressSpace
from samepage.kernel.mm.frames import FrameKind, Frames
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.vma import Vma, VmFlags
from samepage.kernel.process.task import Process, Task, TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    import numpy.typing as npt

    from samepage.kernel.process.scheduler import Scheduler
    from samepage.kernel.process.table import ProcessTable
    from samepage.kernel.process.tracer import Tracers

    Words = npt.NDArray[np.uint64]

    class Checked(Protocol):
        """The parts of a kernel that are checked (`boot.Kernel` has them)."""

        frames: Frames
        cache: PageCache
        processes: ProcessTable
        scheduler: Scheduler
        tracers: Tracers


FULL_EVERY = 256
"""At every how many exits from the kernel everything is checked."""
_FRAME = np.uint64(FRAME_MASK)
_RSS_OF = np.array(RSS_OF_KIND)
_OWNED = (FrameKind.KERNEL, FrameKind.ZERO, FrameKind.VDSO)
"""Kinds of frames of which the kernel itself holds a reference."""


class KernelBug(Exception):
    """An invariant of the kernel does not hold."""


def expect(condition: bool | np.bool_, message: str) -> None:
    """Raise `KernelBug` unless the condition holds (VM_BUG_ON)."""
    if not condition:
        raise KernelBug(message)


class Debug:
    """The checks of one kernel, at its exits."""

    def __init__(self, kernel: Checked) -> None:
        self._kernel = kernel
        self._exits = 0
        self._population = (0, 0)
        self._figures: tuple[object, ...] = ()

    def after_page_fault(self, mm: AddressSpace, address: int, access: Access) -> None:
        """The MMU may try the access again."""
        check_entry(mm, address, access)

    def at_exit(self) -> None:
        """The kernel has served a task, and returns to user mode."""
        kernel = self._kernel
        self._exits += 1
        check_tasks(kernel)
        population = (len(kernel.processes), len(kernel.cache.spaces))
        if population != self._population or self._exits % FULL_EVERY == 0:
            self._population = population
            check_kernel(kernel)
            return
        process = kernel.scheduler.acting
        if process is not None and process.mm is not None:
            figures = _figures(process.mm)
            if figures != self._figures:
                self._figures = figures
                check_space(process.mm)


def _figures(mm: AddressSpace) -> tuple[object, ...]:
    """What changes whenever a page comes or goes, or a mapping."""
    faults = mm.faults
    return mm, *mm.rss, mm.table.n_tables, len(mm.vmas), faults.minor, faults.major


def check_kernel(kernel: Checked) -> None:
    """Check all that is known to hold. Raises `KernelBug`."""
    check_tasks(kernel)
    check_descriptors(kernel)
    check_owners(kernel)
    check_memory(kernel.frames, kernel.cache)


def check_tasks(kernel: Checked) -> None:
    """The states of processes and threads (`Process`, `Task`)."""
    queued = set(kernel.scheduler.tasks)
    threads: list[Task] = []
    for pid, process in kernel.processes.items():
        expect(process.pid == pid, f"{process.comm} has the pid {pid} and {process.pid}")
        expect(
            (process.exit_status is None) == bool(process.threads),
            f"pid {pid} has exit status {process.exit_status}, {len(process.threads)} threads",
        )
        expect((process.mm is None) == process.exited, f"pid {pid} is a {_what(process)}")
        threads += process.threads.values()
    for task in threads:
        blocked = task.state is TaskState.BLOCKED
        expect(
            blocked == (task.blocked_call is not None),
            f"tid {task.tid} is {task.state.name}, its call is {task.blocked_call}",
        )
        expect(task in queued, f"tid {task.tid} is not in the run queue")
    expect(len(queued) == len(threads), "a thread of no process is in the run queue")


def _what(process: Process) -> str:
    return ("zombie" if process.exited else "process") + (
        " without memory" if process.mm is None else " with memory"
    )


def check_descriptors(kernel: Checked) -> None:
    """The references of open files, and the users of descriptor tables (`FdTable`)."""
    alive = [process for process in kernel.processes.values() if process.threads]
    tables = {id(process.files): process.files for process in alive}
    held = Counter(id(file) for table in tables.values() for file in table.files())
    for table in tables.values():
        for file in table.files():
            # A file in flight through a socket, or held by a waiting call, has more.
            expect(file.refs >= held[id(file)], f"{file!r} has too few references")
    users = Counter(id(process.files) for process in alive)
    for ident, count in users.items():
        expect(tables[ident].users == count, f"a descriptor table of {count} has other users")


def check_owners(kernel: Checked) -> None:
    """Each address space is used by the processes that have it, and kept by tracers."""
    users = Counter(p.mm for p in kernel.processes.values() if p.mm is not None)
    users.update(kernel.tracers.kept)
    expect(users.keys() == kernel.cache.spaces.keys(), "an address space has no process")
    for mm, count in users.items():
        expect(mm.users == count, f"an address space has {count} users and counts {mm.users}")


def check_entry(mm: AddressSpace, address: int, access: Access) -> None:
    """What a page fault that was resolved must have left for an access at `address`."""
    entry = mm.table.get(address)
    vma = mm.vmas.find(address)
    expect(vma is not None, f"a fault was resolved outside of all VMAs, at {address:#x}")
    assert vma is not None
    expect(bool(pte_valid(entry)), f"{address:#x} is not present after its fault")
    frames, pfn = mm.frames, pte_pfn(entry)
    expect(frames.kinds[pfn] not in (FrameKind.FREE, FrameKind.PAGE_TABLE), f"frame {pfn}")
    mapcount, references = frames.mapcount[pfn], frames.references[pfn]
    expect(0 < mapcount <= references, f"frame {pfn}: mapcount {mapcount} of {references}")
    # A fetch where there is no right for it brings the page in, and faults again (`access_error`).
    if access is Access.WRITE:
        expect(bool(vma.flags & VmFlags.WRITE), f"a write was allowed at {address:#x}")


def check_space(mm: AddressSpace) -> Words:
    """One address space against its page tables; return its entries.

    VMAs are apart and in order. Each present entry is inside of one, and has no right that
    this has not; a writable entry of an anonymous frame is that frame's only one. `rss` counts
    entries by their kind, `n_tables` the tables.
    """
    frames = mm.frames
    areas = list(mm.vmas)
    starts, ends, flags = _columns(areas)
    expect(bool(np.all(ends[:-1] <= starts[1:])), "VMAs overlap, or are not in order")
    expect(
        all((vma.anon_chain == 0) == (vma.anon_vma is None) for vma in areas),
        "a VMA is in a chain without an anon_vma, or has one without a chain",
    )
    addresses, entries, tables = _walk(frames.ram, mm.table.root)
    expect(len(tables) - 1 == mm.table.n_tables, "tables are not counted")
    if not len(entries):
        expect(mm.rss == [0, 0, 0], f"rss is {mm.rss}, and no entry is present")
        return entries
    where = np.searchsorted(starts, addresses, side="right") - 1
    inside = (where >= 0) & (addresses < ends[where])
    expect(
        bool(inside.all()), f"{int(addresses[~inside][:1].sum()):#x} is present outside of all VMAs"
    )
    rights = flags[where]
    pfns = (entries & _FRAME) >> np.uint64(PAGE_SHIFT)
    kinds = np.frombuffer(frames.kinds, np.uint8)[pfns]
    writable = _which(entries, pte_write)
    executable = _which(entries, lambda entry: pte_permits(entry, Access.EXECUTE))
    for allowed, right, name in (
        (writable, VmFlags.WRITE, "writable"),
        (executable, VmFlags.EXEC, "executable"),
    ):
        wrong = allowed & ((rights & np.uint64(right)) == 0)
        expect(not wrong.any(), f"{int(addresses[wrong][:1].sum()):#x} is {name}, its VMA is not")
    shared = writable & (kinds == FrameKind.ANONYMOUS)
    shared &= np.frombuffer(frames.exclusive, np.uint8)[pfns] == 0
    expect(not shared.any(), f"{int(addresses[shared][:1].sum()):#x} is written to, and shared")
    of_kind = _RSS_OF[kinds]
    rss = [int(np.count_nonzero(of_kind == kind)) for kind in range(len(mm.rss))]
    expect(rss == mm.rss, f"rss is {mm.rss}, the page table has {rss}")
    return entries


def _which(entries: Words, question: Callable[[int], bool]) -> npt.NDArray[np.bool_]:
    """A property of each entry's flags, computed once for each distinct value."""
    flags, number = np.unique(entries & ~_FRAME, return_inverse=True)
    return np.array([question(int(flag)) for flag in flags], bool)[number]


def check_memory(frames: Frames, cache: PageCache) -> None:
    """All frames, with their counts computed again from all page tables and the page cache.

    `cache.spaces` are all address spaces, each of them as `check_space` demands. `mapcount` is
    the number of entries that map a frame; `references` is that, with one more for the page
    cache, and for a page table or a frame of the kernel's own. A frame is free if and only if
    it has no reference, and exclusive only if it is anonymous and mapped at most once.
    """
    n_frames = frames.n_touched
    references = np.zeros(n_frames, np.int64)
    kinds = np.frombuffer(frames.kinds, np.uint8)[:n_frames]
    mapped = np.zeros(n_frames, np.int64)
    for mm in cache.spaces:
        entries = check_space(mm)
        mapped += np.bincount((entries & _FRAME) >> np.uint64(PAGE_SHIFT), minlength=n_frames)
        np.add.at(references, _walk(frames.ram, mm.table.root)[2], 1)
    for kind in _OWNED:
        references += kinds == kind
    for pfn, (inode, index) in cache.owner.items():
        expect(inode.pages[index] == pfn, f"frame {pfn} is not page {index} of its file")
        references[pfn] += 1
    references += mapped
    expect(cache.dirty <= cache.written, "a dirty page was not written")
    expect(cache.marked <= cache.owner.keys(), "a page with readahead's mark is not cached")
    lost = cache.written - cache.owner.keys()
    expect(all(mapped[pfn] for pfn in lost), "a written page is neither cached nor mapped")
    counted = np.frombuffer(frames.references, np.int32)[:n_frames]
    _expect_equal("references", counted, references, kinds)
    _expect_equal("mapcount", np.frombuffer(frames.mapcount, np.int32)[:n_frames], mapped, kinds)
    free = counted[1:] == 0
    expect(bool(np.all(free == (kinds[1:] == FrameKind.FREE))), "a free frame is in use")
    expect(int(np.count_nonzero(~free)) == frames.n_used, "frames in use are not counted")
    exclusive = np.frombuffer(frames.exclusive, np.uint8)[:n_frames] != 0
    wrong = exclusive & ((kinds != FrameKind.ANONYMOUS) | (mapped > 1))
    expect(not wrong.any(), f"frame {int(wrong.argmax())} is not exclusive")


def _expect_equal(
    name: str,
    counted: npt.NDArray[np.int32],
    found: npt.NDArray[np.int64],
    kinds: npt.NDArray[np.uint8],
) -> None:
    wrong = np.flatnonzero(counted != found)
    if len(wrong):
        pfn = int(wrong[0])
        kind = FrameKind(int(kinds[pfn])).name
        raise KernelBug(
            f"frame {pfn} ({kind}): {name} is {counted[pfn]}, but {found[pfn]} are there"
        )


def _columns(areas: list[Vma]) -> tuple[Words, Words, Words]:
    """The VMAs' starts, ends and flags."""
    rows = [(vma.start, vma.end, vma.flags) for vma in areas]
    starts, ends, flags = np.array(rows, np.uint64).reshape(-1, 3).T
    return starts, ends, flags


def _walk(ram: Ram, root: int) -> tuple[Words, Words, Words]:
    """All entries of a page table: their addresses, the entries, and the frames of the
    tables themselves, the top one first."""
    words = np.frombuffer(ram.bytes, np.uint64).reshape(-1, 512)
    tables = bases = np.array([root], np.uint64)
    origins = np.zeros(1, np.uint64)
    for shift in LEVEL_SHIFTS:
        level = words[bases]
        row, column = level.nonzero()
        origins = origins[row] + (column.astype(np.uint64) << np.uint64(shift))
        bases = (level[row, column] & _FRAME) >> np.uint64(PAGE_SHIFT)
        tables = np.concatenate([tables, bases])
    level = words[bases]
    row, column = level.nonzero()
    addresses = origins[row] + (column.astype(np.uint64) << np.uint64(PAGE_SHIFT))
    return addresses, level[row, column], tables
