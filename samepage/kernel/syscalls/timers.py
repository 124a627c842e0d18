"""System calls on timers that send signals."""

from __future__ import annotations

import errno
import struct

from samepage.abi.signal import MAX_SIGNAL, SIGALRM, SIGPROF, SIGVTALRM
from samepage.abi.time import NS, TIMER_ABSTIME, Clock
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user, get_struct, put_u32
from samepage.kernel.process.task import Task
from samepage.kernel.process.timers import Timer
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import (
    pack_itimerspec,
    pack_timeval,
    read_itimerspec,
    read_timeval,
)

_ITIMER_REAL = 0
_ITIMER_SIGNALS = {_ITIMER_REAL: SIGALRM, 1: SIGVTALRM, 2: SIGPROF}
_CLOCKS = {
    *(Clock.REALTIME, Clock.MONOTONIC, Clock.PROCESS_CPUTIME_ID, Clock.THREAD_CPUTIME_ID),
    *(Clock.BOOTTIME, Clock.REALTIME_ALARM, Clock.BOOTTIME_ALARM, Clock.TAI),
}
_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD_ID = 0, 1, 4
_SIGEVENT = struct.Struct("<Qiii")


def _now(task: Task, timer: Timer) -> int:
    return task.process.cpu_time_ns if timer.on_cpu_time else task.kernel.clock.monotonic()


def _itimer(task: Task, which: int) -> Timer:
    if which not in _ITIMER_SIGNALS:
        raise SysError(errno.EINVAL)
    fresh = Timer(_ITIMER_SIGNALS[which], on_cpu_time=which != _ITIMER_REAL)
    return task.process.timers.interval.setdefault(which, fresh)


def _pack_itimer(task: Task, timer: Timer) -> bytes:
    left = timer.left(_now(task, timer))
    # An armed timer never reads as zero, which would mean that it is not.
    return pack_timeval(timer.interval) + pack_timeval(max(left, 1000) if left else 0)


@syscall(Sys.ALARM)
def sys_alarm(task: Task, seconds: U32) -> int:
    """`alarm(2)`: the seconds that were left of the previous one, rounded as Linux does."""
    timer = _itimer(task, _ITIMER_REAL)
    now = _now(task, timer)
    left = timer.left(now)
    timer.set(now, seconds * NS, 0)
    whole, rest = divmod(left, NS)
    return whole + (rest >= NS // 2 or (not whole and rest > 0))


@syscall(Sys.SETITIMER)
def sys_setitimer(task: Task, which: I32, new: int, old: int) -> int:
    """`setitimer(2)`."""
    interval = read_timeval(task, new) if new else 0
    value = read_timeval(task, new + 16) if new else 0
    timer = _itimer(task, which)
    before = _pack_itimer(task, timer)
    timer.set(_now(task, timer), value, interval)
    if old:
        copy_to_user(task.mm, old, before)
    return 0


@syscall(Sys.GETITIMER)
def sys_getitimer(task: Task, which: I32, address: int) -> int:
    """`getitimer(2)`."""
    copy_to_user(task.mm, address, _pack_itimer(task, _itimer(task, which)))
    return 0


@syscall(Sys.TIMER_CREATE)
def sys_timer_create(task: Task, clock: I32, event: int, ident: int) -> int:
    """`timer_create(2)`."""
    if clock not in _CLOCKS:
        raise SysError(errno.EINVAL)
    timers = task.process.timers.posix
    number = max(timers, default=-1) + 1
    on_cpu_time = clock in (Clock.PROCESS_CPUTIME_ID, Clock.THREAD_CPUTIME_ID)
    timer = Timer(SIGALRM, on_cpu_time, value=number)
    if event:
        value, signal, notify, tid = get_struct(task.mm, event, _SIGEVENT)
        if notify not in (_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD_ID):
            raise SysError(errno.EINVAL)
        if notify == _SIGEV_THREAD_ID and tid not in task.process.threads:
            raise SysError(errno.EINVAL)
        if notify != _SIGEV_NONE and not 0 < signal <= MAX_SIGNAL:
            raise SysError(errno.EINVAL)
        timer.signal = 0 if notify == _SIGEV_NONE else signal
        timer.value = value
        timer.target = tid if notify == _SIGEV_THREAD_ID else 0
    put_u32(task.mm, ident, number)
    timers[number] = timer
    return 0


def _posix(task: Task, ident: int) -> Timer:
    timer = task.process.timers.posix.get(ident)
    if timer is None:
        raise SysError(errno.EINVAL)
    return timer


def _pack(task: Task, timer: Timer) -> bytes:
    return pack_itimerspec(timer.left(_now(task, timer)), timer.interval)


@syscall(Sys.TIMER_SETTIME)
def sys_timer_settime(task: Task, ident: I32, flags: I32, new: int, old: int) -> int:
    """`timer_settime(2)`."""
    value, interval = read_itimerspec(task, new)
    timer = _posix(task, ident)
    before = _pack(task, timer)
    now = _now(task, timer)
    if value and flags & TIMER_ABSTIME:
        wall = value > task.kernel.clock.boot_time_ns
        value = max(value - (task.kernel.clock.boot_time_ns if wall else 0) - now, 1)
    timer.set(now, value, interval)
    if old:
        copy_to_user(task.mm, old, before)
    return 0


@syscall(Sys.TIMER_GETTIME)
def sys_timer_gettime(task: Task, ident: I32, address: int) -> int:
    """`timer_gettime(2)`."""
    copy_to_user(task.mm, address, _pack(task, _posix(task, ident)))
    return 0


@syscall(Sys.TIMER_GETOVERRUN)
def sys_timer_getoverrun(task: Task, ident: I32) -> int:
    """`timer_getoverrun(2)`."""
    return _posix(task, ident).overrun


@syscall(Sys.TIMER_DELETE)
def sys_timer_delete(task: Task, ident: I32) -> int:
    """`timer_delete(2)`."""
    _posix(task, ident)
    del task.process.timers.posix[ident]
    return 0
