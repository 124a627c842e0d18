"""The model's memory as a snapshot: the page tables in RAM, read into arrays.

Only programs that the machine itself has started are in it (those that are resident at the
end), not what they forked and waited for.
"""

from array import array

from samepage import __version__
from samepage.arch import PAGE_SHIFT, pte_dirty, pte_pfn, pte_write, pte_young
from samepage.kernel.mm.address_space import AddressSpace, vma_name
from samepage.kernel.mm.frames import FrameKind as Kind
from samepage.kernel.mm.vma import Vma
from samepage.machine.guest import Guest, permissions
from samepage.machine.machine import Machine
from samepage.machine.symbols import Symbols
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Event, Process, Snapshot
from samepage.snapshot.kinds import FrameFlags, FrameKind, PageFlags

_KINDS = {
    Kind.FILE: FrameKind.FILE,
    Kind.ANONYMOUS: FrameKind.ANON,
    Kind.SHMEM: FrameKind.SHMEM,
    Kind.ZERO: FrameKind.ZERO,
    Kind.VDSO: FrameKind.SPECIAL,
    Kind.KERNEL: FrameKind.SPECIAL,
}
_FILE_PAGES = {Kind.FILE, Kind.SHMEM, Kind.VDSO}
"""What pagemap's bit 61 marks: pages that are neither anonymous nor nameless."""


def take_snapshot(machine: Machine) -> Snapshot:
    """Read the whole machine. Nothing in it depends on when it is taken: the same run gives
    the same snapshot."""
    kernel = machine.kernel
    builder = SnapshotBuilder(
        "model",
        samepage=__version__,
        kernel=kernel.config.release,
        engine=machine.engine,
        ram_bytes=str(kernel.ram.size),
    )
    for name, count in kernel.entry.unimplemented.items():
        builder.add_unimplemented_syscall(name, count)
    frames: set[int] = set()
    for guest in machine.guests:
        frames |= _add_process(builder, guest)
    _add_frames(builder, machine, frames)
    _add_events(builder, machine)
    return builder.build()


def _add_process(builder: SnapshotBuilder, guest: Guest) -> set[int]:
    process, mm = guest.process, guest.mm
    faults = process.program_faults()
    builder.add_process(
        Process(
            process.pid,
            process.ppid,
            tuple(word.decode(errors="surrogateescape") for word in process.argv),
            process.comm,
            process.exe_path,
            process.cred.uid,
            exit_code=process.exit_code,
            minor_faults=faults.minor,
            major_faults=faults.major,
        )
    )
    vpages, pfns, flags = array("Q"), array("Q"), array("H")
    for vma in mm.vmas:
        file = _file_number(builder, vma)
        offset = vma.pgoff << PAGE_SHIFT if vma.file is not None else 0
        builder.add_vma(
            process.pid, vma.start, vma.end, permissions(vma), offset, file, vma_name(mm, vma)
        )
        for address, _, entry in mm.table.present(vma.start, vma.end):
            pfn = pte_pfn(entry)
            vpages.append(address >> PAGE_SHIFT)
            pfns.append(pfn)
            flags.append(_page_flags(mm, pfn, entry))
    builder.add_pages(process.pid, vpages, pfns, flags)
    return set(pfns)


def _file_number(builder: SnapshotBuilder, vma: Vma) -> int:
    if vma.file is None:
        return -1
    shown = vma.shown_path
    path = shown.removesuffix(" (deleted)")
    deleted = path != shown
    return builder.add_file(vma.file.dev, vma.file.ino, path, deleted=deleted, size=vma.file.size)


def _page_flags(mm: AddressSpace, pfn: int, entry: int) -> int:
    frames = mm.frames
    kind = frames.kinds[pfn]
    flags = int(PageFlags.PRESENT)
    if kind in _FILE_PAGES:
        flags |= PageFlags.FILE
    if frames.mapcount[pfn] == 1 and kind != Kind.ZERO and kind != Kind.KERNEL:
        flags |= PageFlags.EXCLUSIVE
    if pte_dirty(entry) or pfn in mm.cache.dirty:
        flags |= PageFlags.DIRTY
    if pte_young(entry):
        flags |= PageFlags.ACCESSED
    if pte_write(entry):
        flags |= PageFlags.WRITABLE
    return int(flags)


def _add_frames(builder: SnapshotBuilder, machine: Machine, numbers: set[int]) -> None:
    frames, cache = machine.kernel.frames, machine.kernel.cache
    columns: list[list[int]] = [[] for _ in range(6)]
    for pfn in sorted(numbers):
        owner = cache.owner.get(pfn)
        file, index = -1, -1
        if owner is not None:
            inode, index = owner
            file = builder.add_file(inode.dev, inode.ino, inode.shown_path, size=inode.size)
        kind = _KINDS.get(Kind(frames.kinds[pfn]), FrameKind.UNKNOWN)
        flags = FrameFlags.DIRTY if pfn in cache.dirty else 0
        row = (pfn, kind, file, index, frames.mapcount[pfn], flags)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    builder.add_frames(*columns)


def _add_events(builder: SnapshotBuilder, machine: Machine) -> None:
    resolve = Symbols(machine.kernel).function
    for order, record in enumerate(machine.timeline):
        event, file = record.event, -1
        if record.file is not None:
            path = event.file.removesuffix(" (deleted)")
            file = builder.add_file(record.file.dev, record.file.ino, path, size=record.file.size)
        place = resolve(record.code) if record.code is not None else None
        builder.add_event(
            Event(
                order,
                record.pid,
                event.kind.value,
                address=event.address,
                pages=event.count,
                frame=event.frame,
                file=file,
                page=event.index if event.file else -1,
                cached=event.cached if event.file else None,
                ip=record.ip,
                symbol=place.name if place is not None else None,
            )
        )
