"""System calls on sockets (net/socket.c). What a family is, and which there are, is in `net`."""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator

from samepage.abi.signal import SIGPIPE
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.mm.uaccess import (
    copy_from_user,
    copy_to_user,
    get_struct,
    get_u32,
    put_struct,
    put_u32,
)
from samepage.kernel.net.socket import SEND_BUFFER, SOCK_CLOEXEC, SOCK_NONBLOCK, Socket
from samepage.kernel.process.signal import send_to_task
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import read_iovec, until_ready

_MAX_ADDRESS = 128
"""The size of `struct sockaddr_storage`."""
_MSG_CTRUNC, _MSG_TRUNC, _MSG_DONTWAIT = 0x8, 0x20, 0x40
_MSG_NOSIGNAL, _MSG_CMSG_CLOEXEC = 0x4000, 0x4000_0000
_SOL_SOCKET, _SCM_RIGHTS = 1, 1
_SO_TYPE, _SO_ERROR, _SO_SNDBUF, _SO_RCVBUF, _SO_PEERCRED = 3, 4, 7, 8, 17
_SO_ACCEPTCONN, _SO_PROTOCOL, _SO_DOMAIN = 30, 38, 39
_MSGHDR = struct.Struct("<QIxxxxQQQQi")


def _socket(task: Task, fd: int) -> Socket:
    return task.process.files.get_as(fd, Socket, errno.ENOTSOCK)


def _owner(task: Task) -> tuple[int, int, int]:
    cred = task.process.fs.cred
    return task.process.pid, cred.euid, cred.egid


def _read_address(task: Task, socket: Socket, address: int, length: int) -> bytes:
    """The address in a program's `struct sockaddr` (`move_addr_to_kernel`). Raises
    `SysError`."""
    if length > _MAX_ADDRESS:
        raise SysError(errno.EINVAL)
    return socket.family.parse(copy_from_user(task.mm, address, length))


def _write_address(task: Task, socket: Socket, name: bytes, address: int, length_at: int) -> None:
    """`move_addr_to_user`."""
    if not address:
        return
    room = get_u32(task.mm, length_at)
    packed = socket.family.format(name)
    copy_to_user(task.mm, address, packed[:room])
    put_u32(task.mm, length_at, len(packed))


@syscall(Sys.SOCKET)
def sys_socket(task: Task, family: I32, kind: I32, protocol: I32) -> int:
    """`socket(2)`."""
    socket = task.kernel.net.socket(family, kind, protocol, _owner(task))
    return task.process.files.install(socket, bool(kind & SOCK_CLOEXEC))


@syscall(Sys.SOCKETPAIR)
def sys_socketpair(task: Task, family: I32, kind: I32, protocol: I32, address: int) -> int:
    """`socketpair(2)`."""
    pair = task.kernel.net.pair(family, kind, protocol, _owner(task))
    cloexec = bool(kind & SOCK_CLOEXEC)
    fds = [task.process.files.install(socket, cloexec) for socket in pair]
    put_struct(task.mm, address, "<ii", *fds)
    return 0


@syscall(Sys.BIND)
def sys_bind(task: Task, fd: I32, address: int, length: U32) -> int:
    """`bind(2)`."""
    socket = _socket(task, fd)
    socket.bind(task.process.fs, _read_address(task, socket, address, length))
    return 0


@syscall(Sys.CONNECT)
def sys_connect(task: Task, fd: I32, address: int, length: U32) -> SyscallResult:
    """`connect(2)`: to a socket that a process of this machine has bound."""
    socket = _socket(task, fd)
    name = _read_address(task, socket, address, length)

    def attempt() -> int:
        socket.connect(task.process.fs, name)
        return 0

    return until_ready(task, socket, attempt)


@syscall(Sys.LISTEN)
def sys_listen(task: Task, fd: I32, backlog: I32) -> int:
    """`listen(2)`."""
    _socket(task, fd).listen(backlog)
    return 0


@syscall(Sys.ACCEPT)
def sys_accept(task: Task, fd: I32, address: int, length_at: int) -> SyscallResult:
    """`accept(2)`."""
    return sys_accept4(task, fd, address, length_at, 0)


