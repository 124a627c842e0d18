"""/proc/PID/maps, and the walk over page tables behind smaps and pagemap
(fs/proc/task_mmu.c)."""

import errno
import os
import struct
from collections.abc import Callable

from samepage.abi.pagemap import Pm
from samepage.arch import FRAME_MASK, PAGE_SHIFT, PAGE_SIZE, STACK_TOP, pte_pfn
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace, vma_name
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.vma import Vma, VmFlags

NAME_COLUMN = 25 + 8 * 6 - 1
"""Where the name of a mapping starts (`seq_setwidth` in `show_vma_header_prefix`)."""

FILE_KINDS = (FrameKind.FILE, FrameKind.SHMEM, FrameKind.VDSO)


def map_line(mm: AddressSpace, vma: Vma) -> str:
    """One line of maps, with its newline (`show_map_vma`)."""
    dev = ino = offset = 0
    if vma.file is not None:
        dev, ino, offset = vma.file.dev, vma.file.ino, vma.pgoff << PAGE_SHIFT
    rights = "".join(
        letter if vma.flags & flag else "-"
        for letter, flag in (("r", VmFlags.READ), ("w", VmFlags.WRITE), ("x", VmFlags.EXEC))
    ) + ("s" if vma.flags & VmFlags.MAYSHARE else "p")
    return header_line(vma.start, vma.end, rights, offset, dev, ino, vma_name(mm, vma))


def header_line(
    start: int, end: int, rights: str, offset: int, dev: int, ino: int, name: str
) -> str:
    """The form of a line of maps, which smaps_rollup uses as well."""
    text = (
        f"{start:08x}-{end:08x} {rights} {offset:08x} "
        f"{os.major(dev):02x}:{os.minor(dev):02x} {ino} "
    )
    if name:
        text = text.ljust(NAME_COLUMN) + " " + name.replace("\n", "\\012")
    return text + "\n"


def vma_records(
    mm: AddressSpace, show: Callable[[AddressSpace, Vma], str]
) -> Callable[[int], tuple[bytes, int] | None]:
    """A record for each VMA (`m_start`, `m_next`): the position is an address, so that a
    reader continues where it was, whatever was mapped meanwhile. Memory that is gone, as at
    `execve`, has none."""

    def next_record(position: int) -> tuple[bytes, int] | None:
        vma = mm.vmas.next_from(position) if mm.users else None
        return None if vma is None else (os.fsencode(show(mm, vma)), vma.end)

    return next_record


def pagemap(mm: AddressSpace, offset: int, length: int) -> bytes:
    """Bytes of /proc/PID/pagemap: 64 bits for each virtual page, with model frame numbers.

    Raises `SysError(EINVAL)` unless both are multiples of 8.
    """
    if offset % 8 or length % 8:
        raise SysError(errno.EINVAL)
    first = offset // 8
    last = min(first + length // 8, STACK_TOP >> PAGE_SHIFT)
    if first >= last:
        return b""
    entries = [0] * (last - first)
    kinds, mapcount = mm.frames.kinds, mm.frames.mapcount
    for address, _, entry in mm.table.present(first << PAGE_SHIFT, last << PAGE_SHIFT):
        pfn = pte_pfn(entry)
        value = Pm.PRESENT | pfn
        if kinds[pfn] in FILE_KINDS:
            value |= Pm.FILE
        if kinds[pfn] != FrameKind.ZERO and mapcount[pfn] == 1:
            value |= Pm.MMAP_EXCLUSIVE
        entries[(address >> PAGE_SHIFT) - first] = value
    for page in mm.guards:
        if first <= page >> PAGE_SHIFT < last:
            entries[(page >> PAGE_SHIFT) - first] = Pm.GUARD_REGION
    return struct.pack(f"<{len(entries)}Q", *entries)


def peek(mm: AddressSpace, start: int, end: int) -> bytes:
    """Bytes of a process's memory as far as they are present; nothing is faulted in."""
    parts = []
    while start < end:
        entry = mm.table.get(start)
        if not entry:
            break
        size = min(end - start, PAGE_SIZE - (start & (PAGE_SIZE - 1)))
        at = (entry & FRAME_MASK) + (start & (PAGE_SIZE - 1))
        parts.append(bytes(mm.frames.ram.bytes[at : at + size]))
        start += size
    return b"".join(parts)
