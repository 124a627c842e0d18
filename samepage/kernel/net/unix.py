"""AF_UNIX sockets between processes of the model. There is no network, and no way to a
socket of the host.

A stream socket has a queue of bytes; a datagram or sequenced-packet socket one of packets.
Files that are sent along (SCM_RIGHTS) travel with the bytes they were sent with, and a read
does not go past the end of such a batch (`unix_stream_read_generic`).
"""

from __future__ import annotations

import errno
import stat
import struct
from collections import deque
from collections.abc import Sequence

from samepage.abi.poll import POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM
from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import MAY_WRITE
from samepage.kernel.fs.file import FIONREAD, OpenFile
from samepage.kernel.net.family import AF_UNIX
from samepage.kernel.net.socket import (
    MSG_PEEK,
    SEND_BUFFER,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    Message,
    Socket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.context import FsContext
    from samepage.kernel.fs.file import UserMemory
    from samepage.kernel.fs.inode import Inode
    from samepage.kernel.fs.vfs import Vfs
    from samepage.kernel.net.family import Network

_SOCKADDR = struct.Struct("<H")
_MAX_PATH = 108
"""The size of `sun_path`."""


class UnixFamily:
    """AF_UNIX of one machine: the table of bound sockets. An address is the bytes of
    `sun_path`; a leading NUL makes it abstract.

    Invariant: a socket is in a table from `bind` until its release.
    """

    number = AF_UNIX

    def __init__(self, network: Network, vfs: Vfs) -> None:
        self.sockfs = network.sockfs
        self._vfs = vfs
        self._bound: dict[bytes | Inode, UnixSocket] = {}
        """By abstract name, or the inode of the name in the tree
        (`unix_find_socket_byinode`)."""

    def create(self, kind: int, protocol: int, flags: int) -> UnixSocket:
        """`unix_create`. Raises `SysError` with EPROTONOSUPPORT or ESOCKTNOSUPPORT."""
        if protocol not in (0, AF_UNIX):
            raise SysError(errno.EPROTONOSUPPORT)
        if kind not in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
            raise SysError(errno.ESOCKTNOSUPPORT)
        return UnixSocket(self, kind, flags)

    def pair(self, kind: int, protocol: int, flags: int) -> tuple[UnixSocket, UnixSocket]:
        """`unix_socketpair`. Raises as `create`."""
        first = self.create(kind, protocol, flags)
        second = self.create(kind, protocol, flags)
        first.join(second)
        return first, second

    def parse(self, sockaddr: bytes) -> bytes:
        """`unix_validate_addr`. Raises `SysError(EINVAL)`."""
        name = sockaddr[_SOCKADDR.size :]
        if not 0 < len(name) <= _MAX_PATH or _SOCKADDR.unpack_from(sockaddr)[0] != AF_UNIX:
            raise SysError(errno.EINVAL)
        return name if name.startswith(b"\0") else name.split(b"\0", 1)[0]

    def format(self, address: bytes) -> bytes:
        """A `struct sockaddr_un`, as long as what it holds; a path ends with NUL."""
        tail = b"" if not address or address.startswith(b"\0") else b"\0"
        return _SOCKADDR.pack(AF_UNIX) + address + tail

    def bind(self, ctx: FsContext, sock: UnixSocket, address: bytes) -> None:
        """Make the name: a socket's inode in the tree, or an abstract one. Raises `SysError`:
        EINVAL if the socket has a name, EADDRINUSE, or as `mknod`."""
        if address.startswith(b"\0"):
            if sock.address:
                raise SysError(errno.EINVAL)
            if address in self._bound:
                raise SysError(errno.EADDRINUSE)
            self._bound[address] = sock
            sock.bound_at = address
            return
        try:
            inode = self._vfs.mknod(ctx, address, stat.S_IFSOCK | 0o777)
        except SysError as error:
            exists = error.errno == errno.EEXIST
            raise SysError(errno.EADDRINUSE if exists else error.errno) from error
        if sock.address:  # found only now, as `unix_bind_bsd` does
            self._vfs.unlink(ctx, address)
            raise SysError(errno.EINVAL)
        self._bound[inode] = sock
        sock.bound_at = inode

    def find(self, ctx: FsContext, address: bytes) -> UnixSocket:
        """The socket that is bound to an address (`unix_find_other`). Raises `SysError`:
        ECONNREFUSED without one, also for a socket of the host; ENOENT and so on as a
        lookup."""
        if address.startswith(b"\0"):
            found = self._bound.get(address)
        else:
            inode = self._vfs.lookup(ctx, address).inode
            ctx.cred.require(inode, MAY_WRITE)
            found = self._bound.get(inode)
        if found is None:
            raise SysError(errno.ECONNREFUSED)
        return found

    def unbind(self, sock: UnixSocket) -> None:
        """A socket is closed; its name in the tree stays, and leads nowhere."""
        if sock.bound_at is not None:
            del self._bound[sock.bound_at]
            sock.bound_at = None


class UnixSocket(Socket):
    """An AF_UNIX socket.

    Invariant: `peer.peer is self` for connected stream sockets whose both ends are open.
    """

    family: UnixFamily

    def __init__(self, family: UnixFamily, kind: int, flags: int = 0) -> None:
        super().__init__(family.sockfs, family, kind, flags)
        self.bound_at: bytes | Inode | None = None
        """Where the family has it in its table."""
        self.peer: UnixSocket | None = None
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
    def peer_address(self) -> bytes | None:
        """The peer's name, empty if it has none."""
        return self.peer.address if self.peer is not None else None

    @property
    def queued(self) -> int:
        """Bytes that can be received."""
        return sum(len(message.data) for message in self._queue)

    def join(self, peer: UnixSocket) -> None:
        """Connect two sockets with each other."""
        self.peer, peer.peer = peer, self
        self.peer_credentials, peer.peer_credentials = peer.owner, self.owner

    def bind(self, ctx: FsContext, address: bytes) -> None:
        """Take a name. Raises `SysError` as the family's `bind`."""
        self.family.bind(ctx, self, address)
        self.address = address

    def listen(self, backlog: int) -> None:
        """Wait for connections. Raises `SysError` with EINVAL or EOPNOTSUPP."""
        if self.kind == SOCK_DGRAM:
            raise SysError(errno.EOPNOTSUPP)
        if not self.address or self.peer is not None:
            raise SysError(errno.EINVAL)
        self._limit = max(backlog, 0) + 1
        if self._backlog is None:
            self._backlog = deque()

    def connect(self, ctx: FsContext, address: bytes) -> None:
        """Connect to a bound socket. Raises `SysError`: ECONNREFUSED if it does not
        listen, EPROTOTYPE, EISCONN, EAGAIN if its backlog is full."""
        target = self.family.find(ctx, address)
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
        server = UnixSocket(self.family, self.kind)
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

    def send(self, data: bytes, files: Sequence[OpenFile] = ()) -> int:
        """Send to the peer; return how much went.

        Raises `SysError`: ENOTCONN, EPIPE, EAGAIN if the receiver's queue is full,
        EMSGSIZE, ECONNREFUSED.
        """
        return self._send(data, files, self.peer)

    def send_to(
        self, ctx: FsContext, address: bytes, data: bytes, files: Sequence[OpenFile] = ()
    ) -> int:
        """Send to the socket that is bound to an address. Raises as `send`."""
        return self._send(data, files, self.family.find(ctx, address))

    def _send(self, data: bytes, files: Sequence[OpenFile], receiver: UnixSocket | None) -> int:
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
            # Linux reports the end of datagrams only to a task that waits for one.
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
        sender = self._queue[0].sender
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
        return Message(bytes(out), files, sender), len(out)

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
        self.family.unbind(self)
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
