"""/proc/kpagecount and /proc/kpageflags: what the kernel knows of a frame.

Both are arrays of one 64-bit number per page frame of the machine
(Documentation/admin-guide/mm/pagemap.rst; fs/proc/page.c). kpagecount is how many page
table entries map the frame: since Linux 6.9 exactly what `smaps` divides by
(`folio_precise_page_mapcount`). kpageflags are the flags of the folio that the frame
belongs to (`stable_page_flags`).

Only the frames of interest are read, in runs: frames that are near each other are read by
one call along with the gap between them. The kernel takes some 60 ns to make up one
frame's flags, and a call costs over a microsecond from Python, so gaps are kept short.
"""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOCKED = 1 << 0
REFERENCED = 1 << 2
UPTODATE = 1 << 3
DIRTY = 1 << 4
LRU = 1 << 5
SLAB = 1 << 7
WRITEBACK = 1 << 8
MMAP = 1 << 11
ANON = 1 << 12
SWAPCACHE = 1 << 13
SWAPBACKED = 1 << 14
COMPOUND_HEAD = 1 << 15
COMPOUND_TAIL = 1 << 16
HUGE = 1 << 17
UNEVICTABLE = 1 << 18
NOPAGE = 1 << 20
KSM = 1 << 21
THP = 1 << 22
ZERO_PAGE = 1 << 24
MLOCKED = 1 << 33
"""Bits of kpageflags (include/uapi/linux/kernel-page-flags.h and linux/kernel-page-flags.h)."""

GAP = 16
"""Frames between two of interest that are read along."""
_CHUNK = 1 << 17

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class KernelPages:
    """The answers for the frames that were asked for, in their order."""

    counts: npt.NDArray[np.int32]
    flags: Numbers


def read_kernel_pages(frames: Numbers, proc: str = "/proc") -> KernelPages | None:
    """Return count and flags of `frames`, which must ascend strictly.

    None if the two files may not be read, or are not there (they are root's, and exist with
    CONFIG_PROC_PAGE_MONITOR). A frame beyond their end counts 0 with flags NOPAGE.
    """
    columns = []
    for name, missing in (("kpagecount", 0), ("kpageflags", NOPAGE)):
        try:
            fd = os.open(f"{proc}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            columns.append(_read(fd, frames, missing))
        except OSError:
            return None
        finally:
            os.close(fd)
    counts = np.minimum(columns[0], np.uint64(2**31 - 1)).astype(np.int32)
    return KernelPages(counts, columns[1])


def _read(fd: int, frames: Numbers, missing: int) -> Numbers:
    """Return the entries of one of the files for `frames`, `missing` where it has none."""
    out = np.empty(len(frames), dtype=np.uint64)
    for first in range(0, len(frames), _CHUNK):
        wanted = frames[first : first + _CHUNK]
        breaks = np.flatnonzero(np.diff(wanted) > GAP) + 1
        starts = wanted[np.concatenate(([0], breaks))]
        ends = wanted[np.concatenate((breaks - 1, [len(wanted) - 1]))] + np.uint64(1)
        lengths = (ends - starts).astype(np.int64)
        positions = np.cumsum(lengths) - lengths
        buffer = np.full(int(lengths.sum()), missing, dtype=np.uint64)
        view = buffer.data.cast("B")
        for start, low, length in zip(
            (starts * np.uint64(8)).tolist(),
            (positions * 8).tolist(),
            (lengths * 8).tolist(),
            strict=True,
        ):
            os.preadv(fd, [view[low : low + length]], start)
        run = np.repeat(
            positions - starts.astype(np.int64),
            np.diff(np.concatenate(([0], breaks, [len(wanted)]))),
        )
        out[first : first + _CHUNK] = buffer[run + wanted.astype(np.int64)]
    return out
