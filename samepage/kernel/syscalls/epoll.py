"""System calls on epoll sets."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Generator

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.epoll import EPOLL_CTL_DEL, Epoll
from samepage.kernel.mm.uaccess import copy_to_user, get_struct
from samepage.kernel.process.task import SyscallResult, Task, Wait
from samepage.kernel.syscalls.polling import set_mask, wait_until, with_mask
from samepage.kernel.syscalls.table import I32, syscall
from samepage.kernel.syscalls.usermem import read_timespec

_EVENT = struct.Struct("<IQ")
"""`struct epoll_event`, which is packed on x86-64."""


@syscall(Sys.EPOLL_CREATE)
def sys_epoll_create(task: Task, size: I32) -> int:
    """`epoll_create(2)`."""
    if size <= 0:
        raise SysError(errno.EINVAL)
    return sys_epoll_create1(task, 0)


@syscall(Sys.EPOLL_CREATE1)
def sys_epoll_create1(task: Task, flags: I32) -> int:
    """`epoll_create1(2)`."""
    epoll = task.kernel.vfs.epoll(flags)
    return task.process.files.install(epoll, bool(flags & os.O_CLOEXEC))


def _set(task: Task, fd: int) -> Epoll:
    return task.process.files.get_as(fd, Epoll, errno.EINVAL)


@syscall(Sys.EPOLL_CTL)
def sys_epoll_ctl(task: Task, epfd: I32, operation: I32, fd: I32, event: int) -> int:
    """`epoll_ctl(2)`."""
    events, data = 0, 0
    if operation != EPOLL_CTL_DEL:
        events, data = get_struct(task.mm, event, _EVENT)
    task.process.files.get(epfd)
    file = task.process.files.get(fd)
    _set(task, epfd).control(operation, fd, file, events, data)
    return 0


@syscall(Sys.EPOLL_WAIT)
def sys_epoll_wait(task: Task, epfd: I32, events: int, limit: I32, timeout: I32) -> SyscallResult:
    """`epoll_wait(2)`; `timeout` is in milliseconds."""
    return _epoll_wait(task, epfd, events, limit, _deadline(task, timeout))


@syscall(Sys.EPOLL_PWAIT)
def sys_epoll_pwait(
    task: Task, epfd: I32, events: int, limit: I32, timeout: I32, mask: int, size: int
) -> SyscallResult:
    """`epoll_pwait(2)`."""
    set_mask(task, mask, size)
    return with_mask(task, _epoll_wait(task, epfd, events, limit, _deadline(task, timeout)))


@syscall(Sys.EPOLL_PWAIT2)
def sys_epoll_pwait2(
    task: Task, epfd: I32, events: int, limit: I32, timeout: int, mask: int, size: int
) -> SyscallResult:
    """`epoll_pwait2(2)`."""
    deadline = None
    if timeout:
        deadline = task.kernel.clock.monotonic() + read_timespec(task, timeout)
    set_mask(task, mask, size)
    return with_mask(task, _epoll_wait(task, epfd, events, limit, deadline))


def _deadline(task: Task, timeout: int) -> int | None:
    return task.kernel.clock.monotonic() + timeout * 1_000_000 if timeout >= 0 else None


def _epoll_wait(
    task: Task, epfd: int, address: int, limit: int, deadline: int | None
) -> Generator[Wait, None, int]:
    if limit <= 0:
        raise SysError(errno.EINVAL)
    epoll = _set(task, epfd)
    ready: list[tuple[int, int]] = []

    def look() -> int:
        ready[:] = epoll.wait(limit)
        return len(ready)

    count = yield from wait_until(task, look, deadline, [epoll], restarts=False)
    copy_to_user(task.mm, address, b"".join(_EVENT.pack(*entry) for entry in ready))
    return count
