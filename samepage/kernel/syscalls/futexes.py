"""The system call behind locks: `futex`."""

from __future__ import annotations

import errno

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import get_u32, put_u32
from samepage.kernel.process import futex, pi_futex
from samepage.kernel.process.task import SyscallResult, Task
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import read_timespec

_FUTEX_PRIVATE, _FUTEX_REALTIME = 128, 256
_LOCK_PI, _UNLOCK_PI, _TRYLOCK_PI, _LOCK_PI2 = 6, 7, 8, 13
_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10


@syscall(Sys.FUTEX)
def sys_futex(
    task: Task, address: int, operation: I32, value: U32, timeout: int, address2: int, value3: U32
) -> SyscallResult:
    """`futex(2)`; condition variables with priority inheritance are not there."""
    command = operation & ~(_FUTEX_PRIVATE | _FUTEX_REALTIME)
    queues, mm = task.kernel.futexes, task.mm
    if command in (_WAIT, _WAIT_BITSET):
        deadline = _futex_deadline(task, operation, command, timeout)
        bitset = value3 if command == _WAIT_BITSET else futex.BITSET_ANY
        if not bitset:
            raise SysError(errno.EINVAL)
        return futex.wait(task, address, value, bitset, deadline)
    if command == _WAKE:
        return futex.wake(queues, mm, address, value)
    if command == _WAKE_BITSET:
        if not value3:
            raise SysError(errno.EINVAL)
        return futex.wake(queues, mm, address, value, value3)
    if command in (_REQUEUE, _CMP_REQUEUE):
        if command == _CMP_REQUEUE:
            word = get_u32(mm, address)
            if word != value3:
                raise SysError(errno.EAGAIN)
        return futex.requeue(queues, mm, address, value, timeout & 0xFFFF_FFFF, address2)
    if command in (_LOCK_PI, _LOCK_PI2, _TRYLOCK_PI):
        deadline = None
        if command == _LOCK_PI:
            deadline = _futex_deadline(task, _FUTEX_REALTIME, command, timeout)
        elif command == _LOCK_PI2:
            deadline = _futex_deadline(task, operation, command, timeout)
        return pi_futex.lock(task, address, deadline, only_try=command == _TRYLOCK_PI)
    if command == _UNLOCK_PI:
        return pi_futex.unlock(task, address)
    if command == _WAKE_OP:
        return _wake_op(task, address, value, timeout & 0xFFFF_FFFF, address2, value3)
    raise SysError(errno.ENOSYS)


def _futex_deadline(task: Task, operation: int, command: int, timeout: int) -> int | None:
    if not timeout:
        return None
    ns = read_timespec(task, timeout)
    clock = task.kernel.clock
    if command == _WAIT:
        return clock.monotonic() + ns
    return ns - clock.boot_time_ns if operation & _FUTEX_REALTIME else ns


def _wake_op(
    task: Task, address: int, value: int, value2: int, address2: int, operation: int
) -> int:
    """FUTEX_WAKE_OP: change a second word, wake on the first, and perhaps on the second."""
    op, compare = operation >> 28 & 0xF, operation >> 24 & 0xF
    argument, against = operation >> 12 & 0xFFF, operation & 0xFFF
    if op & 8:
        argument = 1 << (argument & 31)
    old = get_u32(task.mm, address2)
    new = {
        0: argument,
        1: old + argument,
        2: old | argument,
        3: old & ~argument,
        4: old ^ argument,
    }.get(op & 7)
    if new is None:
        raise SysError(errno.ENOSYS)
    put_u32(task.mm, address2, new)
    woken = futex.wake(task.kernel.futexes, task.mm, address, value)
    holds = {
        0: old == against,
        1: old != against,
        2: old < against,
        3: old <= against,
        4: old > against,
        5: old >= against,
    }.get(compare, False)
    if holds:
        woken += futex.wake(task.kernel.futexes, task.mm, address2, value2)
    return woken
