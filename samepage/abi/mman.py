"""Arguments of the memory calls: mmap, mprotect, madvise, mlock, mremap, msync
(include/uapi/linux/mman.h and asm-generic/mman-common.h; those of x86-64 where they differ).
"""


class Prot:
    """`PROT_*`: the first three are the access flags of a VMA as well."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4
    GROWSDOWN = 0x01000000


class MapFlags:
    """`MAP_*`."""

    SHARED = 0x01
    PRIVATE = 0x02
    DROPPABLE = 0x08
    SHARED_VALIDATE = 0x03
    TYPE = 0x0F
    FIXED = 0x10
    ANONYMOUS = 0x20
    LOW_32BIT = 0x40
    ABOVE4G = 0x80
    GROWSDOWN = 0x100
    DENYWRITE = 0x800
    EXECUTABLE = 0x1000
    LOCKED = 0x2000
    NORESERVE = 0x4000
    POPULATE = 0x8000
    NONBLOCK = 0x10000
    STACK = 0x20000
    HUGETLB = 0x40000
    SYNC = 0x80000
    FIXED_NOREPLACE = 0x100000
    UNINITIALIZED = 0x4000000


MAP_HUGE_SHIFT = 26
"""From this bit on MAP_HUGETLB has the base-2 logarithm of the page size."""


class Advice:
    """`MADV_*`."""

    NORMAL = 0
    RANDOM = 1
    SEQUENTIAL = 2
    WILLNEED = 3
    DONTNEED = 4
    FREE = 8
    REMOVE = 9
    DONTFORK = 10
    DOFORK = 11
    MERGEABLE = 12
    UNMERGEABLE = 13
    HUGEPAGE = 14
    NOHUGEPAGE = 15
    DONTDUMP = 16
    DODUMP = 17
    WIPEONFORK = 18
    KEEPONFORK = 19
    COLD = 20
    PAGEOUT = 21
    POPULATE_READ = 22
    POPULATE_WRITE = 23
    DONTNEED_LOCKED = 24
    GUARD_INSTALL = 102
    GUARD_REMOVE = 103


class MremapFlags:
    """`MREMAP_*`."""

    MAYMOVE = 1
    FIXED = 2
    DONTUNMAP = 4


class MsFlags:
    """`MS_*`, of msync."""

    ASYNC = 1
    INVALIDATE = 2
    SYNC = 4


class Mcl:
    """`MCL_*`, of mlockall."""

    CURRENT = 1
    FUTURE = 2
    ONFAULT = 4


MLOCK_ONFAULT = 1
"""The flag of mlock2."""
