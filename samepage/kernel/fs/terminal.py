"""What a terminal answers to ioctl (drivers/tty/tty_ioctl.c), emulated.

The settings are kept here and have no effect on the host's terminal, whose own line
discipline echoes and edits. The window size is the host's.
"""

from __future__ import annotations

import errno
import os
import struct

from samepage.kernel.errors import SysError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.file import UserMemory


TCGETS, TCSETS, TCSETSW, TCSETSF = 0x5401, 0x5402, 0x5403, 0x5404
TCSBRK, TCXONC, TCFLSH = 0x5409, 0x540A, 0x540B
TCGETS2, TCSETS2, TCSETSW2, TCSETSF2 = 0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D
TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCNOTTY = 0x540E, 0x540F, 0x5410, 0x5422
TIOCGWINSZ, TIOCSWINSZ, TIOCGSID = 0x5413, 0x5414, 0x5429

TERMIOS_SIZE = 36
TERMIOS2_SIZE = 44
_CONTROL = bytes([3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0])
_DEFAULT = struct.pack("<IIIIB", 0x500, 0x5, 0xBF, 0x8A3B, 0) + _CONTROL
"""`tty_std_termios` at 38400 baud, as a shell leaves it."""
_SPEED = struct.pack("<II", 38400, 38400)


class Terminal:
    """The state of one terminal: settings, foreground process group, session."""

    def __init__(self, host_fd: int | None = None) -> None:
        self._host_fd = host_fd
        self._termios = _DEFAULT
        self._window: bytes | None = None
        self.foreground = 0
        self.session = 0

    def window_size(self) -> bytes:
        """`struct winsize`."""
        if self._window is not None:
            return self._window
        columns, rows = 0, 0
        if self._host_fd is not None:
            try:
                columns, rows = os.get_terminal_size(self._host_fd)
            except OSError:
                pass  # a terminal that is gone has no size
        return struct.pack("<HHHH", rows, columns, 0, 0)

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """Do a terminal's request. Raises `SysError(ENOTTY)` for one that is unknown."""
        request &= 0xFFFF_FFFF
        if request == TCGETS:
            memory.write(argument, self._termios)
        elif request == TCGETS2:
            memory.write(argument, self._termios + _SPEED)
        elif request in (TCSETS, TCSETSW, TCSETSF, TCSETS2, TCSETSW2, TCSETSF2):
            self._termios = memory.read(argument, TERMIOS_SIZE)
        elif request == TIOCGWINSZ:
            memory.write(argument, self.window_size())
        elif request == TIOCSWINSZ:
            self._window = memory.read(argument, 8)
        elif request in (TIOCGPGRP, TIOCGSID):
            value = self.foreground if request == TIOCGPGRP else self.session
            memory.write(argument, struct.pack("<i", value))
        elif request == TIOCSPGRP:
            self.foreground = struct.unpack("<i", memory.read(argument, 4))[0]
        elif request in (TCSBRK, TCXONC, TCFLSH, TIOCSCTTY, TIOCNOTTY):
            pass  # nothing is buffered here, and all share the one terminal
        else:
            raise SysError(errno.ENOTTY)
        return 0
