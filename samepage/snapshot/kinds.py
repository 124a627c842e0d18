"""The values of the schema's coded columns: what a frame holds, what is known of a page.

They are apart from the schema so that the live reader, which must start fast, can use
them without importing Arrow.
"""

import enum


class FrameKind(enum.IntEnum):
    """What a frame holds."""

    UNKNOWN = 0
    FILE = 1
    ANON = 2
    SHMEM = 3
    ZERO = 4
    SPECIAL = 5
    """A page of the kernel's own that it shows to programs: `[vdso]`, `[vvar]`."""
    KSM = 6
    HUGETLB = 7


class PageFlags:
    """What is known of one virtual page of one process (a 16-bit set)."""

    PRESENT = 1
    SWAPPED = 2
    FILE = 4
    """A page of a file or of shared anonymous memory (pagemap bit 61)."""
    EXCLUSIVE = 8
    """Mapped exactly once (pagemap bit 56)."""
    SOFT_DIRTY = 16
    DIRTY = 32
    """The page-table entry or the frame is dirty (what `smaps` calls dirty)."""
    ACCESSED = 64
    WRITABLE = 128
    HUGE = 256
    """Mapped by one entry of 2 MiB or more."""


class FrameFlags:
    """What is known of a frame (a 32-bit set)."""

    DIRTY = 1
    REFERENCED = 2
    LRU = 4
    THP = 8
    MLOCKED = 16
