"""Futexes with priority inheritance (kernel/futex/pi.c).

The word of such a lock holds its owner's tid. Without contention programs take and release it
by themselves; else the kernel gives it, at unlock, to the thread that has waited longest, by
writing that thread's tid into the word. The machine has one CPU and no priorities, so nothing
is inherited; what is left is the hand-over, and its errors.
"""

import errno
from collections.abc import Generator

from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import get_u32, put_u32
from samepage.kernel.process.futex import (
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
    futex_key,
)
from samepage.kernel.process.futex_queues import Key, PiWaiter
from samepage.kernel.process.task import Interrupted, Task, Wait


def lock(
    task: Task, address: int, deadline: int | None, *, only_try: bool, private: bool
) -> Generator[Wait, None, int]:
    """FUTEX_LOCK_PI, FUTEX_TRYLOCK_PI. Raises `SysError`: EDEADLK, ESRCH if the owner does not
    exist, EAGAIN if only tried, ETIMEDOUT, EFAULT, EINVAL."""
    queues = task.kernel.futexes.inheriting
    key = futex_key(task.mm, address, private=private, write=True)
    word = get_u32(task.mm, address)
    owner = word & FUTEX_TID_MASK
    if owner == task.tid:
        raise SysError(errno.EDEADLK)
    if not owner and key not in queues:
        put_u32(task.mm, address, word & FUTEX_OWNER_DIED | task.tid)
        return 0
    put_u32(task.mm, address, word | FUTEX_WAITERS)
    if task.kernel.processes.find_task(owner) is None:
        raise SysError(errno.ESRCH)
    if only_try:
        raise SysError(errno.EAGAIN)
    waiter = PiWaiter(task.tid, task.mm, address)
    queues.setdefault(key, []).append(waiter)
    try:
        while not waiter.owns:
            if deadline is not None and task.kernel.clock.monotonic() >= deadline:
                raise SysError(errno.ETIMEDOUT)
            yield Wait(deadline)
    except Interrupted:
        raise SysError(errno.ERESTART) from None  # whether or not the handler has SA_RESTART
    finally:
        if not waiter.owns:
            _leave(task, key, waiter)
    return 0


def unlock(task: Task, address: int, *, private: bool) -> int:
    """FUTEX_UNLOCK_PI. Raises `SysError`: EPERM if the thread is not the owner."""
    if get_u32(task.mm, address) & FUTEX_TID_MASK != task.tid:
        raise SysError(errno.EPERM)
    key = futex_key(task.mm, address, private=private, write=True)
    queue = task.kernel.futexes.inheriting.get(key)
    if queue:
        _hand_over(task, key, queue[0], 0)
    else:
        put_u32(task.mm, address, 0)
    return 0


def release_all(task: Task) -> None:
    """A thread ends: what others wait for goes to them, marked (`exit_pi_state_list`)."""
    for key, queue in list(task.kernel.futexes.inheriting.items()):
        first = queue[0]
        try:
            word = get_u32(first.mm, first.address)
            if word & FUTEX_TID_MASK in (task.tid, 0):
                _hand_over(task, key, first, FUTEX_OWNER_DIED)
        except SysError:
            continue


def _hand_over(task: Task, key: Key, waiter: PiWaiter, mark: int) -> None:
    put_u32(waiter.mm, waiter.address, FUTEX_WAITERS | mark | waiter.tid)
    waiter.owns = True
    _leave(task, key, waiter)


def _leave(task: Task, key: Key, waiter: PiWaiter) -> None:
    queues = task.kernel.futexes.inheriting
    queue = queues[key]
    queue.remove(waiter)
    if not queue:
        del queues[key]
