"""The waiters of all futexes of a machine (`futex_hash_bucket`, `futex_q`)."""

from samepage.kernel.mm.address_space import AddressSpace
from samepage.records import field, record

Key = tuple[object, int, bool]
"""A futex: its address space and address, or its file and offset if it is in a file's page;
and whether it is private to the process."""


@record(eq=False)
class Ticket:
    """One waiter."""

    bitset: int
    woken: bool = False


@record(frozen=True)
class Waiter:
    """One of the futexes that `futex_waitv` waits for (`struct futex_waitv`)."""

    address: int
    value: int
    private: bool


@record(eq=False)
class PiWaiter:
    """A thread that waits for a lock with priority inheritance, and the place of the lock in
    its memory; `owns` once it has got it."""

    tid: int
    mm: AddressSpace
    address: int
    owns: bool = False


@record
class FutexQueues:
    """All waiters of a machine, by futex."""

    waiting: dict[Key, list[Ticket]] = field(default_factory=dict)
    inheriting: dict[Key, list[PiWaiter]] = field(default_factory=dict)
    """Those that wait for locks with priority inheritance; no list is empty."""
