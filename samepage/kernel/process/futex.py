"""Futexes: waiting for a word of user memory to change (kernel/futex/).

A futex is named by its address space and address, or by its file page and offset if the
memory is shared. Each waiter has a ticket in the machine's queue; waking takes tickets
from the queue's front.
"""

from __future__ import annotations

import errno
from collections.abc import Generator

from samepage.arch import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.uaccess import get_u32
from samepage.kernel.process.futex_queues import FutexQueues, Key, Ticket
from samepage.kernel.process.task import Interrupted, Task, Wait

FUTEX_WAITERS = 0x8000_0000
FUTEX_OWNER_DIED = 0x4000_0000
FUTEX_TID_MASK = 0x3FFF_FFFF
BITSET_ANY = 0xFFFF_FFFF


def futex_key(mm: AddressSpace, address: int) -> Key:
    """What identifies a futex (`get_futex_key`). Raises `SysError` (EFAULT, EINVAL)."""
    if address & 3:
        raise SysError(errno.EINVAL)
    vma = mm.vmas.find(address)
    if vma is None:
        raise SysError(errno.EFAULT)
    if vma.shared and vma.file is not None:
        return vma.file, (vma.index(address) << PAGE_SHIFT) + address % PAGE_SIZE
    return mm, address


def wait(
    task: Task, address: int, value: int, bitset: int, deadline: int | None
) -> Generator[Wait, None, int]:
    """Wait until woken, unless the word is not `value` (EAGAIN) any more.

    Raises `SysError` with EAGAIN, EFAULT, ETIMEDOUT (at `deadline`, monotonic ns).
    """
    key = futex_key(task.mm, address)
    if get_u32(task.mm, address) != value & 0xFFFF_FFFF:
        raise SysError(errno.EAGAIN)
    queues = task.kernel.futexes.waiting
    ticket = Ticket(bitset)
    queues.setdefault(key, []).append(ticket)
    try:
        while not ticket.woken:
            if deadline is not None and task.kernel.clock.monotonic() >= deadline:
                raise SysError(errno.ETIMEDOUT)
            yield Wait(deadline)
    except Interrupted:
        if deadline is not None:
            raise SysError(errno.EINTR) from None
        raise
    finally:
        for waiting_key, tickets in list(queues.items()):
            if ticket in tickets:
                tickets.remove(ticket)
                if not tickets:
                    del queues[waiting_key]
    return 0


def wake(
    queues: FutexQueues, mm: AddressSpace, address: int, count: int, bitset: int = BITSET_ANY
) -> int:
    """Wake up to `count` waiters; return how many. Raises `SysError`."""
    tickets = queues.waiting.get(futex_key(mm, address), [])
    woken = 0
    for ticket in list(tickets):
        if woken >= count:
            break
        if ticket.bitset & bitset and not ticket.woken:
            ticket.woken = True
            woken += 1
    return woken


def requeue(
    queues: FutexQueues, mm: AddressSpace, address: int, n_wake: int, n_move: int, target: int
) -> int:
    """Wake some waiters and move others to another futex; return how many in all."""
    done = wake(queues, mm, address, n_wake)
    source_key, target_key = futex_key(mm, address), futex_key(mm, target)
    waiting = queues.waiting
    tickets = waiting.get(source_key, [])
    moving = [t for t in tickets if not t.woken][:n_move]
    for ticket in moving:
        tickets.remove(ticket)
        waiting.setdefault(target_key, []).append(ticket)
    return done + len(moving)
