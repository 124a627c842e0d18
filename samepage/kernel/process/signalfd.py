"""signalfd: signals that are read from a file instead of delivered (fs/signalfd.c).

Linux takes the signals of whoever reads. The model takes those of the process that made the
descriptor, which differs only for one that a child inherits.
"""

import errno
import os
import struct

from samepage.abi.poll import POLLIN
from samepage.abi.signal import SIGCHLD
from samepage.kernel.errors import SysError
from samepage.kernel.fs.anonymous import anonymous_path
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Superblock
from samepage.kernel.process.sigset import SYNCHRONOUS, SigInfo
from samepage.kernel.process.task import Process

_RECORD_SIZE = 128


class SignalFd(OpenFile):
    """An open signalfd; `mask` is the set of signals that it gives."""

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, process: Process, mask: int, flags: int) -> None:
        super().__init__(anonymous_path(sb, b"signalfd"), os.O_RDWR | flags & os.O_NONBLOCK)
        self._process = process
        self.mask = mask

    def _read_at(self, length: int, offset: int) -> bytes:
        if length < _RECORD_SIZE:
            raise SysError(errno.EINVAL)
        records: list[bytes] = []
        while (len(records) + 1) * _RECORD_SIZE <= length:
            info = self._take()
            if info is None:
                break
            records.append(_pack(info))
        if not records:
            raise SysError(errno.EAGAIN)
        return b"".join(records)

    def _take(self) -> SigInfo | None:
        for task in self._process.threads.values():
            found = task.pending.take(self.mask)
            if found is not None:
                return found
        return self._process.pending.take(self.mask)

    def poll(self) -> int:
        """Readable while one of its signals is pending."""
        pending = self._process.pending.mask
        for task in self._process.threads.values():
            pending |= task.pending.mask
        return POLLIN if pending & self.mask else 0


def _pack(info: SigInfo) -> bytes:
    """`struct signalfd_siginfo` (128 bytes)."""
    child = info.signal == SIGCHLD and info.code > 0
    fault = info.signal in SYNCHRONOUS and info.code > 0
    return struct.pack(
        "<Iii9I4Q",
        info.signal,
        0,
        info.code,
        info.pid,
        info.uid,
        *([0] * 5),
        info.status if child else 0,
        info.value & 0xFFFF_FFFF,
        info.value,
        0,
        0,
        info.address if fault else 0,
    ).ljust(_RECORD_SIZE, b"\0")
