"""Record locks against the host's locks of open files; flock by cases."""

import errno
import fcntl
import os
import struct
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.kernel.errors import SysError
from samepage.kernel.fs.locks import FileLocks, RecordLock, locks_of
from tests.kernel.fs_helpers import fails

F_OFD_SETLK, F_OFD_GETLK = 37, 36
KINDS = {fcntl.F_RDLCK: "read", fcntl.F_WRLCK: "write", fcntl.F_UNLCK: "none"}
STEPS = st.tuples(
    st.integers(0, 2), st.sampled_from(list(KINDS)), st.integers(0, 12), st.integers(1, 6)
)


def real(fd, command, kind, start, length):
    """F_OFD_*: what F_GETLK finds, or the errno's name."""
    argument = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    try:
        return struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, argument))
    except OSError as error:
        return errno.errorcode[error.errno]


@settings(max_examples=30, deadline=None)
@given(st.lists(STEPS, max_size=20))
def test_record_locks_agree_with_those_of_the_host(steps):
    with tempfile.NamedTemporaryFile() as temporary:
        fds = [os.open(temporary.name, os.O_RDWR) for _ in range(3)]
        try:
            ours, owners = FileLocks(), [object() for _ in range(3)]
            for who, kind, start, length in steps:
                wanted = RecordLock(owners[who], -1, kind, start, start + length)
                try:
                    ours.set(wanted)
                    result = None
                except SysError as error:
                    result = errno.errorcode[error.errno]
                theirs = real(fds[who], F_OFD_SETLK, kind, start, length)
                assert (result == "EAGAIN") == (theirs == "EAGAIN")
                for probe in range(18):
                    for other in range(3):
                        test = RecordLock(owners[other], -1, fcntl.F_WRLCK, probe, probe + 1)
                        found = ours.conflict(test)
                        native = real(fds[other], F_OFD_GETLK, fcntl.F_WRLCK, probe, 1)
                        assert (found.kind if found else fcntl.F_UNLCK) == native[0]
                        if found:
                            # Which of several readers is reported is not specified.
                            assert found.start <= probe < found.end
        finally:
            for fd in fds:
                os.close(fd)


def test_flock_belongs_to_the_open_file(vfs, ctx):
    first, second = (vfs.open(ctx, b"/file", os.O_RDONLY).get() for _ in range(2))
    locks = locks_of(first)
    locks.flock(first, fcntl.LOCK_SH)
    locks.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with fails(errno.EAGAIN):
        locks.flock(second, fcntl.LOCK_EX)
    first.put()  # the last close gives the lock up
    locks.flock(second, fcntl.LOCK_EX)
    with fails(errno.EINVAL):
        locks.flock(second, 0)
