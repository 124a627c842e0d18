"""mlock and its family: pages that must be there (mm/mlock.c of Linux 6.18).

Locking faults all pages in, and marks the VMA so that reclaim and madvise leave them
alone. What it costs is counted against RLIMIT_MEMLOCK unless the process is privileged.
"""

import errno

from samepage.abi.mman import MLOCK_ONFAULT, Mcl
from samepage.arch import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.gup import mm_populate
from samepage.kernel.mm.unmapped_area import page_align_wrapping
from samepage.kernel.mm.vma import LOCKED_MASK, SPECIAL_FLAGS, VmFlags
from samepage.kernel.mm.vma_merge import modify_flags

_UNLOCKABLE = SPECIAL_FLAGS | VmFlags.DROPPABLE
"""What `mlock_fixup` passes over."""


def do_mlock(mm: AddressSpace, address: int, length: int, flags: int = 0) -> None:
    """Lock a range, as `mlock` and `mlock2` do.

    Raises `SysError` with EINVAL, EPERM, ENOMEM or EAGAIN.
    """
    if flags & ~MLOCK_ONFAULT:
        raise SysError(errno.EINVAL)
    _check_permission(mm)
    start, length = _whole_pages(address, length)
    limit = mm.limits.memlock >> PAGE_SHIFT
    locked = (length >> PAGE_SHIFT) + mm.locked_pages
    if locked > limit and not mm.limits.privileged:
        locked -= _locked_inside(mm, start, start + length)
        if locked > limit:
            raise SysError(errno.ENOMEM)
    bits = VmFlags.LOCKED | (VmFlags.LOCKONFAULT if flags else 0)
    _apply(mm, start, start + length, bits)
    try:
        mm_populate(mm, start, length, strict=True)
    except SysError as error:
        # `__mlock_posix_error_return`
        number = errno.ENOMEM if error.errno == errno.EFAULT else errno.EAGAIN
        raise SysError(number) from None


def do_munlock(mm: AddressSpace, address: int, length: int) -> None:
    """Unlock a range. Raises `SysError` with EINVAL or ENOMEM."""
    start, length = _whole_pages(address, length)
    _apply(mm, start, start + length, 0)


def do_mlockall(mm: AddressSpace, flags: int) -> None:
    """Lock everything there is, or everything to come. Raises `SysError` with EINVAL,
    EPERM or ENOMEM."""
    known = Mcl.CURRENT | Mcl.FUTURE | Mcl.ONFAULT
    if not flags or flags & ~known or flags == Mcl.ONFAULT:
        raise SysError(errno.EINVAL)
    _check_permission(mm)
    limit = mm.limits.memlock >> PAGE_SHIFT
    if flags & Mcl.CURRENT and mm.virtual_pages > limit and not mm.limits.privileged:
        raise SysError(errno.ENOMEM)
    bits = VmFlags.LOCKED | (VmFlags.LOCKONFAULT if flags & Mcl.ONFAULT else 0)
    mm.default_flags &= ~LOCKED_MASK
    if flags & Mcl.FUTURE:
        mm.default_flags |= bits
    if flags & Mcl.CURRENT:
        _apply_all(mm, bits)
        mm_populate(mm, 0, TASK_SIZE)


def do_munlockall(mm: AddressSpace) -> None:
    """Unlock everything."""
    mm.default_flags &= ~LOCKED_MASK
    _apply_all(mm, 0)


def _check_permission(mm: AddressSpace) -> None:
    """`can_do_mlock`."""
    if not mm.limits.memlock and not mm.limits.privileged:
        raise SysError(errno.EPERM)


def _whole_pages(address: int, length: int) -> tuple[int, int]:
    return address & PAGE_MASK, page_align_wrapping(length + (address & (PAGE_SIZE - 1)))


def _locked_inside(mm: AddressSpace, start: int, end: int) -> int:
    """`count_mm_mlocked_page_nr`."""
    return sum(
        (min(vma.end, end) - max(vma.start, start)) >> PAGE_SHIFT
        for vma in mm.vmas.overlapping(start, end)
        if vma.flags & VmFlags.LOCKED
    )


def _apply(mm: AddressSpace, start: int, end: int, bits: int) -> None:
    """Set the lock flags of a range without holes (`apply_vma_lock_flags`)."""
    if end >= 1 << 64:
        raise SysError(errno.EINVAL)
    while start < end:
        vma = mm.vmas.find(start)
        if vma is None:
            raise SysError(errno.ENOMEM)
        stop = min(vma.end, end)
        flags = vma.flags & ~LOCKED_MASK | bits
        if flags != vma.flags and not vma.flags & _UNLOCKABLE:
            stop = max(stop, min(modify_flags(mm, vma, start, stop, flags).end, end))
        start = stop


def _apply_all(mm: AddressSpace, bits: int) -> None:
    """`apply_mlockall_flags`: failures to split or merge are ignored."""
    for vma in list(mm.vmas):
        flags = vma.flags & ~LOCKED_MASK | bits
        if flags != vma.flags and not vma.flags & _UNLOCKABLE and mm.vmas.find(vma.start) is vma:
            modify_flags(mm, vma, vma.start, vma.end, flags)
