"""How the kernel's functions fail: with an errno, as Linux's return `-errno`."""

import errno
import os


class SysError(Exception):
    """A system call (or a part of one) fails with `errno`; the dispatcher returns `-errno`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{errno.errorcode.get(number, number)} ({os.strerror(number)})")
        self.errno = number
