"""System calls about what is mapped already: move it, advise on it, lock it, write it back."""

from __future__ import annotations

import errno

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm import mlock
from samepage.kernel.mm.madvise import do_madvise
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.mremap import do_mremap
from samepage.kernel.mm.msync import do_mincore, do_msync
from samepage.kernel.mm.remap_file_pages import do_remap_file_pages
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, syscall


@syscall(Sys.MREMAP)
def sys_mremap(task: Task, old: int, old_length: int, new_length: int, flags: int, new: int) -> int:
    """`mremap(2)`."""
    return do_mremap(task.mm, old, old_length, new_length, flags, new)


@syscall(Sys.REMAP_FILE_PAGES)
def sys_remap_file_pages(
    task: Task, start: int, size: int, prot: int, pgoff: int, flags: int
) -> int:
    """`remap_file_pages(2)`."""
    do_remap_file_pages(task.mm, start, size, prot, pgoff, flags)
    return 0


@syscall(Sys.MADVISE)
def sys_madvise(task: Task, address: int, length: int, advice: I32) -> int:
    """`madvise(2)`."""
    do_madvise(task.mm, address, length, advice)
    return 0


@syscall(Sys.PKEY_MPROTECT)
def sys_pkey_mprotect(task: Task, address: int, length: int, prot: int, key: I32) -> int:
    """`pkey_mprotect(2)`: without a key (-1) it is `mprotect`."""
    if key != -1:
        raise SysError(errno.EINVAL)
    do_mprotect(task.mm, address, length, prot)
    return 0


@syscall(Sys.PKEY_ALLOC, Sys.PKEY_FREE)
def sys_pkey_alloc(task: Task) -> int:
    """`pkey_alloc(2)`, `pkey_free(2)`: the CPU has no protection keys, and Linux reports that
    by EINVAL (`execute_only_pkey`, `mm_pkey_alloc` on x86)."""
    raise SysError(errno.EINVAL)


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
