"""msync and mincore: what a range's pages have to do with their file and with memory."""

import errno

from samepage.abi.mman import MsFlags
from samepage.arch import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.unmapped_area import page_align, page_align_wrapping
from samepage.kernel.mm.vma import VmFlags
from samepage.kernel.mm.writeback import write_back


def do_msync(mm: AddressSpace, address: int, length: int, flags: int) -> None:
    """Check a range as `msync(2)` does; with MS_SYNC the pages of shared file mappings become
    clean. MS_ASYNC does nothing, as on Linux since 2.6.19.

    Raises `SysError` with EINVAL, EBUSY, or ENOMEM (a hole).
    """
    known = MsFlags.ASYNC | MsFlags.INVALIDATE | MsFlags.SYNC
    both = MsFlags.ASYNC | MsFlags.SYNC
    if flags & ~int(known) or address & ~PAGE_MASK or flags & both == both:
        raise SysError(errno.EINVAL)
    end = address + page_align_wrapping(length)
    if end >= 1 << 64:
        raise SysError(errno.ENOMEM)
    position = address
    hole = False
    for vma in mm.vmas.overlapping(address, end) if end > address else ():
        hole |= vma.start > position
        if flags & MsFlags.INVALIDATE and vma.flags & VmFlags.LOCKED:
            raise SysError(errno.EBUSY)
        if flags & MsFlags.SYNC and vma.file is not None and vma.flags & VmFlags.SHARED:
            start, stop = max(vma.start, address), min(vma.end, end)
            write_back(mm.cache, vma.file, vma.index(start), vma.index(stop - 1) + 1)
        position = vma.end
    if hole or position < end:
        raise SysError(errno.ENOMEM)


def do_mincore(mm: AddressSpace, address: int, length: int) -> bytes:
    """For each page of a range 1 if it is in memory, else 0 (`do_mincore`).

    A file page counts if it is cached, mapped or not. Raises `SysError` with EINVAL, or
    ENOMEM (a hole, or not an address of user space).
    """
    if address & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    end = address + page_align(length)
    if end > TASK_SIZE + PAGE_SIZE:
        raise SysError(errno.ENOMEM)
    result = bytearray()
    while address < end:
        vma = mm.vmas.find(address)
        if vma is None:
            raise SysError(errno.ENOMEM)
        stop = min(vma.end, end)
        for page in range(address, stop, PAGE_SIZE):
            present = bool(mm.table.get(page))
            if not present and vma.file is not None:
                index = vma.index(page)
                inside = index << PAGE_SHIFT < vma.file.size
                present = inside and mm.cache.resident(vma.file, index)
            result.append(present)
        address = stop
    return bytes(result)
