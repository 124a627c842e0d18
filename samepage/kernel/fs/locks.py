"""File locks: flock, and record locks of processes and of open files (fs/locks.c).

The three kinds do not conflict with each other, except that record locks of processes and of open
files (OFD) are one set. A lock that conflicts raises EAGAIN; the system-call layer
waits and tries again. There is no deadlock detection across waiting tasks.
"""

from __future__ import annotations

import errno
import fcntl

from samepage.kernel.errors import SysError
from samepage.records import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from samepage.kernel.fs.fdtable import FdTable
    from samepage.kernel.fs.file import OpenFile

    LockOwner: TypeAlias = OpenFile | FdTable

END = 1 << 63


@record(frozen=True)
class RecordLock:
    """Bytes [start, end) locked by `owner`: a table of descriptors, or an open file.

    `pid` is what F_GETLK reports: -1 for an open file's lock.
    """

    owner: LockOwner
    pid: int
    kind: int
    start: int
    end: int

    def conflicts(self, other: RecordLock) -> bool:
        """Whether both cannot be held."""
        return (
            self.owner is not other.owner
            and self.start < other.end
            and other.start < self.end
            and fcntl.F_WRLCK in (self.kind, other.kind)
        )


class FileLocks:
    """The locks on one inode.

    Invariant: locks of one owner do not overlap; locks that conflict are not both held.
    """

    def __init__(self) -> None:
        self._flocks: dict[LockOwner, int] = {}
        self._records: list[RecordLock] = []

    def flock(self, file: OpenFile, operation: int) -> None:
        """LOCK_SH, LOCK_EX or LOCK_UN (LOCK_NB is the caller's matter).

        Raises `SysError` with EAGAIN (EWOULDBLOCK) or EINVAL.
        """
        kind = operation & ~fcntl.LOCK_NB
        if kind == fcntl.LOCK_UN:
            self._flocks.pop(file, None)
            return
        if kind not in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            raise SysError(errno.EINVAL)
        # A change of kind gives the old lock up first, as in `flock_lock_inode`.
        self._flocks.pop(file, None)
        if any(fcntl.LOCK_EX in (kind, held) for held in self._flocks.values()):
            raise SysError(errno.EAGAIN)
        self._flocks[file] = kind

    def conflict(self, wanted: RecordLock) -> RecordLock | None:
        """The first lock that conflicts (F_GETLK)."""
        return next((held for held in self._records if held.conflicts(wanted)), None)

    def set(self, wanted: RecordLock) -> None:
        """Set or (F_UNLCK) remove a record lock. Raises `SysError(EAGAIN)`."""
        if wanted.kind != fcntl.F_UNLCK and self.conflict(wanted) is not None:
            raise SysError(errno.EAGAIN)
        kept: list[RecordLock] = []
        for held in self._records:
            if held.owner is not wanted.owner:
                kept.append(held)
                continue
            if held.start < wanted.start:
                kept.append(replace(held, end=min(held.end, wanted.start)))
            if held.end > wanted.end:
                kept.append(replace(held, start=max(held.start, wanted.end)))
        if wanted.kind != fcntl.F_UNLCK:
            kept.append(wanted)
        self._records = sorted(_joined(kept), key=lambda lock: lock.start)

    def release(self, owner: LockOwner) -> None:
        """Drop all locks of an open file, or the record locks of a table of descriptors:
        at the last close of the file, and at every close by the process."""
        self._flocks.pop(owner, None)
        self._records = [held for held in self._records if held.owner is not owner]


def _joined(locks: list[RecordLock]) -> list[RecordLock]:
    """Adjacent locks of one owner and kind become one."""
    done: list[RecordLock] = []
    for lock in sorted(locks, key=lambda lock: lock.start):
        for at, before in enumerate(done):
            if before.owner is lock.owner and (before.kind, before.end) == (lock.kind, lock.start):
                done[at] = replace(before, end=lock.end)
                break
        else:
            done.append(lock)
    return done


def locks_of(file: OpenFile) -> FileLocks:
    """The locks on a file's inode, made at the first use."""
    if file.inode.locks is None:
        file.inode.locks = FileLocks()
    return file.inode.locks
