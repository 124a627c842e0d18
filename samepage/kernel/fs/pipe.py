"""Pipes and FIFOs (fs/pipe.c).

A pipe holds up to 16 buffers of one page. A write first tops up the last buffer with the
part of it that is not whole pages, if that fits, and then fills new buffers: so a write of
at most PIPE_BUF bytes goes in whole or not at all, and a larger one may go in partly.

An end with O_DIRECT writes packets: each buffer that it fills is one. Nothing is added to a
packet; a read ends with the first that it meets, and what it has no room for is lost.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections import deque

from samepage.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from samepage.arch import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import FIONREAD, OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.file import UserMemory


DEFAULT_SLOTS = 16
MAX_SLOTS = 256
"""1 MiB (`pipe_max_size`)."""


class Pipe:
    """The buffer of a pipe, and how many open ends it has.

    Invariants: at most `n_slots` buffers, none empty; `start + len(data)` of a buffer is
    at most a page.
    """

    def __init__(self) -> None:
        self.n_slots = DEFAULT_SLOTS
        self.readers = 0
        self.writers = 0
        self.reads_opened = 0
        self.writes_opened = 0
        self.wakeups = 0
        self._slots: deque[_Slot] = deque()

    @property
    def available(self) -> int:
        """Bytes that can be read."""
        return sum(len(slot.data) for slot in self._slots)

    @property
    def full(self) -> bool:
        """Whether no buffer is free."""
        return len(self._slots) >= self.n_slots

    @property
    def capacity(self) -> int:
        """Bytes that fit in all (F_GETPIPE_SZ)."""
        return self.n_slots << PAGE_SHIFT

    def resize(self, size: int) -> int:
        """F_SETPIPE_SZ: return the new capacity, whole pages and a power of two.

        Raises `SysError` with EINVAL, EPERM (more than `pipe_max_size`) or EBUSY.
        """
        if not 0 <= size <= 1 << 31:
            raise SysError(errno.EINVAL)
        slots = 1 << max(0, (size + PAGE_SIZE - 1 >> PAGE_SHIFT) - 1).bit_length()
        if slots > MAX_SLOTS:
            raise SysError(errno.EPERM)
        if slots < len(self._slots):
            raise SysError(errno.EBUSY)
        self.n_slots = slots
        return self.capacity

    def read(self, length: int) -> bytes:
        """Take up to `length` bytes; none at the end. Raises `SysError(EAGAIN)`."""
        if not self._slots:
            if self.writers and length:
                raise SysError(errno.EAGAIN)
            return b""
        self.wakeups += 1
        out = bytearray()
        while self._slots and len(out) < length:
            slot = self._slots[0]
            part = slot.data[: length - len(out)]
            out += part
            del slot.data[: len(part)]
            slot.start += len(part)
            if slot.packet or not slot.data:
                self._slots.popleft()
            if slot.packet:
                break
        return bytes(out)

    def peek(self, length: int) -> bytes:
        """As `read`, but what is read stays. Raises `SysError(EAGAIN)`."""
        if not self._slots and self.writers:
            raise SysError(errno.EAGAIN)
        return b"".join(bytes(slot.data) for slot in self._slots)[:length]

    def write(self, data: bytes, *, packets: bool = False) -> int:
        """Put in as much as fits, as `packets` or as a stream. Raises `SysError` with EPIPE, or
        EAGAIN if none does."""
        if not data:
            return 0
        if not self.readers:
            raise SysError(errno.EPIPE)
        done = 0
        tail = len(data) & (PAGE_SIZE - 1)
        if tail and self._slots:
            last = self._slots[-1]
            if not last.packet and last.start + len(last.data) + tail <= PAGE_SIZE:
                last.data += data[:tail]
                done = tail
        while done < len(data) and not self.full:
            part = data[done : done + PAGE_SIZE]
            self._slots.append(_Slot(bytearray(part), packets))
            done += len(part)
        if data and not done:
            raise SysError(errno.EAGAIN)
        self.wakeups += 1
        return done


class _Slot:
    """One buffer: `start` bytes of its page were read already. Nothing is added to a `packet`
    (PIPE_BUF_FLAG_CAN_MERGE is not set, PIPE_BUF_FLAG_PACKET is)."""

    __slots__ = ("data", "packet", "start")

    def __init__(self, data: bytearray, packet: bool) -> None:
        self.data = data
        self.start = 0
        self.packet = packet


class Fifo(Inode):
    """The inode of a pipe, with or without a name."""

    def __init__(self, sb: Superblock, mode: int) -> None:
        super().__init__(sb, stat.S_IFIFO | stat.S_IMODE(mode))
        self.pipe = Pipe()

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open an end, or both (`fifo_open`).

        A FIFO's file has in `opening` whether it must wait for the other end; a pipe
        without a name, opened by /proc/PID/fd, never waits. Raises `SysError(ENXIO)` for
        O_WRONLY | O_NONBLOCK on a FIFO without a reader.
        """
        access = flags & os.O_ACCMODE
        named = self.sb.type_name != "pipefs"
        nonblocking = flags & os.O_NONBLOCK
        if named and access == os.O_WRONLY and nonblocking and not self.pipe.readers:
            raise SysError(errno.ENXIO)
        return PipeFile(path, flags, waits=named and not nonblocking)


