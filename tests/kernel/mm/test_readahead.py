"""A cold page cache fills as the live kernel's does: major faults, windows, marks."""

import ctypes
import mmap
import os
import resource
import time

import pytest

from samepage.kernel.mm.mmap import do_mmap
from samepage.kernel.mm.uaccess import copy_from_user
from tests.kernel.mm.live_model import OpenFile, read_ahead_pages
from tests.kernel.mm.mm_helpers import Memory, MemoryFile
from tests.kernel.mm.test_against_kernel import pytestmark as only_where_it_can

pytestmark = only_where_it_can
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p


@pytest.fixture(scope="module")
def size():
    """The length of the file in pages: some windows, of this disk's size."""
    pages = 5 * read_ahead_pages()
    if pages > 20_000:
        pytest.skip(f"the disk reads {read_ahead_pages()} pages ahead: the file would be too large")
    return pages


@pytest.fixture(scope="module")
def path(size):
    name = f"/var/tmp/samepage-readahead-{os.getpid()}"
    with open(name, "wb", buffering=PAGE) as file:
        for number in range(size):
            file.write(number.to_bytes(4, "little") * (PAGE // 4))
        file.flush()
        os.fsync(file.fileno())
    yield name
    os.unlink(name)


def runs(numbers):
    """Sorted numbers as [first, end) pairs."""
    result = []
    for number in numbers:
        if result and result[-1][1] == number:
            result[-1][1] = number + 1
        else:
            result.append([number, number + 1])
    return result


class Live:
    """A private mapping of the whole file, evicted first."""

    def __init__(self, path, size, prot):
        self.fd, self.size = os.open(path, os.O_RDONLY), size
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        length = ctypes.c_size_t(size * PAGE)
        self.base = libc.mmap(None, length, prot, mmap.MAP_PRIVATE, self.fd, ctypes.c_long(0))

    def close(self):
        libc.munmap(ctypes.c_void_p(self.base), ctypes.c_size_t(self.size * PAGE))
        os.close(self.fd)

    def touch(self, index):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        # The program's own access: one of the kernel's for it, at a marked page, would be
        # tried again with the lock that makes it count as major.
        _ = ctypes.c_char.from_address(self.base + index * PAGE).value
        return resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before

    def read(self, index):
        os.pread(self.fd, 1000, index * PAGE)
        return 0

    def cached(self):
        """Pages that are read; waits until no more arrive."""
        vector = ctypes.create_string_buffer(self.size)
        last = None
        for _ in range(100):
            libc.mincore(ctypes.c_void_p(self.base), ctypes.c_size_t(self.size * PAGE), vector)
            if vector.raw == last:
                break
            last = vector.raw
            time.sleep(0.02)
        return runs(n for n, byte in enumerate(vector.raw) if byte & 1)

    def present(self):
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(self.base // PAGE * 8)
            entries = file.read(self.size * 8)
        return runs(n for n in range(self.size) if entries[n * 8 + 7] & 0x80)


class Model:
    """The same on the model."""

    def __init__(self, size, prot):
        self.memory = Memory(2 * size * PAGE, cold=True)
        self.memory.cache.ra_pages = read_ahead_pages()
        self.mm = self.memory.space()
        self.file, self.open_file = MemoryFile(bytes(size * PAGE)), OpenFile()
        self.size = size
        self.base = do_mmap(self.mm, 0, size * PAGE, prot, 2, self.file, filp=self.open_file)

    def touch(self, index):
        before = self.mm.faults.major
        copy_from_user(self.mm, self.base + index * PAGE, 1)
        return self.mm.faults.major - before

    def read(self, index):
        self.memory.cache.read(self.file, index * PAGE, 1000, self.open_file.ra)
        return 0

    def cached(self):
        return runs(sorted(self.file.pages))

    def present(self):
        end = self.base + self.size * PAGE
        return runs((a - self.base) // PAGE for a, _, _ in self.mm.table.present(self.base, end))


STEPS = {
    "read around": [("touch", 2.5), ("touch", 3.2)],
    "from the start": [("touch", 0), ("touch", 0.5), ("touch", 0.75), ("touch", 0.76)],
    "the marked page reads on": [("touch", 2), ("touch", 2.25), ("touch", 2.251)],
    "reads in sequence": [("read", 0), ("read", 0.001), ("read", 0.002), ("read", 2)],
    "a read, then a touch": [("read", 2), ("touch", 2), ("touch", 2.001)],
    "at the end of the file": [("touch", 4.9), ("touch", 4.999)],
}
"""Positions in windows."""


ATTEMPTS = 10
"""A live fault maps only those pages whose read is done by then, which depends on the disk;
so a difference is one only if no attempt goes as on the model, whose reads are done at once.
Each waits longer before it begins, since a disk may be slow for seconds."""


def history(side, steps):
    """What each step gives: its major faults, and what is cached and present after it."""
    return [(getattr(side, kind)(index), side.cached(), side.present()) for kind, index in steps]


@pytest.mark.parametrize("prot", [1, 5], ids=["data", "text"])
@pytest.mark.parametrize("name", STEPS)
def test_cold_file_is_read_as_the_kernel_does(path, size, name, prot):
    steps = [(kind, int(position * read_ahead_pages())) for kind, position in STEPS[name]]
    expected = history(Model(size, prot), steps)
    for attempt in range(ATTEMPTS):
        time.sleep(attempt / 10)
        live = Live(path, size, prot)
        try:
            found = history(live, steps) if not live.cached() else None
        finally:
            live.close()
        if found == expected:
            return
    assert expected == found
