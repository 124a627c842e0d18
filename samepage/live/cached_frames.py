"""The frames of a file in the page cache.

No file of /proc lists them. But a mapping of the file that this process makes itself is
served from the page cache too, so its own pagemap has the cache's frames. Only pages that
mincore(2) reports as cached are touched for that: looking must not read anything in.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator

import numpy as np

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import Pm
from samepage.live.one_process import read_entries
from samepage.live.residency import resident_pages


def why_no_frames() -> str:
    """Why frame numbers cannot be read here, in one line; "" if they can."""
    with mmap.mmap(-1, HOST_PAGE_SIZE) as page:
        page[0] = 1
        try:
            (entry,) = read_entries("self", _address(page), 1)
        except OSError as error:
            return f"/proc/self/pagemap cannot be read ({error.strerror})"
    if not entry & Pm.PFRAME:
        return "/proc/PID/pagemap hides frame numbers from all but root (CAP_SYS_ADMIN)"
    return ""


def cached_frames(path: str) -> dict[int, int]:
    """The cached pages of a file: file page -> frame. Raises `OSError`."""
    resident = np.flatnonzero(resident_pages(path)).tolist()
    with _mapped(path) as view:
        for number in resident:
            view[number * HOST_PAGE_SIZE]  # read a byte, so that the page is mapped
        pages = -(-len(view) // HOST_PAGE_SIZE)
        entries = read_entries("self", _address(view), pages)
        return {n: entries[n] & Pm.PFRAME for n in resident if entries[n] & Pm.PRESENT}


def cached_bytes(path: str, file_page: int) -> bytes:
    """The content of a page as the page cache has it. Raises `OSError`."""
    with _mapped(path) as view:
        start = file_page * HOST_PAGE_SIZE
        return view[start : start + HOST_PAGE_SIZE]


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[mmap.mmap]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
            view.madvise(mmap.MADV_RANDOM)
            yield view
    finally:
        os.close(fd)


def _address(view: mmap.mmap) -> int:
    """Where a mapping of our own is. NumPy takes read-only buffers too, ctypes does not."""
    return int(np.frombuffer(view, np.uint8, 1).ctypes.data)
