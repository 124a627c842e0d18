"""Clocks, sleeping, and timers. Time is virtual: see `kernel.clock`."""

from __future__ import annotations

import errno
from collections.abc import Generator

from samepage.abi.time import NS, TIMER_ABSTIME, USER_TICK_NS, Clock
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user, put_struct, put_u64
from samepage.kernel.process.task import Interrupted, SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, syscall
from samepage.kernel.syscalls.usermem import pack_timespec, pack_timeval, read_timespec

_WALL = {Clock.REALTIME, Clock.REALTIME_COARSE, Clock.TAI, Clock.REALTIME_ALARM}
_SINCE_BOOT = {
    Clock.MONOTONIC,
    Clock.MONOTONIC_RAW,
    Clock.MONOTONIC_COARSE,
    Clock.BOOTTIME,
    Clock.BOOTTIME_ALARM,
}


def _now(task: Task, clock: int) -> int:
    if clock in _WALL:
        return task.kernel.clock.realtime()
    if clock in _SINCE_BOOT:
        return task.kernel.clock.monotonic()
    if clock in (Clock.PROCESS_CPUTIME_ID, Clock.THREAD_CPUTIME_ID) or clock < 0:
        return task.process.cpu_time_ns
    raise SysError(errno.EINVAL)


@syscall(Sys.CLOCK_GETTIME)
def sys_clock_gettime(task: Task, clock: I32, address: int) -> int:
    """`clock_gettime(2)`."""
    copy_to_user(task.mm, address, pack_timespec(_now(task, clock)))
    return 0


@syscall(Sys.CLOCK_GETRES)
def sys_clock_getres(task: Task, clock: I32, address: int) -> int:
    """`clock_getres(2)`."""
    _now(task, clock)
    if address:
        coarse = clock in (Clock.REALTIME_COARSE, Clock.MONOTONIC_COARSE)
        copy_to_user(task.mm, address, pack_timespec(4_000_000 if coarse else 1))
    return 0


@syscall(Sys.GETTIMEOFDAY)
def sys_gettimeofday(task: Task, address: int, zone: int) -> int:
    """`gettimeofday(2)`."""
    if address:
        copy_to_user(task.mm, address, pack_timeval(task.kernel.clock.realtime()))
    if zone:
        copy_to_user(task.mm, zone, bytes(8))
    return 0


@syscall(Sys.TIME)
def sys_time(task: Task, address: int) -> int:
    """`time(2)`."""
    now = task.kernel.clock.realtime() // NS
    if address:
        put_u64(task.mm, address, now)
    return now


@syscall(Sys.TIMES)
def sys_times(task: Task, address: int) -> int:
    """`times(2)`, in ticks of 10 ms."""
    if address:
        own = task.process.cpu_time_ns // USER_TICK_NS
        children = task.process.children_usage.cpu_time_ns // USER_TICK_NS
        put_struct(task.mm, address, "<qqqq", own, 0, children, 0)
    return task.kernel.clock.monotonic() // USER_TICK_NS


@syscall(Sys.CLOCK_SETTIME, Sys.SETTIMEOFDAY, Sys.ADJTIMEX, Sys.CLOCK_ADJTIME)
def sys_clock_settime(task: Task) -> int:
    """The machine's clock cannot be set from inside."""
    raise SysError(errno.EPERM)


@syscall(Sys.NANOSLEEP)
def sys_nanosleep(task: Task, request: int, remaining: int) -> SyscallResult:
    """`nanosleep(2)`."""
    deadline = task.kernel.clock.monotonic() + read_timespec(task, request)
    return _sleep(task, deadline, remaining)


@syscall(Sys.CLOCK_NANOSLEEP)
def sys_clock_nanosleep(
    task: Task, clock: I32, flags: I32, request: int, remaining: int
) -> SyscallResult:
    """`clock_nanosleep(2)`."""
    wanted = read_timespec(task, request)
    if clock == Clock.THREAD_CPUTIME_ID:
        raise SysError(errno.EINVAL)
    now = _now(task, clock)
    if flags & TIMER_ABSTIME:
        wanted -= now
        remaining = 0
    return _sleep(task, task.kernel.clock.monotonic() + wanted, remaining)


def _sleep(task: Task, deadline: int, remaining: int) -> Generator[Wait, None, int]:
    clock = task.kernel.clock
    while clock.monotonic() < deadline:
        try:
            yield Wait(deadline)
        except Interrupted:
            if remaining:
                left = max(deadline - clock.monotonic(), 0)
                copy_to_user(task.mm, remaining, pack_timespec(left))
            raise SysError(errno.EINTR) from None
    return 0
