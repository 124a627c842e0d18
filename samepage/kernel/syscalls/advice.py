"""Rarely used calls about mappings: seal them, advise on those of another process."""

from __future__ import annotations

import errno

from samepage.abi.mman import Advice
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.madvise import do_madvise
from samepage.kernel.mm.mseal import do_mseal
from samepage.kernel.process.pidfd import PidFd
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import read_iovec

_PIDFD_SELF = (-10000, -10001)
_REMOTE = (Advice.COLD, Advice.PAGEOUT, Advice.WILLNEED)
"""What one process may advise about another (`process_madvise_remote_valid`)."""


@syscall(Sys.MSEAL)
def sys_mseal(task: Task, address: int, length: int, flags: int) -> int:
    """`mseal(2)`."""
    do_mseal(task.mm, address, length, flags)
    return 0


@syscall(Sys.PROCESS_MADVISE)
def sys_process_madvise(
    task: Task, pidfd: I32, vector: int, count: int, advice: I32, flags: U32
) -> int:
    """`process_madvise(2)`: how many bytes the advice was taken for (`vector_madvise`)."""
    if flags:
        raise SysError(errno.EINVAL)
    parts = read_iovec(task, vector, count)
    mm = _memory_of(task, pidfd)
    if mm is not task.mm and advice not in _REMOTE:
        raise SysError(errno.EINVAL)
    done = 0
    for address, length in parts:
        try:
            do_madvise(mm, address, length, advice)
        except SysError:
            if done:
                break
            raise
        done += length
    return done


def _memory_of(task: Task, pidfd: int) -> AddressSpace:
    """The memory of the process that a descriptor refers to (`pidfd_get_task`,
    `mm_access`). Raises `SysError` with EBADF, ESRCH or EPERM."""
    if pidfd in _PIDFD_SELF:
        return task.mm
    process = task.process.files.get_as(pidfd, PidFd, errno.EBADF).process
    if process.mm is None or process.exit_status is not None:
        raise SysError(errno.ESRCH)
    mine = task.process.cred
    if process is not task.process and mine.euid not in (0, process.cred.uid):
        raise SysError(errno.EPERM)
    mm: AddressSpace = process.mm
    return mm
