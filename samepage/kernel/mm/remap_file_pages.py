"""remap_file_pages: show other pages of the file that is mapped already (mm/mmap.c).

The mappings that were not linear are gone since Linux 4.0. What is left is an mmap of another
place of the file over a part of its mapping, with the rights that the part has.
"""

import errno

from samepage.abi.mman import MapFlags
from samepage.arch import PAGE_MASK, PAGE_SHIFT
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.mmap import do_mmap
from samepage.kernel.mm.vma import ACCESS_FLAGS, Vma, VmFlags

_WORD = (1 << 64) - 1


def do_remap_file_pages(
    mm: AddressSpace, start: int, size: int, prot: int, pgoff: int, flags: int
) -> None:
    """Map the pages of the file from `pgoff` on at `start`. Raises `SysError(EINVAL)`, also
    if not all of the range is one shared mapping of one file."""
    if prot:
        raise SysError(errno.EINVAL)
    start, size = start & PAGE_MASK, size & PAGE_MASK
    end = start + size & _WORD
    if end <= start or pgoff + (size >> PAGE_SHIFT) > _WORD:
        raise SysError(errno.EINVAL)
    vma = mm.vmas.find(start)
    if vma is None or not vma.flags & VmFlags.SHARED or not _is_uniform(mm, vma, end):
        raise SysError(errno.EINVAL)
    flags = flags & MapFlags.NONBLOCK | MapFlags.SHARED | MapFlags.FIXED | MapFlags.POPULATE
    if vma.flags & VmFlags.LOCKED:
        flags |= MapFlags.LOCKED
    do_mmap(
        mm,
        start,
        size,
        vma.flags & ACCESS_FLAGS,
        flags,
        vma.file,
        pgoff << PAGE_SHIFT,
        path=vma.path,
        filp=vma.filp,
    )


def _is_uniform(mm: AddressSpace, vma: Vma, end: int) -> bool:
    """Whether what follows up to `end` is like `vma`, without a hole."""
    while end > vma.end:
        following = mm.vmas.find(vma.end)
        if following is None or (following.file, following.flags) != (vma.file, vma.flags):
            return False
        vma = following
    return True
