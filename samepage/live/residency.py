"""Which pages of a file the page cache holds, and how to have all or none of them there.

What a fault maps depends on it: fault-around takes only pages that are cached, up to date
and without the readahead mark. A comparison with another kernel needs to know it, and is
simplest if it is the same for every page. Writing a file back and reading it from end to end
makes it so: every page is cached and clean, and the marks, which readahead leaves for the
reader to run into, are gone.
"""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_uint]
_WRITE_AND_WAIT = 7
"""`SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER`."""
_MAP_FAILED = ctypes.c_void_p(-1).value


def map_file(fd: int, size: int) -> int:
    """Map a file's first `size` bytes, shared and for reading; the address. Raises `OSError`."""
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map a file of {size} bytes")
    return int(address)


def unmap_file(address: int, size: int) -> None:
    """Undo `map_file`."""
    _LIBC.munmap(address, size)


def resident_pages(path: str) -> npt.NDArray[np.bool_]:
    """For each page of a file, whether the page cache holds it (mincore(2)).

    Raises `OSError` if the file cannot be opened or mapped.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        pages = np.zeros((size + HOST_PAGE_SIZE - 1) // HOST_PAGE_SIZE, dtype=np.uint8)
        if size:
            address = map_file(fd, size)
            try:
                if _LIBC.mincore(address, size, pages.ctypes.data):
                    raise OSError(ctypes.get_errno(), f"mincore of {path}")
            finally:
                unmap_file(address, size)
        resident: npt.NDArray[np.bool_] = (pages & 1) != 0
        return resident
    finally:
        os.close(fd)


def read_through(paths: Iterable[str]) -> None:
    """Bring files into the page cache whole, and clean; what cannot be read is passed over.

    A file that was just written, such as a program fresh from the compiler, is written back:
    until then its pages are dirty in every process that maps them.

    One page is read at a time: a read looks for the readahead mark on the last folio that
    it finds only, and a mark in the middle of a larger read would stay.
    """
    buffer = bytearray(HOST_PAGE_SIZE)
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            _LIBC.sync_file_range(file.fileno(), 0, 0, _WRITE_AND_WAIT)
            while file.readinto(buffer):
                pass


def evict(paths: Iterable[str]) -> list[str]:
    """Ask the kernel to write files back and to drop them from the page cache
    (POSIX_FADV_DONTNEED).

    Returns the files of which pages are still there: what some process maps stays.
    """
    kept = []
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _LIBC.sync_file_range(fd, 0, 0, _WRITE_AND_WAIT)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
            if resident_pages(path).any():
                kept.append(path)
    return kept
