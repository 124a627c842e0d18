"""/proc/kpagecount, kpageflags and kpagecgroup: what the kernel knows of a frame.

Both are arrays of one 64-bit number per page frame of the machine
(Documentation/admin-guide/mm/pagemap.rst; fs/proc/page.c). kpagecount is how many page
table entries map the frame: exactly what `smaps` divides by (`page_mapcount`, since Linux 6.9
`folio_precise_page_mapcount`). kpageflags are the flags of the folio that the frame belongs to
(`stable_page_flags`). Before Linux 6.10 (commit dee3d0bef2b0) most of them are those of the frame's
own `struct page`, and of a folio only the first page has them: what is dirty, backed by swap, or
on an LRU list. `read_flags` adds the first page's, so that the flags mean the same everywhere.

Only the frames of interest are read, in runs: frames that are near each other are read by
one call along with the gap between them. The kernel takes some 60 ns to make up one
frame's flags, and a call costs over a microsecond from Python, so gaps are kept short.
"""

import os
from collections.abc import Iterator
from itertools import repeat

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import ENTRY_SIZE, Kpf
from samepage.snapshot.arrays import I64, distinct

GAP = 8
"""Frames between two of interest that are read along; measured: the fastest in all."""
_CHUNK = 1 << 17
_LARGEST_ORDER = 18
"""A folio has at most 2^18 pages: 1 GiB of 4 KiB."""
_OF_FOLIO = np.uint64(
    Kpf.LOCKED
    | Kpf.REFERENCED
    | Kpf.UPTODATE
    | Kpf.DIRTY
    | Kpf.LRU
    | Kpf.WRITEBACK
    | Kpf.SWAPCACHE
    | Kpf.SWAPBACKED
    | Kpf.UNEVICTABLE
    | Kpf.MLOCKED
)
"""The flags that a folio has as a whole."""

Numbers = npt.NDArray[np.uint64]


def read_counts(frames: Numbers, proc: str = "/proc") -> npt.NDArray[np.int32] | None:
    """Return how many page table entries map each of `frames`, which must ascend strictly.

    None if kpagecount may not be read, or is not there (it is root's, and exists with
    CONFIG_PROC_PAGE_MONITOR). A frame beyond its end counts 0.
    """
    counts = _read(f"{proc}/kpagecount", frames, 0)
    if counts is None:
        return None
    return np.minimum(counts, np.uint64(2**31 - 1)).astype(np.int32)


def read_flags(frames: Numbers, proc: str = "/proc") -> Numbers:
    """Return the flags of each of `frames`, which must ascend strictly.

    They are Kpf.NOPAGE beyond the end of kpageflags, and for all if it may not be read.
    """
    flags = _read(f"{proc}/kpageflags", frames, Kpf.NOPAGE)
    if flags is None:
        return np.full(len(frames), Kpf.NOPAGE, dtype=np.uint64)
    _add_flags_of_heads(frames, flags, f"{proc}/kpageflags")
    return flags


def read_cgroups(frames: Numbers, proc: str = "/proc") -> Numbers | None:
    """Return the inode of the memory control group that is charged for each of `frames`.

    It is 0 where none is: `frames` must ascend strictly. None if kpagecgroup may not be read, or is
    not there. A group that was removed is not named: the nearest one above that is there is
    charged with what it left (`page_cgroup_ino`). Kernels before 6.4 show it of the first page of
    a folio only.
    """
    path = f"{proc}/kpagecgroup"
    inodes = _read(path, frames, 0)
    if inodes is None:
        return None
    none = np.flatnonzero(inodes == 0)
    if len(none):
        flags = _read(f"{proc}/kpageflags", frames[none], Kpf.NOPAGE)
        if flags is not None:
            none = none[(flags & np.uint64(Kpf.COMPOUND_TAIL)) != 0]
            for some, firsts, _ in _first_pages(frames[none], f"{proc}/kpageflags"):
                wanted = distinct(firsts)
                found = _read(path, wanted, 0)
                if found is not None:
                    inodes[none[some]] = found[np.searchsorted(wanted, firsts)]
    return inodes


def _add_flags_of_heads(frames: Numbers, flags: Numbers, path: str) -> None:
    """Give tails of folios the flags that the kernel shows of the first page only, in place.

    Only tails that are not on an LRU list are looked at: where tails show the flags of their
    folio, few are. A folio of 2^n pages begins at a multiple of 2^n, and all pages after its first
    one are tails. So the first page is the nearest such multiple below that is no tail itself.
    """
    tail = np.uint64(Kpf.COMPOUND_TAIL)
    left = np.flatnonzero((flags & (tail | np.uint64(Kpf.LRU | Kpf.HUGE | Kpf.NOPAGE))) == tail)
    for some, _, found in _first_pages(frames[left], path):
        flags[left[some]] |= found & _OF_FOLIO


def _first_pages(tails: Numbers, path: str) -> Iterator[tuple[I64, Numbers, Numbers]]:
    """Yield of some of `tails` at a time: places, first pages of their folios, flags of these."""
    tail, head = np.uint64(Kpf.COMPOUND_TAIL), np.uint64(Kpf.COMPOUND_HEAD)
    left = np.arange(len(tails))
    for order in range(1, _LARGEST_ORDER + 1):
        if not len(left):
            return
        firsts = tails[left] & ~np.uint64((1 << order) - 1)
        wanted = distinct(firsts)
        found = _read(path, wanted, Kpf.NOPAGE)
        if found is None:
            return
        first = found[np.searchsorted(wanted, firsts)]
        of_folio = (first & (head | tail)) == head
        yield left[of_folio], firsts[of_folio], first[of_folio]
        left = left[(first & tail) != 0]


def _read(path: str, frames: Numbers, missing: int) -> Numbers | None:
    """Return the entries of one of the files for `frames`, `missing` where it has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_runs(fd, frames, missing)
    except OSError:
        return None
    finally:
        os.close(fd)


def _read_runs(fd: int, frames: Numbers, missing: int) -> Numbers:
    out = np.empty(len(frames), dtype=np.uint64)
    for first in range(0, len(frames), _CHUNK):
        wanted = frames[first : first + _CHUNK]
        breaks = np.flatnonzero(np.diff(wanted) > GAP) + 1
        starts = wanted[np.concatenate(([0], breaks))]
        ends = wanted[np.concatenate((breaks - 1, [len(wanted) - 1]))] + np.uint64(1)
        lengths = (ends - starts).astype(np.int64)
        positions = np.cumsum(lengths) - lengths
        sizes = (lengths * ENTRY_SIZE).tolist()
        # `map`, since a loop takes a fifth of the time of these calls.
        parts = list(map(os.pread, repeat(fd), sizes, (starts * np.uint64(ENTRY_SIZE)).tolist()))
        data = b"".join(parts)
        if len(data) < sum(sizes):  # beyond the end of the file
            filler = missing.to_bytes(ENTRY_SIZE, "little")
            data = b"".join(map(_filled, parts, sizes, repeat(filler)))
        shift = np.repeat(
            positions - starts.astype(np.int64),
            np.diff(np.concatenate(([0], breaks, [len(wanted)]))),
        )
        entries = np.frombuffer(data, dtype=np.uint64)
        out[first : first + _CHUNK] = entries[shift + wanted.astype(np.int64)]
    return out


def _filled(part: bytes, size: int, filler: bytes) -> bytes:
    """Return `size` bytes: the whole entries of `part`, then `filler` again and again."""
    entries = len(part) // ENTRY_SIZE
    return part[: entries * ENTRY_SIZE] + filler * (size // ENTRY_SIZE - entries)
