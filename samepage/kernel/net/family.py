"""Address families: who makes sockets, and what an address means to them
(`struct net_proto_family` and what net/socket.c does with it).

A family is one module with a class that has the methods of `Family`. It is loaded when the first
socket of it is wanted, as `request_module("net-pf-...")` does it: few programs have sockets.
"""

from __future__ import annotations

import errno

from samepage.kernel.errors import SysError
from samepage.kernel.net.socket import SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_TYPE_MASK, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from samepage.kernel.fs.vfs import Vfs

    class Family(Protocol):
        """One address family of one machine. An address is its own bytes, without the number
        of the family; empty bytes are no address. All of it raises `SysError`."""

        number: int
        """AF_*."""

        def create(self, kind: int, protocol: int, flags: int) -> Socket:
            """A new socket of a SOCK_* kind, with O_* status flags (`net_proto_family.create`)."""

        def pair(self, kind: int, protocol: int, flags: int) -> tuple[Socket, Socket]:
            """Two sockets that are connected with each other (`proto_ops.socketpair`)."""

        def parse(self, sockaddr: bytes) -> bytes:
            """The address in a `struct sockaddr` of a program."""

        def format(self, address: bytes) -> bytes:
            """The `struct sockaddr` of an address."""


AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCKFS_MAGIC = 0x534F434B
NO_PAIRS = (AF_INET, AF_INET6)
"""Families that Linux has, but no pairs of (`sock_no_socketpair`)."""


def _unix(network: Network, vfs: Vfs) -> Family:
    from samepage.kernel.net.unix import UnixFamily

    return UnixFamily(network, vfs)


FAMILIES: dict[int, Callable[[Network, Vfs], Family]] = {AF_UNIX: _unix}
"""AF_* -> what makes the family of a machine, and loads its module."""


class Network:
    """The sockets of one machine. There is no way to a socket or a network of the host."""

    def __init__(self, vfs: Vfs) -> None:
        self.sockfs = vfs.superblock("sockfs", SOCKFS_MAGIC)
        """The file system of sockets that are no names in a tree."""
        self._vfs = vfs
        self._families: dict[int, Family] = {}

    def socket(
        self, family: int, kind: int, protocol: int = 0, owner: tuple[int, int, int] = (0, 0, 0)
    ) -> Socket:
        """`socket`: `kind` is SOCK_* with SOCK_NONBLOCK and SOCK_CLOEXEC, `owner` the (pid,
        uid, gid) of who makes it. Raises `SysError`: EAFNOSUPPORT, EPROTONOSUPPORT,
        ESOCKTNOSUPPORT, EINVAL."""
        kind, flags = _split(kind)
        socket = self._family(family).create(kind, protocol, flags)
        socket.owner = owner
        return socket

    def pair(
        self, family: int, kind: int, protocol: int = 0, owner: tuple[int, int, int] = (0, 0, 0)
    ) -> tuple[Socket, Socket]:
        """`socketpair`: two sockets connected with each other. Raises as `socket` does, and
        `SysError(EOPNOTSUPP)`."""
        kind, flags = _split(kind)
        if family in NO_PAIRS:
            raise SysError(errno.EOPNOTSUPP)
        pair = self._family(family).pair(kind, protocol, flags)
        for socket in pair:
            socket.owner = socket.peer_credentials = owner
        return pair

    def _family(self, number: int) -> Family:
        if number not in FAMILIES:
            raise SysError(errno.EAFNOSUPPORT)
        if number not in self._families:
            self._families[number] = FAMILIES[number](self, self._vfs)
        return self._families[number]


def _split(kind: int) -> tuple[int, int]:
    """The SOCK_* type, and the status flags that were given with it."""
    flags = kind & ~SOCK_TYPE_MASK
    if flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC):
        raise SysError(errno.EINVAL)
    return kind & SOCK_TYPE_MASK, flags & SOCK_NONBLOCK
