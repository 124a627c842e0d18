"""System calls on the address space. What they do is in `kernel.mm`."""

import errno

from samepage.hardware.ram import PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm import mmap
from samepage.kernel.mm.mmap import MapFlags
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.numbers import Sys
from samepage.kernel.syscalls.table import I32, syscall


@syscall(Sys.MMAP)
def sys_mmap(
    task: Task, address: int, length: int, prot: int, flags: int, fd: I32, offset: int
) -> int:
    """`mmap(2)`: the address; no memory is given until the pages are touched."""
    if offset & (PAGE_SIZE - 1):
        raise SysError(errno.EINVAL)
    flags &= 0xFFFF_FFFF
    if flags & MapFlags.ANONYMOUS:
        return mmap.do_mmap(task.mm, address, length, prot, flags, None, offset)
    file = task.process.files.get(fd)
    if not file.readable:
        raise SysError(errno.EACCES)
    sealed = file.inode.write_sealed
    if sealed and flags & MapFlags.SHARED and prot & mmap.Prot.WRITE:
        raise SysError(errno.EPERM)
    if file.maps_anonymous:
        return mmap.do_mmap(
            task.mm,
            address,
            length,
            prot,
            flags,
            offset=offset,
            path="/dev/zero",
            filp=file,
            zero_device=True,
        )
    return mmap.do_mmap(
        task.mm,
        address,
        length,
        prot,
        flags,
        file.mappable,
        offset,
        path=task.kernel.vfs.path_name(file.path),
        may_write=file.writable and not sealed,
        filp=file,
    )


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
