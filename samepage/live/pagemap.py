"""The entries of /proc/PID/pagemap, read only where something is resident.

pagemap is an array of one 64-bit entry per virtual page (Documentation/admin-guide/mm/
pagemap.rst). Most of an address space is empty, and reading emptiness costs the kernel a
nanosecond per page: 20 minutes for all of it. So the resident ranges come first:

- Since Linux 6.7 the `PAGEMAP_SCAN` ioctl walks the whole page table in one call and
  returns the ranges that are present or swapped, and which of them are mapped by huge entries
  (`do_pagemap_scan` in fs/proc/task_mmu.c). It takes an end, and refuses one that is no address
  of a user (`access_ok`). Where that limit lies depends on the processor, on the kernel's
  configuration (39 to 52 bits on arm64) and, with five-level page tables, on the program. So no
  limit is assumed: the end of the last VMA is the end (`end_of_memory`).
- Before that, and on a /proc that is not the kernel's, the VMAs of `maps` are the ranges.
  A VMA of more than `HUGE_VMA` pages (a reservation of a Go or Java runtime) is read only if
  `smaps` shows that something in it is resident.

Ranges with a small gap between them are read in one call, since a system call costs as much
as some hundred entries of a gap; empty entries are dropped when they are decoded.

This module needs the standard library only: it runs while NumPy is still being imported.
"""

import errno
import fcntl
import re
from array import array

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.abi.pagemap import PAGE_REGION, PAGEMAP_SCAN, PM_SCAN_ARG, PageCategory
from samepage.live.procfs import read_file

KERNEL_HALF = 1 << 63
"""The first address that no user can have: on each 64-bit processor whose kernel shares the
addresses with its users, the sign bit is the kernel's (x86-64: "canonical" addresses; arm64:
TTBR1). `maps` shows one range there, the gate area `[vsyscall]`, which no page table of the
process maps and pagemap does not have."""

_RESIDENT = PageCategory.PRESENT | PageCategory.SWAPPED

MERGE_GAP = 64
"""Gaps of up to this many pages are read along; measured: fewest nanoseconds in all."""
HUGE_VMA = 1 << 18
_REGIONS = 4096

# Patterns are text here, and compiled when they are used: compiling costs a millisecond each.
_VMA_RANGE = rb"(?m)^([0-9a-f]{1,16})-([0-9a-f]{1,16}) "
_SMAPS_RANGE = rb"(?m)^([0-9a-f]{1,16})-[0-9a-f]{1,16} |^(?:Rss|Swap): +([0-9]{1,15}) kB$"

Range = tuple[int, int]
"""First virtual page, and the one after the last."""


class ScanUnsupported(Exception):
    """This pagemap has no `PAGEMAP_SCAN`: an older kernel, or not a kernel's file."""


class Scanner:
    """Finds resident ranges with `PAGEMAP_SCAN`; holds the buffer that the kernel fills."""

    def __init__(self) -> None:
        self._regions = array("Q", bytes(PAGE_REGION.size * _REGIONS))
        self._address = self._regions.buffer_info()[0]

    def scan(self, fd: int, end: int) -> tuple[list[Range], list[Range]]:
        """Return the ranges to read, and those mapped by huge entries, both ascending.

        `fd` is an open pagemap, `end` the address to stop at (`end_of_memory`). Raises
        `ScanUnsupported`, or `OSError` (ESRCH: the address space is gone).
        """
        ranges: list[Range] = []
        huge: list[Range] = []
        start = 0
        while start < end:
            arg = bytearray(
                PM_SCAN_ARG.pack(
                    *(PM_SCAN_ARG.size, 0, start, end, 0, self._address, _REGIONS, 0),
                    *(0, 0, _RESIDENT, _RESIDENT | PageCategory.HUGE),
                )
            )
            try:
                count = fcntl.ioctl(fd, PAGEMAP_SCAN, arg)
            except OSError as error:
                if error.errno in (errno.ENOTTY, errno.EINVAL):
                    raise ScanUnsupported from error
                raise
            self._take(count, ranges, huge)
            # Not walk_end: after the kernel had to flush its own buffer (512 regions) on the
            # way, it holds an earlier address (seen on 6.18), and pages would come twice.
            if count < _REGIONS:
                break
            start = int(self._regions[3 * count - 2])
        return ranges, huge

    def _take(self, count: int, ranges: list[Range], huge: list[Range]) -> None:
        regions = self._regions[: 3 * count]
        first, last = ranges.pop() if ranges else (0, -1)
        for start, end, categories in zip(regions[0::3], regions[1::3], regions[2::3], strict=True):
            start >>= HOST_PAGE_SHIFT
            end >>= HOST_PAGE_SHIFT
            if categories & PageCategory.HUGE:
                huge.append((start, end))
            if last >= 0 and start - last <= MERGE_GAP:
                last = end
                continue
            if last >= 0:
                ranges.append((first, last))
            first, last = start, end
        if last >= 0:
            ranges.append((first, last))


def end_of_memory(maps: bytes) -> int:
    """Return the end of the last VMA of a user, 0 if there is none.

    `maps` is in ascending order, so only the last lines are looked at.
    """
    last = len(maps)
    while last > 0:
        first = maps.rfind(b"\n", 0, last - 1) + 1
        match = re.match(_VMA_RANGE, maps[first:last])
        if match and int(match[1], 16) < KERNEL_HALF:
            return min(int(match[2], 16), KERNEL_HALF)
        last = first
    return 0


def ranges_from_maps(maps: bytes, proc: str, pid: int) -> list[Range]:
    """Return the ranges of all VMAs of `maps`, without huge ones that hold nothing."""
    ranges: list[Range] = []
    resident: dict[int, int] | None = None
    for match in re.finditer(_VMA_RANGE, maps):
        low, high = int(match[1], 16), int(match[2], 16)
        start, end = low >> HOST_PAGE_SHIFT, high >> HOST_PAGE_SHIFT
        if ranges:
            start = max(start, ranges[-1][1])  # no kernel writes VMAs that overlap
        if start >= end or high > KERNEL_HALF:
            continue
        if end - start > HUGE_VMA:
            if resident is None:
                resident = _resident_by_smaps(proc, pid)
            if resident.get(low, 1) == 0:
                continue
        if ranges and start - ranges[-1][1] <= MERGE_GAP:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


def _resident_by_smaps(proc: str, pid: int) -> dict[int, int]:
    """Return kB resident or swapped by the start of each VMA; empty if it cannot be read."""
    found: dict[int, int] = {}
    start = 0
    try:
        smaps = read_file(f"{proc}/{pid}/smaps")
    except OSError:
        return found
    for match in re.finditer(_SMAPS_RANGE, smaps):
        if match[1]:
            start = int(match[1], 16)
            found[start] = 0
        else:
            found[start] = found.get(start, 0) + int(match[2])
    return found
