"""epoll: a set of files to wait for (fs/eventpoll.c).

The set is looked through when a task waits or polls. An edge-triggered entry is reported only if
something happened to its file since the last time, which the file counts (`wakeups`). As in
Linux, that may be more often than necessary, and is never too seldom; a file that does not
count is reported whenever it is ready.
"""

from __future__ import annotations

import errno
import os

from samepage.abi.poll import POLLERR, POLLHUP, POLLIN, POLLRDNORM
from samepage.kernel.errors import SysError
from samepage.kernel.fs.anonymous import anonymous_path
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Superblock
from samepage.records import record

EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
EPOLLONESHOT, EPOLLET = 1 << 30, 1 << 31
EVENT_MASK = 0xFFFF
MAX_NESTING = 5


@record
class Watch:
    """One entry: which events are wanted, what is given back with them, and, for
    edge-triggered entries, the file's `wakeups` at the last report."""

    file: OpenFile
    events: int
    data: int
    reported: int | None = None


class Epoll(OpenFile):
    """An open epoll set. An entry is a file and the descriptor it was added under; it is removed
    with the last descriptor of the file."""

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, flags: int = 0) -> None:
        """Raises `SysError(EINVAL)` for unknown flags."""
        if flags & ~os.O_CLOEXEC:
            raise SysError(errno.EINVAL)
        super().__init__(anonymous_path(sb, b"eventpoll"), os.O_RDWR)
        self._watches: dict[tuple[int, int], Watch] = {}

    def control(
        self, operation: int, fd: int, file: OpenFile, events: int = 0, data: int = 0
    ) -> None:
        """`epoll_ctl`. Raises `SysError`: EPERM for a file that cannot be waited for,
        EINVAL, EEXIST, ENOENT, ELOOP."""
        if not file.pollable:
            raise SysError(errno.EPERM)
        if file is self:
            raise SysError(errno.EINVAL)
        self._forget_closed()
        key = (fd, id(file))
        if operation == EPOLL_CTL_ADD:
            if key in self._watches:
                raise SysError(errno.EEXIST)
            if _contains(file, self) or _depth(file) >= MAX_NESTING:
                raise SysError(errno.ELOOP)
            self._watches[key] = Watch(file, events | POLLERR | POLLHUP, data)
        elif operation in (EPOLL_CTL_DEL, EPOLL_CTL_MOD):
            if key not in self._watches:
                raise SysError(errno.ENOENT)
            if operation == EPOLL_CTL_DEL:
                del self._watches[key]
            else:
                self._watches[key] = Watch(file, events | POLLERR | POLLHUP, data)
        else:
            raise SysError(errno.EINVAL)

    def watched(self) -> list[OpenFile]:
        """The files of its entries."""
        return [watch.file for watch in self._watches.values()]

    def _forget_closed(self) -> None:
        for key in [key for key, watch in self._watches.items() if watch.file.refs == 0]:
            del self._watches[key]

    def wait(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` (events, data) that are ready now; none if it would wait.

        Entries that were reported go to the end, so that all get their turn.
        """
        self._forget_closed()
        found: list[tuple[int, int]] = []
        for key, watch in list(self._watches.items()):
            if len(found) == limit:
                break
            ready = self._ready(watch)
            if not ready:
                continue
            found.append((ready, watch.data))
            if watch.events & EPOLLONESHOT:
                watch.events = 0
            self._watches[key] = self._watches.pop(key)
        return found

    def _ready(self, watch: Watch) -> int:
        if not watch.events & EVENT_MASK:
            return 0  # a one-shot entry that has fired
        ready = watch.file.poll() & watch.events & EVENT_MASK
        if watch.events & EPOLLET:
            wakeups = watch.file.wakeups
            if not ready or (wakeups is not None and wakeups == watch.reported):
                return 0
            watch.reported = wakeups
        return ready

    @property
    def time_left(self) -> int | None:
        """Until one of its timers fires."""
        times = [file.time_left for file in self.watched()]
        return min((left for left in times if left is not None), default=None)

    @property
    def host_fd(self) -> int | None:
        """A descriptor of the host among its files, to wait for."""
        found = (file.host_fd for file in self.watched())
        return next((fd for fd in found if fd is not None), None)

    def poll(self) -> int:
        """Readable if an entry is ready."""
        for watch in self._watches.values():
            if watch.events & EVENT_MASK and watch.file.poll() & watch.events & EVENT_MASK:
                return POLLIN | POLLRDNORM
        return 0


def _contains(file: OpenFile, wanted: OpenFile) -> bool:
    inner = file.watched() or []
    return wanted in inner or any(_contains(each, wanted) for each in inner)


def _depth(file: OpenFile) -> int:
    """The depth of nested epoll sets, from `file` down
    (`ep_loop_check_proc`)."""
    inner = file.watched()
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)
