"""System calls on the address space. What they do is in `kernel.mm`."""

import errno

from samepage.hardware.ram import PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.fs.memfd import F_SEAL_FUTURE_WRITE, F_SEAL_WRITE, Memfd
from samepage.kernel.mm import mlock, mmap
from samepage.kernel.mm.madvise import do_madvise
from samepage.kernel.mm.mmap import MapFlags
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.mremap import do_mremap
from samepage.kernel.mm.msync import do_mincore, do_msync
from samepage.kernel.mm.uaccess import copy_to_user
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
    sealed = isinstance(file.inode, Memfd) and file.inode.seals & (
        F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
    )
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


@syscall(Sys.MPROTECT, Sys.PKEY_MPROTECT)
def sys_mprotect(task: Task, address: int, length: int, prot: int) -> int:
    """`mprotect(2)`."""
    do_mprotect(task.mm, address, length, prot)
    return 0


@syscall(Sys.BRK)
def sys_brk(task: Task, address: int) -> int:
    """`brk(2)`."""
    return mmap.do_brk(task.mm, address)


@syscall(Sys.MREMAP)
def sys_mremap(task: Task, old: int, old_length: int, new_length: int, flags: int, new: int) -> int:
    """`mremap(2)`."""
    return do_mremap(task.mm, old, old_length, new_length, flags, new)


@syscall(Sys.MADVISE)
def sys_madvise(task: Task, address: int, length: int, advice: I32) -> int:
    """`madvise(2)`."""
    do_madvise(task.mm, address, length, advice)
    return 0


@syscall(Sys.MSYNC)
def sys_msync(task: Task, address: int, length: int, flags: I32) -> int:
    """`msync(2)`."""
    do_msync(task.mm, address, length, flags)
    return 0


@syscall(Sys.MINCORE)
def sys_mincore(task: Task, address: int, length: int, vector: int) -> int:
    """`mincore(2)`."""
    copy_to_user(task.mm, vector, do_mincore(task.mm, address, length))
    return 0


@syscall(Sys.MLOCK)
def sys_mlock(task: Task, address: int, length: int) -> int:
    """`mlock(2)`."""
    mlock.do_mlock(task.mm, address, length)
    return 0


@syscall(Sys.MLOCK2)
def sys_mlock2(task: Task, address: int, length: int, flags: I32) -> int:
    """`mlock2(2)`."""
    mlock.do_mlock(task.mm, address, length, flags)
    return 0


@syscall(Sys.MUNLOCK)
def sys_munlock(task: Task, address: int, length: int) -> int:
    """`munlock(2)`."""
    mlock.do_munlock(task.mm, address, length)
    return 0


@syscall(Sys.MLOCKALL)
def sys_mlockall(task: Task, flags: I32) -> int:
    """`mlockall(2)`."""
    mlock.do_mlockall(task.mm, flags)
    return 0


@syscall(Sys.MUNLOCKALL)
def sys_munlockall(task: Task) -> int:
    """`munlockall(2)`."""
    mlock.do_munlockall(task.mm)
    return 0
