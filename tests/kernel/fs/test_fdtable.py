"""Descriptor tables against the host's: the same numbers, the same errors."""

import errno
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.kernel.errors import SysError
from samepage.kernel.fs.fdtable import FdTable
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.stat import StatFs
from tests.kernel.fs_helpers import fails

BASE = 20
"""The oracle's descriptors start here, above those of the test runner."""
LIMIT = 12


class Counted(OpenFile):
    released = False

    def release(self):
        self.released = True


@pytest.fixture
def make():
    sb = Superblock(1, "test", None, lambda: 0, lambda: StatFs(0))
    return lambda: Counted(Path(Inode(sb, 0o100644)), os.O_RDONLY)


FDS = st.integers(-1, LIMIT + 1)
OPERATIONS = st.one_of(
    st.just(("open",)),
    st.tuples(st.just("close"), FDS),
    st.tuples(st.just("dup"), FDS, st.integers(0, LIMIT - 1), st.booleans()),
    st.tuples(st.just("dup2"), FDS, st.integers(0, LIMIT - 1), st.booleans()),
    st.tuples(st.just("cloexec"), FDS, st.booleans()),
)

ORACLE = f"""
import errno, fcntl, os, resource
os.closerange({BASE}, 256)
resource.setrlimit(resource.RLIMIT_NOFILE, ({BASE + LIMIT}, 4096))
def run(op, *a):
    if op == "open":
        return fcntl.fcntl(0, fcntl.F_DUPFD, {BASE}) - {BASE}
    fd = a[0] + {BASE} if a[0] >= 0 else 9999
    if op == "close": return os.close(fd)
    if op == "dup":
        command = fcntl.F_DUPFD_CLOEXEC if a[2] else fcntl.F_DUPFD
        return fcntl.fcntl(fd, command, a[1] + {BASE}) - {BASE}
    if op == "dup2":
        return os.dup2(fd, a[1] + {BASE}, not a[2]) - {BASE}
    fcntl.fcntl(fd, fcntl.F_SETFD, int(a[1]))
def outcome(step):
    try: return run(*step)
    except OSError as error: return errno.errorcode[error.errno]
def state():
    found = []
    for fd in range({BASE}, {BASE + LIMIT}):
        try: found.append((fd - {BASE}, fcntl.fcntl(fd, fcntl.F_GETFD)))
        except OSError: pass
    return found
for line in iter(input, ""):
    print([(outcome(step), state()) for step in eval(line)], flush=True)
    os.closerange({BASE}, {BASE + LIMIT})
"""


@pytest.fixture(scope="module")
def oracle():
    with subprocess.Popen(
        [sys.executable, "-c", ORACLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(steps):
            process.stdin.write(f"{steps!r}\n")
            process.stdin.flush()
            return eval(process.stdout.readline())

        yield ask
        process.stdin.write("\n")


def apply(table, make, name, *arguments):
    if name == "open":
        return table.install(make())
    if name == "dup":
        return table.dup(arguments[0], arguments[2], arguments[1])
    if name == "dup2":
        return table.dup2(arguments[0], arguments[1], arguments[2])
    if name == "close":
        return table.close(arguments[0])
    return table.set_cloexec(*arguments)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=25))
def test_numbers_and_errors_agree_with_a_real_table(make_steps, oracle, steps):
    # dup2 of a descriptor to itself has flags that dup3 refuses; the caller checks that.
    steps = [s for s in steps if s[0] != "dup2" or s[1] != s[2]]
    table = FdTable(LIMIT)
    theirs = oracle(steps)
    for step, (expected, state) in zip(steps, theirs, strict=True):
        try:
            result = apply(table, make_steps, *step)
        except SysError as error:
            result = errno.errorcode[error.errno]
        assert result == expected, step
        assert [(fd, int(fd in table.cloexec)) for fd in table] == state, step


@pytest.fixture(scope="module")
def make_steps():
    sb = Superblock(1, "test", None, lambda: 0, lambda: StatFs(0))
    return lambda: Counted(Path(Inode(sb, 0o100644)), os.O_RDONLY)


def test_a_file_is_released_with_its_last_descriptor(make):
    table, file = FdTable(), make()
    fd = table.install(file)
    child = table.copy()
    other = table.dup(fd)
    table.close(fd)
    table.close(other)
    assert not file.released
    child.close_all()
    assert file.released


def test_close_on_exec_closes_only_what_is_marked(make):
    table = FdTable()
    kept, gone = table.install(make()), table.install(make(), cloexec=True)
    table.close_on_exec()
    assert list(table) == [kept]
    assert table.install(make()) == gone


def test_dup2_to_itself_keeps_the_file(make):
    table, file = FdTable(), make()
    fd = table.install(file)
    assert table.dup2(fd, fd) == fd
    assert not file.released


def test_a_range_is_closed(make):
    table = FdTable()
    for _ in range(6):
        table.install(make())
    table.close_range(2, 4)
    assert list(table) == [0, 1, 5]
    with fails(errno.EBADF):
        table.get(3)
