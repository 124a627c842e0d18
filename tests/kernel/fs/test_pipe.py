"""Pipes against the host's own: the same calls, the same counts and errors."""

import contextlib
import errno
import fcntl
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT
from samepage.kernel.errors import SysError
from samepage.kernel.fs.pipe import Pipe
from tests.kernel.fs_helpers import fails

SIZES = st.one_of(
    st.integers(0, 9000),
    st.sampled_from([0, 1, 100, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 100000]),
)


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except (OSError, SysError) as error:
        return errno.errorcode[error.errno]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["read", "write", "write", "resize"]), SIZES), max_size=40)
)
def test_reads_and_writes_agree_with_a_real_pipe(operations):
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        ours = Pipe()
        ours.readers = ours.writers = 1
        for number, (operation, size) in enumerate(operations):
            if operation == "write":
                data = bytes([number]) * size
                assert outcome(ours.write, data) == outcome(os.write, writer, data)
            elif operation == "read":
                assert outcome(ours.read, size) == outcome(os.read, reader, size)
            else:
                theirs = outcome(fcntl.fcntl, reader, fcntl.F_SETPIPE_SZ, size)
                assert outcome(ours.resize, size) == theirs
            assert ours.capacity == fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)


def test_the_ends_of_a_pipe(vfs):
    reader, writer = (file.get() for file in vfs.pipe())
    assert reader.poll() == 0
    assert writer.poll() & POLLOUT
    with fails(errno.EAGAIN):
        reader.read(1)
    with fails(errno.EBADF):
        reader.write(b"x")
    with fails(errno.ESPIPE):
        reader.pread(1, 0)
    with fails(errno.ESPIPE):
        reader.lseek(0, 0)
    writer.write(b"last words")
    writer.put()
    assert reader.poll() & (POLLIN | POLLHUP) == POLLIN | POLLHUP
    assert (reader.read(100), reader.read(100)) == (b"last words", b"")
    assert reader.poll() & (POLLIN | POLLHUP) == POLLHUP


def test_writing_without_readers_is_a_broken_pipe(vfs):
    reader, writer = (file.get() for file in vfs.pipe())
    reader.put()
    assert writer.poll() & POLLERR
    with fails(errno.EPIPE):
        writer.write(b"x")


def test_a_pipe_stays_open_as_long_as_one_descriptor_does(vfs):
    reader, writer = (file.get() for file in vfs.pipe())
    writer.get()
    writer.put()
    with fails(errno.EAGAIN):
        reader.read(1)


def test_opening_a_fifo_waits_for_the_other_end(vfs, ctx):
    vfs.mknod(ctx, b"/pipe", 0o010666)
    with fails(errno.ENXIO):
        vfs.open(ctx, b"/pipe", os.O_WRONLY | os.O_NONBLOCK)
    reader = vfs.open(ctx, b"/pipe", os.O_RDONLY).get()
    assert reader.opening
    writer = vfs.open(ctx, b"/pipe", os.O_WRONLY).get()
    writer.put()  # a writer that came and went ends the wait as well
    assert not reader.opening
    both = vfs.open(ctx, b"/pipe", os.O_RDWR)
    assert not both.opening


@pytest.mark.parametrize(("size", "number"), [(-1, errno.EINVAL), (1 << 21, errno.EPERM)])
def test_bounds_of_the_pipe_size(size, number):
    with fails(number):
        Pipe().resize(size)
