"""AF_UNIX sockets between processes of the model. There is no network, and no way to a
socket of the host.

A stream socket has a queue of bytes; a datagram or sequenced-packet socket one of packets.
Files that are sent along (SCM_RIGHTS) travel with the bytes they were sent with, and a read
does not go past the end of such a batch (`unix_stream_read_generic`).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections import deque
from collections.abc import Sequence

from samepage.abi.poll import POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import FIONREAD, OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from samepage.kernel.fs.file import UserMemory


AF_UNIX = 1
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
SOCK_TYPE_MASK = 0xF
SOCK_NONBLOCK, SOCK_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2
MSG_PEEK = 2
SEND_BUFFER = 212992
"""`net.core.wmem_default`."""


class SocketNode(Inode):
    """The name of a bound socket in the tree. A host's socket has nobody listening."""

    def __init__(self, sb: Superblock, mode: int, **attributes: Any) -> None:
        super().__init__(sb, stat.S_IFSOCK | stat.S_IMODE(mode), **attributes)
        self.bound: UnixSocket | None = None


class SocketInode(Inode):
    """The inode of a socket itself, in sockfs."""

    def __init__(self, sb: Superblock) -> None:
        super().__init__(sb, stat.S_IFSOCK | 0o777)


@record
class Message:
    """Bytes in a queue, the files sent along, and the sender's address."""

    data: bytes
    files: tuple[OpenFile, ...] = ()
    sender: bytes = b""


