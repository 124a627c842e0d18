"""mseal: a mapping that stays what it is (mm/mseal.c, since Linux 6.10).

A sealed VMA cannot be unmapped, moved, resized, mapped over or given other rights. Who may
not write to it may not make it lose its content by advice either.
"""

import errno

from samepage.arch import PAGE_MASK
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.unmapped_area import page_align_wrapping
from samepage.kernel.mm.vma import VmFlags
from samepage.kernel.mm.vma_merge import modify_flags


def do_mseal(mm: AddressSpace, address: int, length: int, flags: int) -> None:
    """Seal a range. Raises `SysError` with EINVAL, or ENOMEM (a hole)."""
    size = page_align_wrapping(length)
    end = address + size
    if flags or address & ~PAGE_MASK or (length and not size) or end >= 1 << 64:
        raise SysError(errno.EINVAL)
    at = address
    while at < end:
        vma = mm.vmas.find(at)
        if vma is None:
            raise SysError(errno.ENOMEM)
        at = vma.end
    while address < end:
        vma = mm.vmas.find(address)
        assert vma is not None
        stop = min(vma.end, end)
        if not vma.flags & VmFlags.SEALED:
            sealed = modify_flags(mm, vma, address, stop, vma.flags | VmFlags.SEALED)
            stop = max(stop, min(sealed.end, end))
        address = stop
