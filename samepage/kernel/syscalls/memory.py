"""System calls on the address space. What they do is in `kernel.mm`."""

from __future__ import annotations

import errno

from samepage.abi.mman import MAP_HUGE_SHIFT, MapFlags
from samepage.arch import PAGE_SIZE, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm import mmap
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


_HUGE_PAGE_SIZES = (0, 21, 30)
"""As powers of two: the default (2 MiB), 2 MiB and 1 GiB."""


@syscall(Sys.MMAP)
def sys_mmap(
    task: Task, address: int, length: int, prot: int, flags: int, fd: I32, offset: int
) -> int:
    """`mmap(2)`: the address; no memory is given until the pages are touched."""
    if offset & (PAGE_SIZE - 1):
        raise SysError(errno.EINVAL)
    flags &= 0xFFFF_FFFF
    if flags & MapFlags.ANONYMOUS:
        if flags & MapFlags.HUGETLB:
            _refuse_huge_pages(length, flags)
        return mmap.do_mmap(task.mm, address, length, prot, flags, None, offset)
    file = task.process.files.get(fd)
    if flags & MapFlags.HUGETLB:  # a file of hugetlbfs needs no such flag, others have none
        raise SysError(errno.EINVAL)
    return mmap.do_mmap(
        task.mm,
        address,
        length,
        prot,
        flags,
        file.mappable,
        offset,
        path=file.shown_name,
        may_read=file.readable,
        may_write=file.writable,
        filp=file,
        zero_device=file.maps_anonymous,
    )


def _refuse_huge_pages(length: int, flags: int) -> NoReturn:
    """MAP_HUGETLB, on a machine whose pool of huge pages is empty (`ksys_mmap_pgoff`,
    `hugetlb_file_setup`)."""
    known = flags >> MAP_HUGE_SHIFT & 0x3F in _HUGE_PAGE_SIZES
    raise SysError(errno.ENOMEM if known and length else errno.EINVAL)


@syscall(Sys.MUNMAP)
def sys_munmap(task: Task, address: int, length: int) -> int:
    """`munmap(2)`."""
    mmap.do_munmap(task.mm, address, length)
    return 0


@syscall(Sys.MPROTECT)
def sys_mprotect(task: Task, address: int, length: int, prot: int) -> int:
    """`mprotect(2)`."""
    do_mprotect(task.mm, address, length, prot)
    return 0


@syscall(Sys.BRK)
def sys_brk(task: Task, address: int) -> int:
    """`brk(2)`."""
    return mmap.do_brk(task.mm, address)
