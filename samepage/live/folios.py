"""The folios of a file's page cache: which of its pages were allocated together.

A file system with large folios (ext4 since Linux 6.16) reads a file in pieces of up to
2 MiB that are one allocation each. It shows in what a fault maps: since Linux 6.18
(commit 357b92761d94, "mm/filemap: map entire large folio faultaround") fault-around maps
all of a folio of which a page lies in its window. Who wants to predict a fault must know
them. How a file was cut depends on who read it first and how, so it cannot be computed.

/proc/kpageflags shows them: the first page of a folio has COMPOUND_HEAD, the others have
COMPOUND_TAIL. The frames of the file come from pagemap, by way of a mapping of our own.
"""

import ctypes
import os

import numpy as np

from samepage.abi.mman import Advice
from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import Kpf, Pm
from samepage.live import kpage
from samepage.live.residency import map_file, unmap_file

_PFN = np.uint64(Pm.PFRAME)
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

Folios = list[tuple[int, int]]
"""(first page, number of pages) of each folio of two pages and more, ascending."""


def large_folios(path: str) -> Folios:
    """The large folios of a file; pages that are not cached are read in.

    Raises `OSError` if the file cannot be mapped or the kernel hides frame numbers.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        address = map_file(fd, size)
        try:
            if _LIBC.madvise(address, size, Advice.POPULATE_READ):
                raise OSError(ctypes.get_errno(), f"cannot populate a mapping of {path}")
            count = (size + HOST_PAGE_SIZE - 1) // HOST_PAGE_SIZE
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                pagemap.seek(address // HOST_PAGE_SIZE * 8)
                entries = np.frombuffer(pagemap.read(count * 8), dtype=np.uint64)
            return _cut(entries & _PFN)
        finally:
            unmap_file(address, size)
    finally:
        os.close(fd)


def _cut(frames: kpage.Numbers) -> Folios:
    numbers, inverse = np.unique(frames, return_inverse=True)
    flags = kpage.read_flags(numbers)
    if not len(numbers) or not numbers[0] or (flags & np.uint64(Kpf.NOPAGE)).all():
        raise OSError(0, "the kernel hides frame numbers")
    tail = ((flags & np.uint64(Kpf.COMPOUND_TAIL)) != 0)[inverse]
    first = np.flatnonzero(~tail)
    counts = np.diff(first, append=len(frames))
    large = counts > 1
    return list(zip(first[large].tolist(), counts[large].tolist(), strict=True))
