"""eventfd, epoll, timerfd, memfd, and the guest's standard streams."""

import errno
import os
import select
import struct

from samepage.abi.poll import POLLHUP, POLLIN, POLLOUT
from samepage.kernel.fs.epoll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLONESHOT,
)
from samepage.kernel.fs.memfd import F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE
from tests.kernel.fs_helpers import fails


class Memory:
    """User memory of an ioctl: one buffer at address 0."""

    def __init__(self, size=64):
        self.data = bytearray(size)

    def read(self, address, length):
        return bytes(self.data[address : address + length])

    def write(self, address, data):
        self.data[address : address + len(data)] = data


def test_eventfd_counts(vfs):
    file = vfs.eventfd(3)
    assert file.read(8) == struct.pack("<Q", 3)
    with fails(errno.EAGAIN):
        file.read(8)
    file.write(struct.pack("<Q", (1 << 64) - 2))
    with fails(errno.EAGAIN):
        file.write(struct.pack("<Q", 1))
    with fails(errno.EINVAL):
        file.write(struct.pack("<Q", (1 << 64) - 1))
    semaphore = vfs.eventfd(2, 1)
    assert [semaphore.read(8) for _ in range(2)] == [struct.pack("<Q", 1)] * 2
    assert not semaphore.poll() & POLLIN


def test_epoll_is_level_triggered_by_default(vfs):
    reader, writer = (file.get() for file in vfs.pipe())
    epoll = vfs.epoll()
    epoll.control(EPOLL_CTL_ADD, 3, reader, POLLIN, 33)
    with fails(errno.EEXIST):
        epoll.control(EPOLL_CTL_ADD, 3, reader, POLLIN, 33)
    assert epoll.wait(10) == []
    writer.write(b"ab")
    assert epoll.poll() & POLLIN
    for _ in range(2):
        assert epoll.wait(10) == [(POLLIN, 33)]
    reader.read(2)
    assert epoll.wait(10) == []
    writer.put()
    assert epoll.wait(10) == [(POLLHUP, 33)]
    reader.put()
    assert epoll.wait(10) == []
    with fails(errno.ENOENT):
        epoll.control(EPOLL_CTL_DEL, 3, reader)


def test_edge_triggered_entries_report_what_is_new(vfs):
    reader, writer = (file.get() for file in vfs.pipe())
    epoll = vfs.epoll()
    epoll.control(EPOLL_CTL_ADD, 3, reader, POLLIN | EPOLLET, 1)
    writer.write(b"ab")
    assert epoll.wait(10) == [(POLLIN, 1)]
    assert epoll.wait(10) == []
    reader.read(2)
    writer.write(b"c")  # drained and filled again between two waits
    assert epoll.wait(10) == [(POLLIN, 1)]


def test_one_shot_entries_fire_once(vfs):
    event = vfs.eventfd(1).get()
    epoll = vfs.epoll()
    epoll.control(EPOLL_CTL_ADD, 3, event, POLLIN | EPOLLONESHOT, 1)
    assert epoll.wait(10) == [(POLLIN, 1)]
    assert epoll.wait(10) == []
    epoll.control(EPOLL_CTL_MOD, 3, event, POLLOUT, 2)
    assert epoll.wait(10) == [(POLLOUT, 2)]


def test_epoll_refuses_files_and_loops(vfs, ctx):
    epoll = vfs.epoll().get()
    with fails(errno.EPERM):
        epoll.control(EPOLL_CTL_ADD, 3, vfs.open(ctx, b"/file", os.O_RDONLY), POLLIN)
    with fails(errno.EINVAL):
        epoll.control(EPOLL_CTL_ADD, 3, epoll, POLLIN)
    outer = vfs.epoll().get()
    outer.control(EPOLL_CTL_ADD, 3, epoll, POLLIN)
    with fails(errno.ELOOP):
        epoll.control(EPOLL_CTL_ADD, 4, outer, POLLIN)


def test_epoll_refuses_a_stdin_that_is_a_regular_file(vfs, tmp_path):
    (tmp_path / "input").write_bytes(b"text")
    with open(tmp_path / "input", "rb") as file, fails(errno.EPERM):
        stdin = vfs.stdio.open_host(file.fileno())
        vfs.epoll().get().control(EPOLL_CTL_ADD, 0, stdin, POLLIN)


def test_timerfd_fires_by_its_clock(vfs):
    now = 1000
    timer = vfs.timerfd(lambda: now)
    assert timer.set_time(500, 100, 0) == (0, 0)
    assert timer.get_time() == (500, 100)
    with fails(errno.EAGAIN):
        timer.read(8)
    now = 1750
    assert timer.poll() & POLLIN
    assert timer.read(8) == struct.pack("<Q", 3)
    assert timer.get_time() == (50, 100)
    timer.set_time(0, 0, 0)
    now = 5000
    assert not timer.poll()


