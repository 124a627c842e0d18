"""Shared anonymous memory: an inode of its own, without storage behind it (mm/shmem.c).

`mmap(MAP_SHARED | MAP_ANONYMOUS)`, a shared mapping of `/dev/zero`, `memfd_create` and
System V segments are all a nameless file of a kernel-internal tmpfs. Its pages are made,
zeroed, when they are first touched, live in the page cache, and count as RssShmem. They
have nowhere else to be, since there is no swap: reclaim never takes them. They go when the
last mapping and the last descriptor are gone.
"""

from samepage.arch import PAGE_SIZE
from samepage.kernel.mm.mapped_file import MappedFile


class ShmemDevice:
    """Gives each nameless file its inode number (`shm_mnt`)."""

    DEV = 1
    """The device number that /proc/PID/maps shows as 00:01."""

    def __init__(self) -> None:
        self._last = 0

    def create(self, size: int, path: str = "/dev/zero (deleted)") -> "ShmemInode":
        """A new file of `size` bytes; `path` is what /proc/PID/maps shows for it: also
        `/memfd:NAME (deleted)` or `/SYSV00000000 (deleted)`."""
        self._last += 1
        return ShmemInode(self._last, size, path)


class ShmemInode(MappedFile):
    """A file of shared anonymous memory.

    `handles` counts what keeps it besides mappings: open descriptors, a System V id.
    `map_around` is false for a System V segment: `shm_vm_ops` passes faults on to tmpfs, but
    has no `map_pages`, so that each page of it that is read takes a fault of its own.
    """

    shmem = True
    handles = 0

    def __init__(self, ino: int, size: int, path: str) -> None:
        super().__init__(ShmemDevice.DEV, ino, size)
        self.path = path

    @property
    def shown_path(self) -> str:
        """What /proc/PID/maps shows for it."""
        return self.path

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int:
        """A page that was never written is zeros."""
        count = 0
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
            count += len(buffer)
        return count

    @property
    def page_count(self) -> int:
        """The size in pages, rounded up."""
        return (self.size + PAGE_SIZE - 1) // PAGE_SIZE
