"""Sockets as files, whichever family they are of (`struct socket`, net/socket.c)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.context import FsContext
    from samepage.kernel.net.family import Family

SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
SOCK_TYPE_MASK = 0xF
SOCK_NONBLOCK, SOCK_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2
MSG_PEEK = 2
SEND_BUFFER = 212992
"""`net.core.wmem_default`."""


@record
class Message:
    """Bytes in a queue, the files sent along, and the sender's address (empty: it has none)."""

    data: bytes
    files: tuple[OpenFile, ...] = ()
    sender: bytes = b""


class Socket(OpenFile):
    """An open socket. What its family does not have answers EOPNOTSUPP, as the `sock_no_*` do
    of Linux's `proto_ops`; where a call would wait, it returns EAGAIN."""

    seekable = False
    pollable = True

    def __init__(self, sb: Superblock, family: Family, kind: int, flags: int = 0) -> None:
        inode = Inode(sb, stat.S_IFSOCK | 0o777)
        path = Path(inode, b"socket:[%d]" % inode.ino, mount_id=0)
        super().__init__(path, os.O_RDWR | flags & os.O_NONBLOCK)
        self.family = family
        self.kind = kind
        self.address = b""
        """What it is bound to."""
        self.owner = (0, 0, 0)
        """(pid, uid, gid) of who made it."""
        self.peer_credentials = (0, 0, 0)
        """The same of the other end of its connection, for SO_PEERCRED."""

    @property
    def listening(self) -> bool:
        """Whether it waits for connections (SO_ACCEPTCONN)."""
        return False

    @property
    def peer_address(self) -> bytes | None:
        """The address of the other end, None without one (`getname` with `peer`)."""
        return None

    def bind(self, ctx: FsContext, address: bytes) -> None:
        """Take an address. Raises `SysError`: EINVAL, EADDRINUSE."""
        raise SysError(errno.EOPNOTSUPP)

    def listen(self, backlog: int) -> None:
        """Wait for connections."""
        raise SysError(errno.EOPNOTSUPP)

    def connect(self, ctx: FsContext, address: bytes) -> None:
        """Connect to what has an address. Raises `SysError`: ECONNREFUSED, EISCONN, EAGAIN."""
        raise SysError(errno.EOPNOTSUPP)

    def accept(self) -> Socket:
        """The next connection."""
        raise SysError(errno.EOPNOTSUPP)

    def send(self, data: bytes, files: Sequence[OpenFile] = ()) -> int:
        """Send to the peer; how many bytes went."""
        raise SysError(errno.EOPNOTSUPP)

    def send_to(
        self, ctx: FsContext, address: bytes, data: bytes, files: Sequence[OpenFile] = ()
    ) -> int:
        """Send to what has an address; how many bytes went."""
        raise SysError(errno.EOPNOTSUPP)

    def receive(self, length: int, flags: int = 0) -> tuple[Message, int]:
        """Receive up to `length` bytes: the message, and the full length of the packet.

        At the end of a connection the message is empty. The caller takes over the references
        to the files.
        """
        raise SysError(errno.EOPNOTSUPP)

    def shutdown(self, how: int) -> None:
        """Close one or both directions (SHUT_*)."""
        raise SysError(errno.EOPNOTSUPP)

    def _read_at(self, length: int, offset: int) -> bytes:
        message, _ = self.receive(length)
        for file in message.files:
            file.put()
        return message.data

    def _write_at(self, data: bytes, offset: int) -> int:
        return self.send(data)
