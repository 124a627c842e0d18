"""Where a new mapping goes if the program gives no address: `get_unmapped_area`.

The highest gap below `mmap_base` that fits (`arch_get_unmapped_area_topdown`); if there is
none, the lowest above the bottom-up base. A stack keeps its guard gap below it free.

Mappings that could hold huge pages are aligned for them (`thp_get_unmapped_area_vmflags`):
files that contain a whole aligned 2 MiB of themselves in the mapped part, and anonymous
memory of a multiple of 2 MiB. 2 MiB more are asked for, and of what is found the place is
taken where address and file offset agree modulo 2 MiB.

Source: arch/x86/kernel/sys_x86_64.c, mm/huge_memory.c and mm/mmap.c of Linux 6.18.
"""

from __future__ import annotations

import errno

from samepage.arch import (
    ADDRESS_LIMIT,
    LOW_END,
    LOW_START,
    PAGE_MASK,
    PAGE_SIZE,
    PMD_SIZE,
    TASK_SIZE,
    TASK_UNMAPPED_BASE,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import MMAP_MIN_ADDR, STACK_GUARD_GAP, AddressSpace
from samepage.kernel.mm.vma import Vma, VmFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile


def page_align(size: int) -> int:
    """Round up to whole pages (bytes)."""
    return (size + PAGE_SIZE - 1) & PAGE_MASK


def page_align_wrapping(size: int) -> int:
    """The same in 64 bits, as PAGE_ALIGN is: a length that wraps is none."""
    return page_align(size) % (1 << 64)


def get_unmapped_area(
    mm: AddressSpace,
    length: int,
    file: MappedFile | None = None,
    offset: int = 0,
    hint: int = 0,
    *,
    low: bool = False,
    shared: bool = False,
    zero_device: bool = False,
) -> int:
    """Choose the address of a new mapping of `length` bytes (page-aligned).

    `file` is the inode, and `offset` its byte offset; without a file, `shared` is whether
    the memory will be, and `zero_device` is whether it is a mapping of /dev/zero. `low` is
    MAP_32BIT.

    Raises `SysError(ENOMEM)` if nothing fits.
    """
    hint &= PAGE_MASK
    if 0 < hint < MMAP_MIN_ADDR:
        hint = MMAP_MIN_ADDR
    if _huge_aligned(mm, length, file, hint, shared, zero_device):
        by_offset = file is not None or zero_device
        place = _thp_area(mm, length, offset if by_offset else 0, hint, low)
        if place is not None:
            return place
    place = _area(mm, length, hint, low)
    if place is None:
        raise SysError(errno.ENOMEM)
    return place


def _huge_aligned(
    mm: AddressSpace,
    length: int,
    file: MappedFile | None,
    hint: int,
    shared: bool,
    zero_device: bool,
) -> bool:
    """Which mappings ask `thp_get_unmapped_area`: tmpfs has huge pages turned off."""
    if file is not None:
        return not file.shmem
    if shared:
        return False
    if zero_device:
        return mm.rules.zero_device_is_placed_as_file
    return mm.rules.aligns_anonymous_memory and not hint and length % PMD_SIZE == 0


def _thp_area(mm: AddressSpace, length: int, offset: int, hint: int, low: bool) -> int | None:
    """`__thp_get_unmapped_area`."""
    if offset + length - ((offset + PMD_SIZE - 1) & -PMD_SIZE) < PMD_SIZE:
        return None
    place = _area(mm, length + PMD_SIZE, hint, low)
    if place is None or place == hint:
        return place
    missing = (offset - place) % PMD_SIZE
    if not missing and mm.rules.alignment_keeps_top_down:
        missing = PMD_SIZE
    return place + missing


def _area(mm: AddressSpace, length: int, hint: int, low: bool) -> int | None:
    """`arch_get_unmapped_area_topdown`, and the bottom-up search it falls back to."""
    if length > TASK_SIZE:
        return None
    if hint and not low and hint + length <= TASK_SIZE and is_free(mm, hint, hint + length):
        return hint
    if not low:
        place = _highest_gap(mm, length)
        if place is not None:
            return place
    start, end = (LOW_START, LOW_END) if low else (TASK_UNMAPPED_BASE, TASK_SIZE)
    if hint and hint + length <= end and is_free(mm, hint, hint + length):
        return hint
    return _lowest_gap(mm, length, start, end)


def is_free(mm: AddressSpace, start: int, end: int) -> bool:
    """Whether no VMA, and no stack's guard gap, begins before `end`."""
    following = mm.vmas.next_from(start)
    return following is None or end <= gap_end(following)


def gap_end(vma: Vma) -> int:
    """Where the free space below a VMA ends: a stack keeps its guard gap
    (`vm_start_gap`)."""
    if vma.flags & VmFlags.GROWSDOWN:
        return max(vma.start - STACK_GUARD_GAP, 0)
    return vma.start


def _highest_gap(mm: AddressSpace, length: int) -> int | None:
    ceiling = mm.mmap_base
    for vma in mm.vmas.downwards(ceiling):
        if ceiling - vma.end >= length:
            break
        ceiling = min(ceiling, gap_end(vma))
    place = ceiling - length
    return place if place >= MMAP_MIN_ADDR else None


def _lowest_gap(mm: AddressSpace, length: int, start: int, end: int) -> int | None:
    for vma in mm.vmas.overlapping(start, ADDRESS_LIMIT):
        if gap_end(vma) - start >= length:
            break
        start = max(start, vma.end)
    return start if start + length <= end else None
