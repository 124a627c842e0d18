"""AF_UNIX sockets: pairs against the host's, names and connections by cases."""

import contextlib
import errno
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.abi.poll import POLLHUP, POLLIN, POLLOUT
from samepage.kernel.errors import SysError
from samepage.kernel.net.family import Network
from samepage.kernel.net.socket import MSG_PEEK, SHUT_WR
from tests.kernel.fs_helpers import fails

STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), st.integers(0, 300)),
    st.tuples(st.just("receive"), st.integers(0, 1), st.integers(1, 400), st.booleans()),
    st.tuples(st.just("shutdown"), st.integers(0, 1), st.integers(0, 2)),
)


def ours_of(sockets, name, who, *arguments):
    sock = sockets[who]
    try:
        if name == "send":
            return sock.send(bytes([arguments[0] % 251]) * arguments[0])
        if name == "receive":
            return sock.receive(arguments[0], MSG_PEEK if arguments[1] else 0)[0].data
        return sock.shutdown(arguments[0])
    except SysError as error:
        return errno.errorcode[error.errno]


def real_of(sockets, name, who, *arguments):
    sock = sockets[who]
    try:
        if name == "send":
            return sock.send(bytes([arguments[0] % 251]) * arguments[0], socket.MSG_NOSIGNAL)
        if name == "receive":
            return sock.recv(arguments[0], socket.MSG_PEEK if arguments[1] else 0)
        return sock.shutdown(arguments[0])
    except OSError as error:
        return errno.errorcode[error.errno]


@pytest.fixture
def net(vfs):
    return Network(vfs)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_pairs_agree_with_those_of_the_host(net, kind):
    @settings(max_examples=30, deadline=None)
    @given(st.lists(STEPS, max_size=20))
    def check(steps):
        with contextlib.ExitStack() as stack:
            real = socket.socketpair(socket.AF_UNIX, kind)
            for sock in real:
                sock.setblocking(False)
                stack.callback(sock.close)
            ours = net.pair(socket.AF_UNIX, int(kind) | os.O_NONBLOCK)
            for step in steps:
                assert ours_of(ours, *step) == real_of(real, *step), step

    check()


def test_closing_one_end(net):
    first, second = (sock.get() for sock in net.pair(socket.AF_UNIX, socket.SOCK_STREAM))
    assert first.poll() == POLLOUT | 0x100
    first.write(b"bye")
    first.put()
    assert second.poll() & (POLLIN | POLLHUP) == POLLIN | POLLHUP
    assert (second.read(10), second.read(10)) == (b"bye", b"")
    with fails(errno.EPIPE):
        second.write(b"x")


def test_there_is_no_network_and_no_socket_of_the_host(net, ctx, tree):
    with fails(errno.EAFNOSUPPORT):
        net.socket(socket.AF_INET, socket.SOCK_STREAM)
    client = net.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket.socket(socket.AF_UNIX) as host:
        host.bind(str(tree / "sock"))
        host.listen(1)
        with fails(errno.ECONNREFUSED):
            client.connect(ctx, b"/sock")
    with fails(errno.ENOENT):
        client.connect(ctx, b"/var/run/nscd/socket")


@pytest.mark.parametrize("address", [b"/server", b"\0abstract"])
def test_connecting_by_name(net, ctx, address):
    server = net.socket(socket.AF_UNIX, socket.SOCK_STREAM).get()
    client = net.socket(socket.AF_UNIX, socket.SOCK_STREAM).get()
    client.owner = (7, 0, 0)
    server.bind(ctx, address)
    with fails(errno.ECONNREFUSED):
        client.connect(ctx, address)
    server.listen(1)
    assert not server.poll()
    client.connect(ctx, address)
    assert server.poll() & POLLIN
    accepted = server.accept()
    assert accepted.peer_credentials == (7, 0, 0)
    client.write(b"hello")
    assert accepted.read(10) == b"hello"
    client.shutdown(SHUT_WR)
    assert accepted.read(10) == b""
    with fails(errno.EAGAIN):
        server.accept()
    with fails(errno.EADDRINUSE):
        net.socket(socket.AF_UNIX, socket.SOCK_STREAM).bind(ctx, address)
    server.put()
    with fails(errno.ECONNREFUSED):
        net.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(ctx, address)


def test_files_travel_with_bytes(vfs, net, ctx):
    first, second = net.pair(socket.AF_UNIX, socket.SOCK_STREAM)
    file = vfs.open(ctx, b"/file", os.O_RDONLY).get()
    first.send(b"plain")
    first.send(b"with", [file])
    first.send(b"more")
    file.put()  # the message keeps it open
    assert second.receive(100)[0].data == b"plain"
    message, _ = second.receive(100)
    assert message.data == b"with"
    (passed,) = message.files
    assert passed.read(7) == b"content"
    passed.put()
    assert second.receive(100)[0].data == b"more"


def test_a_full_queue_makes_the_sender_wait(net):
    first, second = net.pair(socket.AF_UNIX, socket.SOCK_STREAM)
    sent = first.send(bytes(1 << 20))
    assert 0 < sent < 1 << 20
    with fails(errno.EAGAIN):
        first.send(b"x")
    assert not first.poll() & POLLOUT
    second.read(sent)
    assert first.send(b"x") == 1
