"""The files of /proc that describe page tables and frames: pagemap, kpageflags and smaps.

Each entry of pagemap and kpageflags is a 64-bit number (Documentation/admin-guide/mm/
pagemap.rst; fs/proc/task_mmu.c; include/uapi/linux/kernel-page-flags.h, and
include/linux/kernel-page-flags.h for the bits above 31).
"""

import struct

ENTRY_SIZE = 8
"""Bytes of an entry of pagemap, kpagecount and kpageflags."""


class Pm:
    """Bits of an entry of /proc/PID/pagemap."""

    PFRAME = (1 << 55) - 1
    """The frame number of a present page; 0 for readers without CAP_SYS_ADMIN."""
    SOFT_DIRTY = 1 << 55
    MMAP_EXCLUSIVE = 1 << 56
    GUARD_REGION = 1 << 58
    FILE = 1 << 61
    """Of a file or shared memory, not anonymous."""
    SWAP = 1 << 62
    PRESENT = 1 << 63


PAGEMAP_SCAN = 0xC0606610
"""`_IOWR('f', 16, struct pm_scan_arg)`, a structure of 96 bytes (include/uapi/linux/fs.h)."""

PM_SCAN_WP_MATCHING = 1 << 0
"""Flag of PAGEMAP_SCAN: write-protect the pages that match, for the next scan to find."""
PM_SCAN_ARG = struct.Struct("12Q")
PAGE_REGION = struct.Struct("3Q")
"""What PAGEMAP_SCAN fills in: start and end address, and the categories."""


class PageCategory:
    """`PAGE_IS_*`: the categories of PAGEMAP_SCAN."""

    WPALLOWED = 1 << 0
    """In an area registered for asynchronous write protection."""
    WRITTEN = 1 << 1
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    HUGE = 1 << 6


class Kpf:
    """`KPF_*`: bits of /proc/kpageflags."""

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


PSS_SHIFT = 12
"""The kernel sums Pss in bytes << PSS_SHIFT: each page's share is rounded down at that scale
(`smaps_account`)."""
