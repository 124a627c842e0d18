"""System calls on scheduling. There is one CPU and no priorities: policies and nice values
are stored and reported, and change nothing else."""

from __future__ import annotations

import errno
import struct

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import (
    copy_to_user,
    get_bitmap,
    get_struct,
    get_u32,
    put_bitmap,
    put_struct,
    put_u32,
)
from samepage.kernel.process.task import Process, Task
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import pack_timespec

_CPUMASK_SIZE = 32
"""The bytes of a set of CPUs in a kernel built for 256 of them, as Debian's and ours are."""
_FIFO, _RR = 1, 2
_POLICIES = {0, _FIFO, _RR, 3, 5, 6}
_RESET_ON_FORK = 0x4000_0000
_SLICE_NS = 2_800_000
_PRIO_PROCESS, _PRIO_PGRP, _PRIO_USER = 0, 1, 2


def _find(task: Task, pid: int) -> Process:
    if pid < 0:
        raise SysError(errno.EINVAL)
    target = task if not pid else task.kernel.processes.find_task(pid)
    if target is None:
        raise SysError(errno.ESRCH)
    return target.process


@syscall(Sys.SCHED_YIELD)
def sys_sched_yield(task: Task) -> int:
    """`sched_yield(2)`."""
    task.kernel.scheduler.yield_current()
    return 0


@syscall(Sys.SCHED_GETAFFINITY)
def sys_sched_getaffinity(task: Task, pid: I32, size: U32, address: int) -> int:
    """`sched_getaffinity(2)`: the machine has CPU 0."""
    if size < 8 or size & 7:
        raise SysError(errno.EINVAL)
    _find(task, pid)
    length = min(size, _CPUMASK_SIZE)
    put_bitmap(task.mm, address, 1, length)
    return length


@syscall(Sys.SCHED_SETAFFINITY)
def sys_sched_setaffinity(task: Task, pid: I32, size: U32, address: int) -> int:
    """`sched_setaffinity(2)`."""
    mask = get_bitmap(task.mm, address, min(size, 128))
    _find(task, pid)
    if not mask & 1:
        raise SysError(errno.EINVAL)
    return 0


@syscall(Sys.SCHED_GETSCHEDULER)
def sys_sched_getscheduler(task: Task, pid: I32) -> int:
    """`sched_getscheduler(2)`."""
    return _find(task, pid).policy[0]


@syscall(Sys.SCHED_SETSCHEDULER)
def sys_sched_setscheduler(task: Task, pid: I32, policy: I32, param: int) -> int:
    """`sched_setscheduler(2)`."""
    if not param or policy < 0:
        raise SysError(errno.EINVAL)
    priority = get_u32(task.mm, param)
    process = _find(task, pid)
    _set_policy(task, process, policy & ~_RESET_ON_FORK, priority)
    return 0


@syscall(Sys.SCHED_SETPARAM)
def sys_sched_setparam(task: Task, pid: I32, param: int) -> int:
    """`sched_setparam(2)`."""
    if not param:
        raise SysError(errno.EINVAL)
    priority = get_u32(task.mm, param)
    process = _find(task, pid)
    _set_policy(task, process, process.policy[0], priority)
    return 0


_SCHED_ATTR = struct.Struct("<IIQiIQQQ")
"""`struct sched_attr` in its first version: size, policy, flags, nice, priority, and the
three times of SCHED_DEADLINE."""
_SCHED_ATTR_KNOWN = 56
"""Its size today, with the two utilization clamps (bytes)."""


@syscall(Sys.SCHED_SETATTR)
def sys_sched_setattr(task: Task, pid: I32, address: int, flags: U32) -> int:
    """`sched_setattr(2)`; SCHED_DEADLINE is not supported, as no policy has an effect."""
    if not address or flags or pid < 0:
        raise SysError(errno.EINVAL)
    size = get_u32(task.mm, address)
    if size and size < _SCHED_ATTR.size:
        put_u32(task.mm, address, _SCHED_ATTR_KNOWN)
        raise SysError(errno.E2BIG)
    _, policy, _, nice, priority, *_ = get_struct(task.mm, address, _SCHED_ATTR)
    process = _find(task, pid)
    _set_policy(task, process, policy, priority)
    if policy not in (_FIFO, _RR):
        process.nice = max(-20, min(nice, 19))
    return 0


