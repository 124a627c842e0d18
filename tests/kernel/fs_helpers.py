"""What the tests of files share: a machine's files, expected errors, listings."""

import os

from samepage.cpu.ram import Ram
from samepage.kernel.errors import SysError
from samepage.kernel.fs.rootfs import HostRoot
from samepage.kernel.fs.vfs import Vfs
from samepage.kernel.mm.frames import Frames
from samepage.kernel.mm.page_cache import PageCache


class Clock:
    """Time that moves a second with each look."""

    def __init__(self):
        self.now = 1_700_000_000_000_000_000

    def __call__(self):
        self.now += 1_000_000_000
        return self.now


def boot(host_root="/", ram=16 << 20):
    """The files of a machine whose guests see `host_root` as `/`."""
    frames = Frames(Ram(ram), lambda pfn: None)
    return Vfs(PageCache(frames), HostRoot(str(host_root)), Clock(), seed=1)


class fails:
    """Expect a `SysError` with this errno."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        assert isinstance(error, SysError), f"no error, {os.strerror(self.number)} expected"
        assert error.errno == self.number, f"{error}, {os.strerror(self.number)} expected"
        return True


def names(file):
    """The names that getdents64 gives."""
    found = []
    while data := file.getdents64(4096):
        at = 0
        while at < len(data):
            record = int.from_bytes(data[at + 16 : at + 18], "little")
            found.append(data[at + 19 : at + record].split(b"\0")[0])
            at += record
    return found


class NoEngine:
    """Of a machine without a CPU: its address spaces are executed by nothing."""

    def new_context(self, root):
        return self

    def flush_tlb_range(self, start, end):
        """There is nothing to forget."""

    def release(self):
        """There is nothing to forget."""