def test_memfd_counts_as_shared_memory_and_keeps_seals(vfs, ctx):
    file = vfs.memfd(b"name", 2).get()
    assert vfs.path_name(file.path) == "/memfd:name (deleted)"
    assert file.mappable.shmem
    file.write(b"hello")
    assert file.fstat().nlink == 0
    file.inode.add_seals(F_SEAL_SHRINK | F_SEAL_GROW)
    with fails(errno.EPERM):
        file.ftruncate(4)
    with fails(errno.EPERM):
        file.pwrite(b"x", 5)
    assert file.pwrite(b"12345678", 0) == 5
    file.inode.add_seals(F_SEAL_WRITE)
    with fails(errno.EPERM):
        file.pwrite(b"x", 0)
    with fails(errno.EPERM):
        vfs.memfd(b"sealed").inode.add_seals(F_SEAL_GROW)
    used = vfs.cache._frames.n_used
    file.put()
    assert vfs.cache._frames.n_used == used - 1


def test_content_of_a_removed_file_is_freed_with_the_last_close(vfs, ctx):
    used = vfs.cache._frames.n_used
    file = vfs.open(ctx, b"/gone", os.O_CREAT | os.O_RDWR, 0o600).get()
    file.write(bytes(10 * 4096))
    vfs.unlink(ctx, b"/gone")
    assert file.pread(4, 0) == bytes(4)
    file.put()
    assert vfs.cache._frames.n_used == used


def test_a_host_pipe_as_standard_input(vfs):
    reader, writer = os.pipe()
    stdin = vfs.stdio.open_host(reader)
    with fails(errno.EAGAIN):
        stdin.read(10)
    os.write(writer, b"line\n")
    assert stdin.poll() & POLLIN
    memory = Memory()
    assert stdin.ioctl(0x541B, 0, memory) == 0
    assert memory.data[0] == 5
    assert stdin.read(10) == b"line\n"
    os.close(writer)
    assert stdin.read(10) == b""
    assert stdin.fstat().mode == os.fstat(reader).st_mode
    with fails(errno.ENOTTY):
        stdin.ioctl(0x5401, 0, memory)
    os.close(reader)


def test_streams_of_one_host_file_keep_their_own_descriptors(vfs, ctx, tree):
    reader, writer = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    stdin, stdout = vfs.stdio.open_host(reader), vfs.stdio.open_host(writer)
    assert stdin.inode is stdout.inode
    assert (stdin.read(5), stdout.write(b"gone")) == (b"", 4)
    assert stdin.inode.open(stdin.path, os.O_WRONLY).write(b"x") == 1
    with fails(errno.EACCES):
        stdin.inode.open(stdin.path, os.O_RDWR)
    first, second = (os.open(tree / "file", os.O_RDONLY) for _ in range(2))
    streams = [vfs.stdio.open_host(fd) for fd in (first, second)]
    assert [stream.read(7) for stream in streams] == [b"content"] * 2
    for fd in (reader, writer, first, second):
        os.close(fd)


def test_a_host_file_as_standard_input_can_be_sought_and_mapped(vfs, ctx, tree):
    fd = os.open(tree / "file", os.O_RDONLY)
    stdin = vfs.stdio.open_host(fd)
    assert stdin.read(7) == b"content"
    assert stdin.lseek(0, os.SEEK_SET) == 0
    assert stdin.pread(2, 3) == b"te"
    assert stdin.fstat().size == (tree / "file").stat().st_size
    assert stdin.mappable is vfs.lookup(ctx, b"/file").inode.mapping
    os.close(fd)


def test_a_terminal_answers_without_touching_the_hosts(vfs):
    master, slave = os.openpty()
    before = select.select([master], [], [], 0)
    stdout = vfs.stdio.open_host(slave)
    memory = Memory()
    assert stdout.ioctl(0x5401, 0, memory) == 0  # TCGETS
    assert stdout.ioctl(0x5413, 0, memory) == 0  # TIOCGWINSZ
    stdout.ioctl(0x5410, 0, memory)
    assert stdout.write(b"hello") == 5
    assert os.read(master, 10) == b"hello"
    assert vfs.open(vfs.context(), b"/dev/tty", os.O_RDWR).fstat().mode == stdout.fstat().mode
    assert before == ([], [], [])
    # As ttyname() does it: the name of the descriptor leads to the same file.
    ctx = vfs.context()
    name = os.fsencode(os.ttyname(slave))
    assert vfs.path_name(stdout.path) == os.fsdecode(name)
    assert vfs.stat(ctx, name).rdev == stdout.fstat().rdev == os.fstat(slave).st_rdev
    assert vfs.stat(ctx, name).ino == stdout.fstat().ino
    assert vfs.open(ctx, name, os.O_WRONLY).write(b"again") == 5
    assert os.read(master, 10) == b"again"
    os.close(master)
    os.close(slave)


def test_streams_of_bytes(vfs):
    got = []
    stdout = vfs.stdio.open_sink(got.append)
    assert stdout.write(b"out") == 3
    assert got == [b"out"]
    stdin = vfs.stdio.open_bytes(b"input")
    assert (stdin.read(3), stdin.read(9), stdin.read(9)) == (b"inp", b"ut", b"")
    assert stdin.poll() & POLLHUP