class UnixSocket(OpenFile):
    """An AF_UNIX socket. Addresses are the bytes of `sun_path` (a leading NUL: abstract).

    Invariant: `peer.peer is self` for connected stream sockets whose both ends are open.
    """

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, kind: int, flags: int = 0) -> None:
        inode = SocketInode(sb)
        path = Path(inode, b"socket:[%d]" % inode.ino, mount_id=0)
        super().__init__(path, os.O_RDWR | flags & os.O_NONBLOCK)
        self.kind = kind
        self.address = b""
        self.peer: UnixSocket | None = None
        self.peer_credentials = (0, 0, 0)
        self.owner = (0, 0, 0)
        """(pid, uid, gid) of who made it, for SO_PEERCRED."""
        self._queue: deque[Message] = deque()
        self._backlog: deque[UnixSocket] | None = None
        self._limit = 0
        self._read_closed = False
        self._write_closed = False
        self._hung_up = False
        """The peer of a connection is closed."""
        self._dead = False
        """This socket is closed; datagram sockets may still be connected to it."""
        self._wakeups = 0

    @property
    def wakeups(self) -> int:
        """Arrivals, space that became free, connections and closed ends."""
        return self._wakeups

    @property
    def listening(self) -> bool:
        """`listen` was called."""
        return self._backlog is not None

    @property
    def queued(self) -> int:
        """Bytes that can be received."""
        return sum(len(message.data) for message in self._queue)

    def join(self, peer: UnixSocket) -> None:
        """Connect two sockets with each other."""
        self.peer, peer.peer = peer, self
        self.peer_credentials, peer.peer_credentials = peer.owner, self.owner

    def listen(self, backlog: int) -> None:
        """Wait for connections. Raises `SysError` with EINVAL or EOPNOTSUPP."""
        if self.kind == SOCK_DGRAM:
            raise SysError(errno.EOPNOTSUPP)
        if not self.address or self.peer is not None:
            raise SysError(errno.EINVAL)
        self._limit = max(backlog, 0) + 1
        if self._backlog is None:
            self._backlog = deque()

    def connect(self, target: UnixSocket) -> None:
        """Connect to a bound socket. Raises `SysError`: ECONNREFUSED if it does not
        listen, EPROTOTYPE, EISCONN, EAGAIN if its backlog is full."""
        if target.kind != self.kind:
            raise SysError(errno.EPROTOTYPE)
        if self.kind == SOCK_DGRAM:
            self.peer = target
            return
        if self.peer is not None:
            raise SysError(errno.EISCONN)
        if target._backlog is None:
            raise SysError(errno.ECONNREFUSED)
        if len(target._backlog) >= target._limit:
            raise SysError(errno.EAGAIN)
        server = UnixSocket(target.inode.sb, self.kind)
        server.address, server.owner = target.address, target.owner
        self.join(server)
        target._backlog.append(server)
        target._wakeups += 1

    def accept(self) -> UnixSocket:
        """The next connection. Raises `SysError` with EINVAL or EAGAIN."""
        if self._backlog is None:
            raise SysError(errno.EINVAL)
        if not self._backlog:
            raise SysError(errno.EAGAIN)
        return self._backlog.popleft()

    def send(
        self, data: bytes, files: Sequence[OpenFile] = (), target: UnixSocket | None = None
    ) -> int:
        """Send to the peer, or to `target` (datagrams only); return how much went.

        Raises `SysError`: ENOTCONN, EPIPE, EAGAIN if the receiver's queue is full,
        EMSGSIZE, ECONNREFUSED.
        """
        receiver = target or self.peer
        if self._write_closed:
            raise SysError(errno.EPIPE)
        if receiver is None:
            raise SysError(errno.EPIPE if self._hung_up else errno.ENOTCONN)
        if receiver._dead:
            self.peer = None if receiver is self.peer else self.peer
            raise SysError(errno.ECONNREFUSED)
        if receiver._read_closed:
            raise SysError(errno.EPIPE)
        room = SEND_BUFFER - receiver.queued
        if self.kind != SOCK_STREAM:
            if len(data) > SEND_BUFFER:
                raise SysError(errno.EMSGSIZE)
            if len(data) > room:
                raise SysError(errno.EAGAIN)
        elif data and room <= 0:
            raise SysError(errno.EAGAIN)
        elif not data and not files:
            return 0
        else:
            data = data[:room]
        message = Message(data, tuple(file.get() for file in files), self.address)
        receiver._queue.append(message)
        receiver._wakeups += 1
        return len(data)

    def receive(self, length: int, flags: int = 0) -> tuple[Message, int]:
        """Receive up to `length` bytes: the message, and the full length of the packet.

        At the end of a connection the message is empty. The caller takes over the
        references to the files. Raises `SysError` with EAGAIN, EINVAL or ENOTCONN.
        """
        if not self._queue:
            # Linux tells the end of datagrams only to those who wait for one.
            waits = self.kind != SOCK_DGRAM or not self.nonblocking
            if self._hung_up or (self._read_closed and waits):
                return Message(b""), 0
            if self.kind != SOCK_DGRAM and self.peer is None:
                raise SysError(errno.EINVAL if self.kind == SOCK_STREAM else errno.ENOTCONN)
            raise SysError(errno.EAGAIN)
        if self.peer is not None:
            self.peer._wakeups += 1
        if self.kind == SOCK_STREAM:
            return self._receive_stream(length, flags)
        first = self._queue[0] if flags & MSG_PEEK else self._queue.popleft()
        files = tuple(f.get() for f in first.files) if flags & MSG_PEEK else first.files
        return Message(first.data[:length], files, first.sender), len(first.data)

    def _receive_stream(self, length: int, flags: int) -> tuple[Message, int]:
        out = bytearray()
        files: tuple[OpenFile, ...] = ()
        peeked = []
        while self._queue and len(out) < length:
            first = self._queue[0]
            if first.files:
                if out:
                    break
                files = first.files
            part = first.data[: length - len(out)]
            out += part
            self._queue.popleft()
            peeked.append(first)
            if len(part) < len(first.data):
                self._queue.appendleft(Message(first.data[len(part) :], (), first.sender))
            if files:
                break
        if flags & MSG_PEEK:
            if peeked and sum(len(message.data) for message in peeked) > len(out):
                self._queue.popleft()  # the rest that was put back
            self._queue.extendleft(reversed(peeked))
            files = tuple(file.get() for file in files)
        return Message(bytes(out), files), len(out)

    def _read_at(self, length: int, offset: int) -> bytes:
        message, _ = self.receive(length)
        for file in message.files:
            file.put()
        return message.data

    def _write_at(self, data: bytes, offset: int) -> int:
        return self.send(data)

    def shutdown(self, how: int) -> None:
        """Close one or both directions. Raises `SysError` with EINVAL or ENOTCONN."""
        if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
            raise SysError(errno.EINVAL)
        if self.peer is None:
            raise SysError(errno.ENOTCONN)
        pairs = self.kind != SOCK_DGRAM
        if how in (SHUT_RD, SHUT_RDWR):
            self._read_closed = True
            self.peer._write_closed |= pairs
        if how in (SHUT_WR, SHUT_RDWR):
            self._write_closed = True
            self.peer._read_closed |= pairs
        self.peer._wakeups += 1

    def poll(self) -> int:
        """`unix_poll`."""
        mask = 0
        if self._queue or self._backlog or self._read_closed or self._hung_up:
            mask |= POLLIN | POLLRDNORM
        if self._read_closed or self._hung_up:
            mask |= POLLRDHUP
        both_closed = self._read_closed and self._write_closed
        unconnected = self.kind != SOCK_DGRAM and self.peer is None and not self.listening
        if both_closed or self._hung_up or unconnected:
            mask |= POLLHUP
        if self._has_room():
            mask |= POLLOUT | POLLWRNORM
        return mask

    def _has_room(self) -> bool:
        if self.listening:
            return False
        return self.peer is None or self.peer.queued < SEND_BUFFER

    def ioctl(self, request: int, argument: int, memory: UserMemory) -> int:
        """FIONREAD (SIOCINQ)."""
        if request == FIONREAD:
            if self.listening:
                raise SysError(errno.EINVAL)
            first = len(self._queue[0].data) if self._queue else 0
            value = self.queued if self.kind == SOCK_STREAM else first
            memory.write(argument, struct.pack("<i", value))
            return 0
        return super().ioctl(request, argument, memory)

    def release(self) -> None:
        """Close: the peer reads what is left and then the end."""
        peer, self.peer = self.peer, None
        self._dead = True
        if self.kind != SOCK_DGRAM and peer is not None and peer.peer is self:
            peer.peer = None
            peer._hung_up = peer._write_closed = True
            peer._wakeups += 1
        for message in self._queue:
            for file in message.files:
                file.put()
        self._queue.clear()
        for waiting in self._backlog or ():
            waiting.release()
        self._backlog = None


def make_socket(sb: Superblock, family: int, kind: int, protocol: int) -> UnixSocket:
    """`socket`. Raises `SysError`: EAFNOSUPPORT for all but AF_UNIX, EPROTONOSUPPORT,
    ESOCKTNOSUPPORT, EINVAL."""
    flags = kind & ~SOCK_TYPE_MASK
    kind &= SOCK_TYPE_MASK
    if flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC):
        raise SysError(errno.EINVAL)
    if family != AF_UNIX:
        raise SysError(errno.EAFNOSUPPORT)
    if protocol not in (0, AF_UNIX):
        raise SysError(errno.EPROTONOSUPPORT)
    if kind not in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
        raise SysError(errno.ESOCKTNOSUPPORT)
    return UnixSocket(sb, kind, flags & SOCK_NONBLOCK)


def make_socket_pair(
    sb: Superblock, family: int, kind: int, protocol: int
) -> tuple[UnixSocket, UnixSocket]:
    """`socketpair`: two sockets connected with each other. Raises as `make_socket`."""
    first = make_socket(sb, family, kind, protocol)
    second = make_socket(sb, family, kind, protocol)
    first.join(second)
    return first, second
