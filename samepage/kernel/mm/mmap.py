"""System calls on ranges of addresses: mmap, munmap, mprotect, brk, madvise(DONTNEED).

None of them gives memory; they only say what a range means. Placement is top-down: the
highest gap below `MMAP_BASE` that fits (`arch_get_unmapped_area_topdown`). Mappings that
could hold huge pages are aligned for them: an anonymous mapping of a multiple of 2 MiB
(`__get_unmapped_area` since Linux 6.7), and a file mapping of 2 MiB or more
(`thp_get_unmapped_area`) asks for 2 MiB more and takes the place where address and file
offset agree modulo 2 MiB.
"""

import enum
import errno
from typing import Any

from samepage.hardware.paging import ADDRESS_LIMIT, PMD_SIZE, Pte
from samepage.hardware.ram import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import (
    MMAP_BASE,
    MMAP_MIN_ADDR,
    STACK_GUARD_GAP,
    AddressSpace,
    Event,
    EventKind,
)
from samepage.kernel.mm.vma import ACCESS_FLAGS, Vma, VmFlags

TASK_SIZE = ADDRESS_LIMIT - PAGE_SIZE
"""User addresses lie below this (`TASK_SIZE_MAX`)."""


class Prot(enum.IntFlag):
    """`PROT_*`: the same bits as the access flags of a VMA."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4


class MapFlags(enum.IntFlag):
    """`MAP_*` (include/uapi/linux/mman.h)."""

    SHARED = 0x01
    PRIVATE = 0x02
    SHARED_VALIDATE = 0x03
    FIXED = 0x10
    ANONYMOUS = 0x20
    GROWSDOWN = 0x100
    LOCKED = 0x2000
    NORESERVE = 0x4000
    POPULATE = 0x8000
    STACK = 0x20000
    FIXED_NOREPLACE = 0x100000


def page_align(size: int) -> int:
    """Round up to whole pages (bytes)."""
    return (size + PAGE_SIZE - 1) & PAGE_MASK


def get_unmapped_area(
    mm: AddressSpace, length: int, file: Any = None, offset: int = 0, hint: int = 0
) -> int:
    """Choose the address of a new mapping of `length` bytes (page-aligned).

    Raises `SysError(ENOMEM)` if no gap is large enough.
    """
    hint &= PAGE_MASK
    if hint >= MMAP_MIN_ADDR and hint + length <= TASK_SIZE and _is_free(mm, hint, hint + length):
        return hint
    aligned = length >= PMD_SIZE if file is not None else length % PMD_SIZE == 0
    if aligned:
        place = _highest_gap(mm, length + PMD_SIZE)
        if place is not None:
            return place + (offset - place) % PMD_SIZE
    place = _highest_gap(mm, length)
    if place is None:
        raise SysError(errno.ENOMEM)
    return place


def _is_free(mm: AddressSpace, start: int, end: int) -> bool:
    following = mm.vmas.next_from(start)
    return following is None or end <= _gap_end(following)


def _gap_end(vma: Vma) -> int:
    """Where the free space below a VMA ends: a stack keeps its guard gap
    (`vm_start_gap`)."""
    return vma.start - STACK_GUARD_GAP if vma.flags & VmFlags.GROWSDOWN else vma.start


def _highest_gap(mm: AddressSpace, length: int) -> int | None:
    ceiling = MMAP_BASE
    for vma in reversed(mm.vmas.overlapping(0, MMAP_BASE)):
        if ceiling - vma.end >= length:
            break
        ceiling = min(ceiling, _gap_end(vma))
    place = ceiling - length
    return place if place >= MMAP_MIN_ADDR else None


def do_mmap(
    mm: AddressSpace,
    address: int,
    length: int,
    prot: Prot,
    flags: MapFlags,
    file: Any = None,
    offset: int = 0,
    *,
    path: str = "",
    may_write: bool = True,
) -> int:
    """Map `length` bytes and return the address; no page becomes present.

    `file` is an inode or None for anonymous memory, `offset` its byte offset. `may_write`
    says whether the file was opened for writing, which a shared mapping needs. Raises
    `SysError` with EINVAL, ENOMEM, EEXIST, EACCES or EOVERFLOW as `mmap(2)` does.
    """
    sharing = flags & MapFlags.SHARED_VALIDATE
    if not length or not sharing or offset & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    length = page_align(length)
    if length > TASK_SIZE:
        raise SysError(errno.ENOMEM)
    if offset + length > 1 << 63:
        raise SysError(errno.EOVERFLOW)
    shared = sharing != MapFlags.PRIVATE
    if shared and file is not None and prot & Prot.WRITE and not may_write:
        raise SysError(errno.EACCES)
    if flags & (MapFlags.FIXED | MapFlags.FIXED_NOREPLACE):
        _check_fixed(mm, address, length, flags)
        do_munmap(mm, address, length)
    else:
        address = get_unmapped_area(mm, length, file, offset, address)
    vm_flags = VmFlags(prot & ACCESS_FLAGS) | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
    if shared:
        vm_flags |= VmFlags.SHARED | VmFlags.MAYSHARE
        if not may_write:
            vm_flags &= ~(VmFlags.SHARED | VmFlags.MAYWRITE)
    if flags & MapFlags.GROWSDOWN and file is None:
        vm_flags |= VmFlags.GROWSDOWN
    if flags & MapFlags.NORESERVE:
        vm_flags |= VmFlags.NORESERVE
    vma = Vma(address, address + length, vm_flags, file, offset >> PAGE_SHIFT, path)
    mm.vmas.insert(vma)
    mm.vmas.merge(vma)
    if mm.emit:
        count = length >> PAGE_SHIFT
        mm.emit(Event(EventKind.MMAP, address, count, file=path, index=offset >> PAGE_SHIFT))
    return address


def _check_fixed(mm: AddressSpace, address: int, length: int, flags: MapFlags) -> None:
    if address & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    if address + length > TASK_SIZE:
        raise SysError(errno.ENOMEM)
    if address < MMAP_MIN_ADDR:
        raise SysError(errno.EPERM)
    if flags & MapFlags.FIXED_NOREPLACE and mm.vmas.overlapping(address, address + length):
        raise SysError(errno.EEXIST)


def do_munmap(mm: AddressSpace, address: int, length: int) -> None:
    """Unmap [address, address + length); holes are no error (`do_vmi_munmap`).

    Page tables that served nothing else are given back. Raises `SysError(EINVAL)`.
    """
    end = address + page_align(length)
    if address & ~PAGE_MASK or not length or end > TASK_SIZE:
        raise SysError(errno.EINVAL)
    gone = mm.vmas.isolate(address, end)
    if not gone:
        return
    for vma in gone:
        mm.zap(vma, vma.start, vma.end)
        mm.vmas.remove(vma)
    below, above = mm.vmas.before(address), mm.vmas.next_from(end)
    mm.table.free_tables(
        gone[0].start,
        gone[-1].end,
        below.end if below else 0,
        above.start if above else ADDRESS_LIMIT,
    )
    mm.flush_tlb()
    if mm.emit:
        mm.emit(Event(EventKind.MUNMAP, address, (end - address) >> PAGE_SHIFT))


def do_mprotect(mm: AddressSpace, address: int, length: int, prot: Prot) -> None:
    """Change the rights of a range (`mprotect_fixup`, `change_protection`).

    Pages stay; an entry keeps write permission only where the new rights have it, and
    gains none: the next write faults and decides. Raises `SysError` with EINVAL, ENOMEM
    (a hole in the range) or EACCES.
    """
    end = address + page_align(length)
    if address & ~PAGE_MASK or end < address:
        raise SysError(errno.EINVAL)
    if end == address:
        return
    position = address
    for vma in mm.vmas.overlapping(address, end):
        if vma.start > position:
            raise SysError(errno.ENOMEM)
        if prot & Prot.WRITE and not vma.flags & VmFlags.MAYWRITE:
            raise SysError(errno.EACCES)
        position = vma.end
    if position < end:
        raise SysError(errno.ENOMEM)
    for vma in mm.vmas.isolate(address, end):
        vma.flags = (vma.flags & ~ACCESS_FLAGS) | VmFlags(prot & ACCESS_FLAGS)
        _change_protection(mm, vma)
        mm.vmas.merge(vma)
    following = mm.vmas.find(end)
    if following is not None:
        mm.vmas.merge(following)
    mm.flush_tlb()
    if mm.emit:
        mm.emit(Event(EventKind.MPROTECT, address, (end - address) >> PAGE_SHIFT))


def _change_protection(mm: AddressSpace, vma: Vma) -> None:
    words = mm.frames.ram.words
    writable = bool(vma.flags & VmFlags.WRITE)
    for _, slot, entry in mm.table.present(vma.start, vma.end):
        entry = entry & ~Pte.NX if vma.flags & VmFlags.EXEC else entry | Pte.NX
        if not writable:
            entry &= ~Pte.WRITE
        words[slot] = entry


def do_brk(mm: AddressSpace, address: int) -> int:
    """Move the end of the heap; return the end as it then is (`brk`).

    As in Linux there is no error: a request that cannot be met changes nothing.
    """
    brk = mm.brk
    if address < brk.start:
        return brk.end
    old, new = page_align(brk.end), page_align(address)
    if new < old:
        do_munmap(mm, new, old - new)
    elif new > old:
        if new > TASK_SIZE or not _is_free(mm, old, new + PAGE_SIZE):
            return brk.end
        flags = VmFlags.READ | VmFlags.WRITE
        flags |= VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
        vma = Vma(old, new, flags)
        mm.vmas.insert(vma)
        mm.vmas.merge(vma)
    brk.end = address
    if mm.emit:
        mm.emit(Event(EventKind.BRK, address))
    return address


def madvise_dontneed(mm: AddressSpace, address: int, length: int) -> None:
    """Drop the pages of a range; private copies are lost (`madvise_dontneed_single_vma`).

    Raises `SysError` with EINVAL, or ENOMEM if the range has a hole, after the mapped
    parts were dropped.
    """
    end = address + page_align(length)
    if address & ~PAGE_MASK or end < address:
        raise SysError(errno.EINVAL)
    position = address
    hole = False
    for vma in mm.vmas.overlapping(address, end):
        hole |= vma.start > position
        mm.zap(vma, max(vma.start, address), min(vma.end, end))
        position = vma.end
    mm.flush_tlb()
    if hole or position < end:
        raise SysError(errno.ENOMEM)
