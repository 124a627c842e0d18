"""The system calls behind locks: `futex` and `futex_waitv`."""

from __future__ import annotations

import errno
import struct

from samepage.abi.time import Clock
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import get_struct
from samepage.kernel.process import futex, pi_futex
from samepage.kernel.process.futex_queues import Waiter
from samepage.kernel.process.task import SyscallResult, Task
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import read_timespec

_FUTEX_PRIVATE, _FUTEX_REALTIME = 128, 256
_LOCK_PI, _UNLOCK_PI, _TRYLOCK_PI, _LOCK_PI2 = 6, 7, 8, 13
_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10
_WITH_CLOCK = (_WAIT_BITSET, _LOCK_PI2)
"""The commands that FUTEX_CLOCK_REALTIME may be combined with."""
_FUTEX2_U32, _FUTEX2_PRIVATE = 2, 128
_WAITV = struct.Struct("<QQII")
"""`struct futex_waitv`: value, address, flags, nothing."""
_WAITV_MAX = 128


@syscall(Sys.FUTEX)
def sys_futex(
    task: Task, address: int, operation: I32, value: I32, timeout: int, address2: int, value3: U32
) -> SyscallResult:
    """`futex(2)`; without condition variables with priority inheritance."""
    command = operation & ~(_FUTEX_PRIVATE | _FUTEX_REALTIME)
    private = bool(operation & _FUTEX_PRIVATE)
    queues, mm = task.kernel.futexes, task.mm
    value2 = (timeout & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)
    if operation & _FUTEX_REALTIME and command not in _WITH_CLOCK:
        raise SysError(errno.ENOSYS)
    if command in (_WAIT, _WAIT_BITSET):
        deadline = _futex_deadline(task, operation, command, timeout)
        bitset = value3 if command == _WAIT_BITSET else futex.BITSET_ANY
        if not bitset:
            raise SysError(errno.EINVAL)
        word = value & 0xFFFF_FFFF
        return futex.wait(task, address, word, bitset, deadline, private=private)
    if command in (_WAKE, _WAKE_BITSET):
        bitset = value3 if command == _WAKE_BITSET else futex.BITSET_ANY
        if not bitset:
            raise SysError(errno.EINVAL)
        return futex.wake(queues, mm, address, value, bitset, private=private)
    if command in (_REQUEUE, _CMP_REQUEUE):
        expected = value3 if command == _CMP_REQUEUE else None
        return futex.requeue(
            task, address, value, value2, address2, expected=expected, private=private
        )
    if command in (_LOCK_PI, _LOCK_PI2, _TRYLOCK_PI):
        deadline = None
        if command == _LOCK_PI:
            deadline = _futex_deadline(task, _FUTEX_REALTIME, command, timeout)
        elif command == _LOCK_PI2:
            deadline = _futex_deadline(task, operation, command, timeout)
        only_try = command == _TRYLOCK_PI
        return pi_futex.lock(task, address, deadline, only_try=only_try, private=private)
    if command == _UNLOCK_PI:
        return pi_futex.unlock(task, address, private=private)
    if command == _WAKE_OP:
        return futex.wake_op(task, address, value, value2, address2, value3, private=private)
    raise SysError(errno.ENOSYS)


@syscall(Sys.FUTEX_WAITV)
def sys_futex_waitv(
    task: Task, waiters: int, count: U32, flags: U32, timeout: int, clock: I32
) -> SyscallResult:
    """`futex_waitv(2)`: wait for any of several futexes, at most up to a time of a clock."""
    if flags or not 0 < count <= _WAITV_MAX or not waiters:
        raise SysError(errno.EINVAL)
    deadline = None
    if timeout:
        if clock not in (Clock.REALTIME, Clock.MONOTONIC):
            raise SysError(errno.EINVAL)
        deadline = read_timespec(task, timeout)
        if clock == Clock.REALTIME:
            deadline -= task.kernel.clock.boot_time_ns
    size = _WAITV.size
    parsed = [_read_waiter(task, waiters + size * index) for index in range(count)]
    return futex.wait_multiple(task, parsed, deadline)


def _read_waiter(task: Task, at: int) -> Waiter:
    """One `struct futex_waitv`: words of 32 bits only (`futex_parse_waitv`)."""
    value, address, flags, reserved = get_struct(task.mm, at, _WAITV)
    if flags & ~_FUTEX2_PRIVATE != _FUTEX2_U32 or reserved or value >> 32:
        raise SysError(errno.EINVAL)
    return Waiter(address, value, bool(flags & _FUTEX2_PRIVATE))


def _futex_deadline(task: Task, operation: int, command: int, timeout: int) -> int | None:
    if not timeout:
        return None
    ns = read_timespec(task, timeout)
    clock = task.kernel.clock
    if command == _WAIT:
        return clock.monotonic() + ns
    return ns - clock.boot_time_ns if operation & _FUTEX_REALTIME else ns
