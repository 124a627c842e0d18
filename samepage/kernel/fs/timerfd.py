"""timerfd: a timer that is read (fs/timerfd.c). Times are ns of the machine's clocks."""

import errno
import os
import struct
from collections.abc import Callable

from samepage.abi.poll import POLLIN
from samepage.abi.time import TIMER_ABSTIME
from samepage.kernel.errors import SysError
from samepage.kernel.fs.anonymous import anonymous_path
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Superblock


class TimerFd(OpenFile):
    """An open timer on a clock given as a function.

    `expires` is when it fires next on that clock, 0 if it is not armed; the scheduler
    waits until then when every task waits.
    """

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, clock: Callable[[], int], flags: int) -> None:
        """Raises `SysError(EINVAL)` for unknown flags."""
        if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK):
            raise SysError(errno.EINVAL)
        super().__init__(anonymous_path(sb, b"timerfd"), os.O_RDWR | flags & os.O_NONBLOCK)
        self._clock = clock
        self.expires = 0
        self._interval = 0
        self._ticks = 0
        self._fired = 0

    def set_time(self, value: int, interval: int, flags: int) -> tuple[int, int]:
        """Arm, or disarm with a value of 0; return the old (value, interval).

        Raises `SysError(EINVAL)`.
        """
        if value < 0 or interval < 0 or flags & ~(TIMER_ABSTIME | 2):
            raise SysError(errno.EINVAL)
        old = self.get_time()
        self._ticks, self._interval = 0, interval
        if not value:
            self.expires = 0
        elif flags & TIMER_ABSTIME:
            self.expires = value
        else:
            self.expires = self._clock() + value
        return old

    def get_time(self) -> tuple[int, int]:
        """(time until it fires, interval); 0 if it is not armed."""
        self._advance()
        left = max(self.expires - self._clock(), 1) if self.expires else 0
        return left, self._interval

    @property
    def time_left(self) -> int | None:
        """Until it fires."""
        return self.get_time()[0] or None

    def _advance(self) -> None:
        now = self._clock()
        if not self.expires or now < self.expires:
            return
        if self._interval:
            fired = (now - self.expires) // self._interval + 1
            self._ticks += fired
            self._fired += 1
            self.expires += fired * self._interval
        else:
            self._ticks += 1
            self._fired += 1
            self.expires = 0

    def _read_at(self, length: int, offset: int) -> bytes:
        if length < 8:
            raise SysError(errno.EINVAL)
        self._advance()
        if not self._ticks:
            raise SysError(errno.EAGAIN)
        ticks, self._ticks = self._ticks, 0
        return struct.pack("<Q", ticks)

    @property
    def wakeups(self) -> int:
        """How often it was seen to have fired."""
        self._advance()
        return self._fired

    def poll(self) -> int:
        """Readable once it has fired."""
        self._advance()
        return POLLIN if self._ticks else 0