@syscall(Sys.ACCEPT4)
def sys_accept4(task: Task, fd: I32, address: int, length_at: int, flags: I32) -> SyscallResult:
    """`accept4(2)`."""
    listener = _socket(task, fd)

    def attempt() -> int:
        connection = listener.accept()
        if flags & SOCK_NONBLOCK:
            connection.set_flags(connection.flags | SOCK_NONBLOCK)
        _write_address(task, connection, connection.peer_address or b"", address, length_at)
        return task.process.files.install(connection, bool(flags & SOCK_CLOEXEC))

    return until_ready(task, listener, attempt)


@syscall(Sys.SHUTDOWN)
def sys_shutdown(task: Task, fd: I32, how: I32) -> int:
    """`shutdown(2)`."""
    _socket(task, fd).shutdown(how)
    return 0


@syscall(Sys.SENDTO)
def sys_sendto(
    task: Task, fd: I32, buffer: int, count: int, flags: I32, address: int, length: U32
) -> SyscallResult:
    """`sendto(2)`."""
    socket = _socket(task, fd)
    name = _read_address(task, socket, address, length) if address and length else None
    data = copy_from_user(task.mm, buffer, min(count, 1 << 24))
    return _send(task, socket, data, (), name, flags)


@syscall(Sys.SENDMSG)
def sys_sendmsg(task: Task, fd: I32, message: int, flags: I32) -> SyscallResult:
    """`sendmsg(2)`, with SCM_RIGHTS."""
    socket = _socket(task, fd)
    at, at_length, iov, count, control, control_length, _ = get_struct(task.mm, message, _MSGHDR)
    name = _read_address(task, socket, at, at_length) if at and at_length else None
    data = b"".join(copy_from_user(task.mm, a, n) for a, n in read_iovec(task, iov, count))
    files = _read_rights(task, control, control_length) if control else ()
    return _send(task, socket, data, files, name, flags)


def _read_rights(task: Task, control: int, length: int) -> tuple[OpenFile, ...]:
    raw = copy_from_user(task.mm, control, min(length, 1 << 16))
    files: list[OpenFile] = []
    at = 0
    while at + 16 <= len(raw):
        size, level, kind = struct.unpack_from("<Qii", raw, at)
        if size < 16 or at + size > len(raw):
            raise SysError(errno.EINVAL)
        if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
            fds = struct.unpack_from(f"<{(size - 16) // 4}i", raw, at + 16)
            files += [task.process.files.get_raw(fd) for fd in fds]
        at += (size + 7) & ~7
    return tuple(files)


def _send(
    task: Task,
    socket: Socket,
    data: bytes,
    files: tuple[OpenFile, ...],
    name: bytes | None,
    flags: int,
) -> Generator[Wait, None, int]:
    done = 0
    while True:
        try:
            rest, along = data[done:], files if not done else ()
            if name is None:
                done += socket.send(rest, along)
            else:
                done += socket.send_to(task.process.fs, name, rest, along)
        except SysError as error:
            if error.errno == errno.EPIPE and not flags & _MSG_NOSIGNAL:
                send_to_task(task, SigInfo(SIGPIPE, pid=task.process.pid))
            if done:
                return done
            if error.errno != errno.EAGAIN or flags & _MSG_DONTWAIT or socket.nonblocking:
                raise
        if done >= len(data):
            return done
        yield Wait()


@syscall(Sys.RECVFROM)
def sys_recvfrom(
    task: Task, fd: I32, buffer: int, count: int, flags: I32, address: int, length_at: int
) -> SyscallResult:
    """`recvfrom(2)`."""
    socket = _socket(task, fd)

    def attempt() -> int:
        message, full = socket.receive(min(count, 1 << 24), flags)
        for file in message.files:
            file.put()
        copy_to_user(task.mm, buffer, message.data)
        if address:
            sender = socket.family.format(message.sender) if message.sender else b""
            copy_to_user(task.mm, address, sender[: get_u32(task.mm, length_at)])
            put_u32(task.mm, length_at, len(sender))
        return full if flags & _MSG_TRUNC else len(message.data)

    return until_ready(task, socket, attempt, nonblocking=bool(flags & _MSG_DONTWAIT))