def _set_policy(task: Task, process: Process, policy: int, priority: int) -> None:
    if policy not in _POLICIES:
        raise SysError(errno.EINVAL)
    real_time = policy in (_FIFO, _RR)
    if priority > 99 or real_time != (priority > 0):
        raise SysError(errno.EINVAL)
    if real_time and task.process.cred.euid:
        raise SysError(errno.EPERM)
    process.policy = policy, priority


@syscall(Sys.SCHED_GETPARAM)
def sys_sched_getparam(task: Task, pid: I32, address: int) -> int:
    """`sched_getparam(2)`."""
    if not address:
        raise SysError(errno.EINVAL)
    put_u32(task.mm, address, _find(task, pid).policy[1])
    return 0


@syscall(Sys.SCHED_GETATTR)
def sys_sched_getattr(task: Task, pid: I32, address: int, size: U32, flags: U32) -> int:
    """`sched_getattr(2)`, in the structure's first form."""
    if not address or size < 48 or flags:
        raise SysError(errno.EINVAL)
    process = _find(task, pid)
    policy, priority = process.policy
    size = _SCHED_ATTR.size
    nice = process.nice
    put_struct(task.mm, address, _SCHED_ATTR, size, policy, 0, nice, priority, 0, 0, 0)
    return 0


@syscall(Sys.SCHED_RR_GET_INTERVAL)
def sys_sched_rr_get_interval(task: Task, pid: I32, address: int) -> int:
    """`sched_rr_get_interval(2)`."""
    _find(task, pid)
    copy_to_user(task.mm, address, pack_timespec(_SLICE_NS))
    return 0


@syscall(Sys.SCHED_GET_PRIORITY_MAX)
def sys_sched_get_priority_max(task: Task, policy: I32) -> int:
    """`sched_get_priority_max(2)`."""
    return 99 if _is_real_time(policy) else 0


@syscall(Sys.SCHED_GET_PRIORITY_MIN)
def sys_sched_get_priority_min(task: Task, policy: I32) -> int:
    """`sched_get_priority_min(2)`."""
    return 1 if _is_real_time(policy) else 0


def _is_real_time(policy: int) -> bool:
    if policy not in _POLICIES:
        raise SysError(errno.EINVAL)
    return policy in (_FIFO, _RR)


def _targets(task: Task, which: int, who: int) -> list[Process]:
    """The processes that getpriority and setpriority mean. Raises `SysError`."""
    everyone = [p for p in task.kernel.processes.values() if p.threads]
    if which == _PRIO_PROCESS:
        found = [_find(task, who)]
    elif which == _PRIO_PGRP:
        found = [p for p in everyone if p.pgid == (who or task.process.pgid)]
    elif which == _PRIO_USER:
        found = [p for p in everyone if p.cred.uid == (who or task.process.cred.uid)]
    else:
        raise SysError(errno.EINVAL)
    if not found:
        raise SysError(errno.ESRCH)
    return found


@syscall(Sys.GETPRIORITY)
def sys_getpriority(task: Task, which: I32, who: I32) -> int:
    """`getpriority(2)`: 20 less the nice value, so that it is never negative."""
    return max(20 - process.nice for process in _targets(task, which, who))


@syscall(Sys.SETPRIORITY)
def sys_setpriority(task: Task, which: I32, who: I32, value: I32) -> int:
    """`setpriority(2)`."""
    nice = max(-20, min(value, 19))
    for process in _targets(task, which, who):
        if nice < process.nice and task.process.cred.euid:
            raise SysError(errno.EACCES)
        process.nice = nice
    return 0


@syscall(Sys.GETCPU)
def sys_getcpu(task: Task, cpu: int, node: int) -> int:
    """`getcpu(2)`."""
    for address in (cpu, node):
        if address:
            put_u32(task.mm, address, 0)
    return 0
