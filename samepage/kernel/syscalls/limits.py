"""System calls about resource limits."""

from __future__ import annotations

import errno

from samepage.abi.resource import Rlimit
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import get_struct, put_struct
from samepage.kernel.process.task import Process, Task
from samepage.kernel.syscalls.table import I32, U32, syscall

_NR_OPEN = 1 << 20
"""`fs.nr_open`: the limit that no process may exceed."""


def find_process(task: Task, pid: int) -> Process:
    """The process `pid`, the task's own if 0. Raises `SysError(ESRCH)`."""
    process = task.kernel.processes.get(pid) if pid else task.process
    if process is None:
        raise SysError(errno.ESRCH)
    return process


@syscall(Sys.PRLIMIT64)
def sys_prlimit64(task: Task, pid: I32, which: U32, new: int, old: int) -> int:
    """`prlimit(2)`."""
    if which > Rlimit.RTTIME:
        raise SysError(errno.EINVAL)
    process = find_process(task, pid)
    wanted = get_struct(task.mm, new, "<QQ") if new else None
    if old:
        put_struct(task.mm, old, "<QQ", *process.limits[which])
    if wanted is not None:
        soft, hard = wanted
        if soft > hard:
            raise SysError(errno.EINVAL)
        if hard > process.limits[which][1] and task.process.fs.cred.euid:
            raise SysError(errno.EPERM)
        if which == Rlimit.NOFILE and hard > _NR_OPEN:
            raise SysError(errno.EPERM)
        process.limits[which] = (soft, hard)
        if which == Rlimit.NOFILE:
            process.files.limit = soft
        if process.mm is not None:
            process.mm.limits = process.memory_limits()
    return 0


@syscall(Sys.GETRLIMIT)
def sys_getrlimit(task: Task, which: U32, address: int) -> int:
    """`getrlimit(2)`."""
    return sys_prlimit64(task, 0, which, 0, address)


@syscall(Sys.SETRLIMIT)
def sys_setrlimit(task: Task, which: U32, address: int) -> int:
    """`setrlimit(2)`."""
    return sys_prlimit64(task, 0, which, address, 0)
