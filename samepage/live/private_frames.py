"""The frames of a process's private memory, for comparing one instant with another."""

import ctypes
import os

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import ENTRY_SIZE, Pm
from samepage.live.one_process import read_entries, read_vmas
from samepage.live.pagemap import Scanner, ScanUnsupported, end_of_memory, ranges_from_maps
from samepage.live.procfs import read_file
from samepage.snapshot.writes import Area, Frames

ONLY_HERE = 1 << 62
"""Set in a placeholder for the frame of a page that one process maps."""
_PID_SHIFT = 40
_MOST = 1 << 16
"""Entries for one read: half a megabyte."""


def read_private_frames(pid: int, scanner: Scanner) -> Frames:
    """Read one process: the present pages of its private areas; without root with placeholders
    for frame numbers (`ONLY_HERE`). Raises `OSError`; ESRCH or ENOENT if it is gone."""
    vmas = list(read_vmas(pid))
    maps = read_file(f"/proc/{pid}/maps")
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            ranges = scanner.scan(fd, end_of_memory(maps))[0]
        except ScanUnsupported:
            ranges = ranges_from_maps(maps, "/proc", pid)
        pages, entries = _read(fd, ranges)
    finally:
        os.close(fd)
    private = [v for v in vmas if v.perms[3] == "p"]
    starts = np.array([v.start // HOST_PAGE_SIZE for v in private], np.uint64)
    ends = np.array([v.end // HOST_PAGE_SIZE for v in private], np.uint64)
    maps_file = np.array([Area(v.name).is_file for v in private], np.bool_)
    place = np.searchsorted(starts, pages, "right") - 1
    inside = place >= 0
    inside[inside] &= pages[inside] < ends[place[inside]]
    wanted = inside & (entries & np.uint64(Pm.PRESENT) != 0)
    swapped = int((inside & (entries & np.uint64(Pm.SWAP) != 0)).sum())
    pages, entries, place = pages[wanted], entries[wanted], place[wanted]
    file_page = entries & np.uint64(Pm.FILE) != 0
    frames = entries & np.uint64(Pm.PFRAME)
    if len(frames) and not frames.any():
        frames = _placeholders(pid, pages, entries)
    return Frames(pages, frames, maps_file[place] & ~file_page, file_page, swapped)


def sees_frame_numbers() -> bool:
    """Whether pagemap shows this process frame numbers (CAP_SYS_ADMIN)."""
    probe = bytearray(b"x")  # on a page that is present
    address = ctypes.addressof(ctypes.c_char.from_buffer(probe))
    (entry,) = read_entries("self", address, 1)
    return bool(entry & Pm.PFRAME)


def _placeholders(
    pid: int, pages: npt.NDArray[np.uint64], entries: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Numbers in place of frame numbers, which only root is shown: 0 for a page that several map,
    and for one that is mapped here alone a number that no other page has."""
    alone = entries & np.uint64(Pm.MMAP_EXCLUSIVE) != 0
    own = pages | np.uint64(pid << _PID_SHIFT | ONLY_HERE)
    return np.where(alone, own, np.uint64(0)).astype(np.uint64)


def _read(
    fd: int, ranges: list[tuple[int, int]]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    pages, entries = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for first, end in ranges:
        for start in range(first, end, _MOST):
            count = min(_MOST, end - start)
            data = os.pread(fd, count * ENTRY_SIZE, start * ENTRY_SIZE)
            found = np.frombuffer(data, np.uint64, len(data) // ENTRY_SIZE)
            pages.append(np.arange(start, start + len(found), dtype=np.uint64))
            entries.append(found)
    return np.concatenate(pages), np.concatenate(entries)
