"""Futexes: waiting for a word of user memory to change (kernel/futex/).

A futex that is private to a process is named by its address there. Any other is named by what
lies behind the address: the page of a file, or the process again if the memory is its own. So
a waiter for the private futex at an address is not woken by those who wake the other one.
Each waiter has a ticket in the machine's queue; waking takes tickets from the queue's front.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable

from samepage.arch import PAGE_SHIFT, PAGE_SIZE, TASK_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.gup import get_user_page
from samepage.kernel.mm.uaccess import get_u32, put_u32
from samepage.kernel.process.futex_queues import FutexQueues, Key, Ticket, Waiter
from samepage.kernel.process.task import Interrupted, Task, Wait

FUTEX_WAITERS = 0x8000_0000
FUTEX_OWNER_DIED = 0x4000_0000
FUTEX_TID_MASK = 0x3FFF_FFFF
BITSET_ANY = 0xFFFF_FFFF


def futex_key(mm: AddressSpace, address: int, *, private: bool, write: bool = False) -> Key:
    """What identifies a futex (`get_futex_key`).

    One that is not `private` has its page faulted in. `write` is for calls that change the
    word. Raises `SysError`: EINVAL, EFAULT.
    """
    if address & 3:
        raise SysError(errno.EINVAL)
    if private:
        if not 0 <= address < TASK_SIZE:
            raise SysError(errno.EFAULT)
        return mm, address, True
    writable = True
    try:
        pfn = get_user_page(mm, address, write=True)
    except SysError:
        if write:
            raise
        pfn, writable = get_user_page(mm, address, write=False), False
    if pfn in mm.cache.owner:
        file, index = mm.cache.owner[pfn]
        return file, (index << PAGE_SHIFT) + address % PAGE_SIZE, False
    if not writable:  # memory of its own that the process cannot change, or the zero page
        raise SysError(errno.EFAULT)
    return mm, address, False


def wait(
    task: Task, address: int, value: int, bitset: int, deadline: int | None, *, private: bool
) -> Generator[Wait, None, int]:
    """Wait until woken, unless the word is not `value` (EAGAIN) any more.

    Raises `SysError` with EAGAIN, EFAULT, ETIMEDOUT (at `deadline`, monotonic ns).
    """
    key = futex_key(task.mm, address, private=private)
    _check_word(task, address, value)
    ticket = Ticket(bitset)
    try:
        yield from _sleep(task, {key: ticket}.items(), deadline)
    except Interrupted:
        if deadline is not None:
            raise SysError(errno.EINTR) from None
        raise
    return 0


def wait_multiple(
    task: Task, waiters: list[Waiter], deadline: int | None
) -> Generator[Wait, None, int]:
    """Wait until one of several futexes is woken, and return which, the last if it is more
    than one (`futex_wait_multiple`). Raises as `wait`."""
    keys = [futex_key(task.mm, waiter.address, private=waiter.private) for waiter in waiters]
    for waiter in waiters:
        _check_word(task, waiter.address, waiter.value)
    tickets = [Ticket(BITSET_ANY) for _ in waiters]
    yield from _sleep(task, zip(keys, tickets, strict=True), deadline)
    return max(index for index, ticket in enumerate(tickets) if ticket.woken)


def _check_word(task: Task, address: int, value: int) -> None:
    if get_u32(task.mm, address) != value:
        raise SysError(errno.EAGAIN)


def _sleep(
    task: Task, places: Iterable[tuple[Key, Ticket]], deadline: int | None
) -> Generator[Wait, None, None]:
    """Wait with tickets in queues until one of them is woken. Raises `SysError(ETIMEDOUT)`."""
    queues = task.kernel.futexes.waiting
    tickets: list[Ticket] = []
    for key, ticket in places:
        queues.setdefault(key, []).append(ticket)
        tickets.append(ticket)
    try:
        while not any(ticket.woken for ticket in tickets):
            if deadline is not None and task.kernel.clock.monotonic() >= deadline:
                raise SysError(errno.ETIMEDOUT)
            yield Wait(deadline)
    finally:
        # They may have been moved to other queues meanwhile.
        for key, queue in list(queues.items()):
            queue[:] = [ticket for ticket in queue if ticket not in tickets]
            if not queue:
                del queues[key]


def wake(
    queues: FutexQueues,
    mm: AddressSpace,
    address: int,
    count: int,
    bitset: int = BITSET_ANY,
    *,
    private: bool = False,
) -> int:
    """Wake up to `count` waiters, but at least one if there is one; return how many
    (`futex_wake`). Raises `SysError`."""
    return _wake(queues, futex_key(mm, address, private=private), count, bitset)


def _wake(queues: FutexQueues, key: Key, count: int, bitset: int = BITSET_ANY) -> int:
    woken = 0
    for ticket in queues.waiting.get(key, ()):
        if ticket.bitset & bitset and not ticket.woken:
            ticket.woken = True
            woken += 1
            if woken >= count:
                break
    return woken


def requeue(
    task: Task,
    address: int,
    n_wake: int,
    n_move: int,
    target: int,
    *,
    expected: int | None,
    private: bool,
) -> int:
    """Wake some waiters and move others to another futex; return how many in all
    (`futex_requeue`). With `expected` the word must have that value.

    Raises `SysError`: EINVAL, EFAULT, EAGAIN.
    """
    if n_wake < 0 or n_move < 0:
        raise SysError(errno.EINVAL)
    source_key = futex_key(task.mm, address, private=private)
    target_key = futex_key(task.mm, target, private=private)
    if expected is not None:
        _check_word(task, address, expected)
    waiting = task.kernel.futexes.waiting
    tickets = [ticket for ticket in waiting.get(source_key, ()) if not ticket.woken]
    for ticket in tickets[:n_wake]:
        ticket.woken = True
    moving = tickets[n_wake : n_wake + n_move]
    for ticket in moving:
        waiting[source_key].remove(ticket)
        waiting.setdefault(target_key, []).append(ticket)
    return len(tickets[:n_wake]) + len(moving)


def wake_op(
    task: Task, address: int, count: int, count2: int, target: int, operation: int, *, private: bool
) -> int:
    """Change the word at `target`, wake waiters for the one at `address`, and, if the old word
    compares as `operation` demands, also some for `target` (`futex_wake_op`)."""
    mm, queues = task.mm, task.kernel.futexes
    key = futex_key(mm, address, private=private)
    target_key = futex_key(mm, target, private=private, write=True)
    holds = _change_word(mm, target, operation)
    woken = _wake(queues, key, count)
    return woken + (_wake(queues, target_key, count2) if holds else 0)


def _change_word(mm: AddressSpace, address: int, operation: int) -> bool:
    """`futex_atomic_op_inuser`: two numbers of 12 bits with a sign, an operation (with the
    first one as a power of two, with bit 3) and a comparison."""
    argument = _signed(operation >> 12, 12)
    if operation >> 28 & 8:
        argument = 1 << (argument & 31)
    old = get_u32(mm, address)
    new = {
        0: argument,
        1: old + argument,
        2: old | argument,
        3: old & ~argument,
        4: old ^ argument,
    }.get(operation >> 28 & 7)
    if new is None:
        raise SysError(errno.ENOSYS)
    put_u32(mm, address, new)
    word, against = _signed(old, 32), _signed(operation, 12)
    holds = {
        0: word == against,
        1: word != against,
        2: word < against,
        3: word <= against,
        4: word > against,
        5: word >= against,
    }.get(operation >> 24 & 0xF)
    if holds is None:
        raise SysError(errno.ENOSYS)
    return holds


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