@syscall(Sys.RECVMSG)
def sys_recvmsg(task: Task, fd: I32, message: int, flags: I32) -> SyscallResult:
    """`recvmsg(2)`, with SCM_RIGHTS."""
    socket = _socket(task, fd)
    name, name_length, iov, count, control, control_length, _ = get_struct(
        task.mm, message, _MSGHDR
    )
    parts = read_iovec(task, iov, count)

    def attempt() -> int:
        received, full = socket.receive(sum(n for _, n in parts), flags)
        position = 0
        for address, length in parts:
            copy_to_user(task.mm, address, received.data[position : position + length])
            position += length
        if name:
            sender = socket.family.format(received.sender) if received.sender else b""
            copy_to_user(task.mm, name, sender[:name_length])
            put_u32(task.mm, message + 8, len(sender))
        used, reported = _write_rights(task, received.files, control, control_length, flags)
        reported |= flags & _MSG_CMSG_CLOEXEC
        if full > len(received.data):
            reported |= _MSG_TRUNC
        put_struct(task.mm, message + 40, "<QI", used, reported)
        return full if flags & _MSG_TRUNC else len(received.data)

    return until_ready(task, socket, attempt, nonblocking=bool(flags & _MSG_DONTWAIT))


def _write_rights(
    task: Task, files: tuple[OpenFile, ...], control: int, room: int, flags: int
) -> tuple[int, int]:
    """Give the files that came along descriptors, as far as there is room to report them
    (`scm_detach_fds`); return the bytes used, and MSG_CTRUNC if not all were reported."""
    fds: list[int] = []
    for file in files:
        if control and 16 + 4 * (len(fds) + 1) <= room:
            fds.append(task.process.files.install(file, bool(flags & _MSG_CMSG_CLOEXEC)))
        file.put()
    reported = _MSG_CTRUNC if len(fds) < len(files) else 0
    if not fds:
        return 0, reported
    size = 16 + 4 * len(fds)
    header = struct.pack("<Qii", size, _SOL_SOCKET, _SCM_RIGHTS)
    copy_to_user(task.mm, control, header + struct.pack(f"<{len(fds)}i", *fds))
    return min((size + 7) & ~7, room), reported


@syscall(Sys.GETSOCKNAME)
def sys_getsockname(task: Task, fd: I32, address: int, length_at: int) -> int:
    """`getsockname(2)`."""
    socket = _socket(task, fd)
    _write_address(task, socket, socket.address, address, length_at)
    return 0


@syscall(Sys.GETPEERNAME)
def sys_getpeername(task: Task, fd: I32, address: int, length_at: int) -> int:
    """`getpeername(2)`."""
    socket = _socket(task, fd)
    name = socket.peer_address
    if name is None:
        raise SysError(errno.ENOTCONN)
    _write_address(task, socket, name, address, length_at)
    return 0


@syscall(Sys.GETSOCKOPT)
def sys_getsockopt(
    task: Task, fd: I32, level: I32, option: I32, address: int, length_at: int
) -> int:
    """`getsockopt(2)`, for SOL_SOCKET."""
    socket = _socket(task, fd)
    if level != _SOL_SOCKET:
        raise SysError(errno.EOPNOTSUPP)
    if option == _SO_PEERCRED:
        value = struct.pack("<iii", *socket.peer_credentials)
    else:
        number = {
            _SO_TYPE: socket.kind,
            _SO_ERROR: 0,
            _SO_SNDBUF: SEND_BUFFER,
            _SO_RCVBUF: SEND_BUFFER,
            _SO_ACCEPTCONN: int(socket.listening),
            _SO_PROTOCOL: 0,
            _SO_DOMAIN: socket.family.number,
        }.get(option)
        if number is None:
            raise SysError(errno.ENOPROTOOPT)
        value = struct.pack("<i", number)
    room = get_u32(task.mm, length_at)
    copy_to_user(task.mm, address, value[:room])
    put_u32(task.mm, length_at, min(room, len(value)))
    return 0


@syscall(Sys.SETSOCKOPT)
def sys_setsockopt(task: Task, fd: I32, level: I32, option: I32, value: int) -> int:
    """`setsockopt(2)`: buffer sizes, timeouts and their like change nothing in the model."""
    _socket(task, fd)
    if level != _SOL_SOCKET:
        raise SysError(errno.EOPNOTSUPP)
    return 0