class PipeFile(OpenFile):
    """An open end of a pipe."""

    seekable = False
    pollable = True
    inode: Fifo
    pipe: Pipe

    def __init__(self, path: Path, flags: int, *, waits: bool = False) -> None:
        super().__init__(path, flags)
        self.pipe = self.inode.pipe
        if self.readable:
            self.pipe.readers += 1
            self.pipe.reads_opened += 1
        if self.writable:
            self.pipe.writers += 1
            self.pipe.writes_opened += 1
        self._reads_seen = self.pipe.reads_opened
        self._writes_seen = self.pipe.writes_opened
        self._waits = waits and not (self.pipe.writers if self.readable else self.pipe.readers)

    @property
    def opening(self) -> bool:
        """Whether the other end was not opened since (`wait_for_partner`)."""
        if not self._waits:
            return False
        if self.readable:
            return self.pipe.writes_opened == self._writes_seen
        return self.pipe.reads_opened == self._reads_seen

    def _read_at(self, length: int, offset: int) -> bytes:
        return self.pipe.read(length)

    def _write_at(self, data: bytes, offset: int) -> int:
        return self.pipe.write(data, packets=bool(self.flags & os.O_DIRECT))

    @property
    def wakeups(self) -> int:
        """Reads, writes and closed ends."""
        return self.pipe.wakeups

    def poll(self) -> int:
        """`pipe_poll`."""
        mask = 0
        if self.readable:
            if self.pipe.available:
                mask |= POLLIN | POLLRDNORM
            # A FIFO that never had a writer since it was opened is not hung up.
            if not self.pipe.writers and self._had_writer():
                mask |= POLLHUP
        if self.writable:
            if not self.pipe.full:
                mask |= POLLOUT | POLLWRNORM
            if not self.pipe.readers:
                mask |= POLLERR
        return mask

    def _had_writer(self) -> bool:
        return not self.nonblocking or self.pipe.writes_opened > 0

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """FIONREAD."""
        if request == FIONREAD:
            memory.write(argument, struct.pack("<i", self.pipe.available))
            return 0
        return super().ioctl(request, argument, memory)

    def release(self) -> None:
        """One end less."""
        self.pipe.wakeups += 1
        self.pipe.readers -= self.readable
        self.pipe.writers -= self.writable


def make_pipe(sb: Superblock, flags: int) -> tuple[PipeFile, PipeFile]:
    """`pipe2`: the end to read from and the end to write to. Raises `SysError(EINVAL)`."""
    if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT):
        raise SysError(errno.EINVAL)
    inode = Fifo(sb, 0o600)
    path = Path(inode, b"pipe:[%d]" % inode.ino, mount_id=0)
    status = flags & os.O_NONBLOCK
    writing = os.O_WRONLY | status | flags & os.O_DIRECT
    return PipeFile(path, os.O_RDONLY | status), PipeFile(path, writing)
