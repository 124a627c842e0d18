"""eventfd: a counter that can be waited for (fs/eventfd.c)."""

import errno
import os
import struct

from samepage.abi.poll import POLLERR, POLLIN, POLLOUT
from samepage.kernel.errors import SysError
from samepage.kernel.fs.anonymous import anonymous_path
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Superblock

EFD_SEMAPHORE = 1
LIMIT = (1 << 64) - 1


class EventFd(OpenFile):
    """An open eventfd. Invariant: 0 <= count < 2**64 - 1, but for `signal`."""

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, count: int, flags: int) -> None:
        """Raises `SysError(EINVAL)` for unknown flags."""
        if flags & ~(EFD_SEMAPHORE | os.O_CLOEXEC | os.O_NONBLOCK):
            raise SysError(errno.EINVAL)
        super().__init__(anonymous_path(sb, b"eventfd"), os.O_RDWR | flags & os.O_NONBLOCK)
        self.count = count
        self._wakeups = 0
        self._semaphore = bool(flags & EFD_SEMAPHORE)

    def _read_at(self, length: int, offset: int) -> bytes:
        if length < 8:
            raise SysError(errno.EINVAL)
        if not self.count:
            raise SysError(errno.EAGAIN)
        taken = 1 if self._semaphore else self.count
        self.count -= taken
        self._wakeups += 1
        return struct.pack("<Q", taken)

    def _write_at(self, data: bytes, offset: int) -> int:
        if len(data) < 8:
            raise SysError(errno.EINVAL)
        (added,) = struct.unpack_from("<Q", data)
        if added == LIMIT:
            raise SysError(errno.EINVAL)
        if self.count + added >= LIMIT:
            raise SysError(errno.EAGAIN)
        self.count += added
        self._wakeups += 1
        return 8

    @property
    def wakeups(self) -> int:
        """Reads and writes."""
        return self._wakeups

    def poll(self) -> int:
        """`eventfd_poll`."""
        mask = POLLIN if self.count else 0
        if self.count == LIMIT:
            mask |= POLLERR
        if self.count < LIMIT - 1:
            mask |= POLLOUT
        return mask
