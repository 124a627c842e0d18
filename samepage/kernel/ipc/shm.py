"""System V shared memory (ipc/shm.c, and what it has of ipc/util.c): segments with a number.

A segment is a nameless file of tmpfs (`mm.shmem`) with an id, a key by which other processes
find it, and permissions. It lives until IPC_RMID, and from then on for as long as something
maps it. An id is the segment's index in the table, taken in turn, with a sequence number above
it that grows when the turn begins again: so an id that is gone stays unknown for long.
"""

from __future__ import annotations

import errno
from itertools import chain

from samepage.abi.mman import MapFlags, Prot
from samepage.abi.time import NS
from samepage.arch import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.mmap import do_mmap, do_munmap
from samepage.kernel.mm.shmem import ShmemInode
from samepage.kernel.mm.unmapped_area import page_align
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from samepage.kernel.fs.context import Credentials
    from samepage.kernel.mm.address_space import AddressSpace
    from samepage.kernel.mm.mapped_file import MappedFile
    from samepage.kernel.mm.page_cache import PageCache

IPC_PRIVATE, IPC_CREAT, IPC_EXCL = 0, 0o1000, 0o2000
SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC = 0o10000, 0o20000, 0o40000, 0o100000
SHM_NORESERVE = 0o10000
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000
"""Bits of a segment's mode: it goes with its last mapping; it is locked in memory."""
S_IRUGO, S_IWUGO, S_IXUGO, S_IRWXUGO = 0o444, 0o222, 0o111, 0o777
SHMMIN, SHMMAX, SHMALL, SHMMNI = 1, (1 << 64) - 1 - (1 << 24), (1 << 64) - 1 - (1 << 24), 4096
"""The limits that a kernel boots with (include/uapi/linux/shm.h)."""
_INDEX_BITS = 15
_SEQUENCES = 0x7FFF_FFFF >> _INDEX_BITS
_MIN_CYCLE = 64
"""How many indices a turn has at least (`ipc_min_cycle`)."""


@record(eq=False)
class Segment:
    """One segment (`struct shmid_kernel`). `mode` has SHM_* bits above the permissions; times
    are in seconds, `size` is in bytes. IPC_RMID takes its key and the handle on its memory."""

    ident: int
    key: int
    size: int
    mode: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    creator: int
    """The pid of who made it."""
    changed_at: int
    inode: ShmemInode
    last_pid: int = 0
    attached_at: int = 0
    detached_at: int = 0

    @property
    def sequence(self) -> int:
        """The upper part of its id."""
        return self.ident >> _INDEX_BITS

    def permits(self, cred: Credentials, wanted: int) -> bool:
        """Whether its mode grants what is wanted, read from the bits of any of the three
        groups (`ipcperms`)."""
        wanted |= wanted >> 6 | wanted >> 3
        granted = self.mode
        if cred.euid in (self.cuid, self.uid):
            granted >>= 6
        elif cred.in_group(self.cgid) or cred.in_group(self.gid):
            granted >>= 3
        return not wanted & ~granted & 7 or cred.euid == 0

    def owned_by(self, cred: Credentials) -> bool:
        """Whether its attributes may be changed (`ipcctl_obtain_check`)."""
        return cred.euid in (self.cuid, self.uid, 0)


class SharedMemory:
    """The segments of one machine (`struct ipc_ids`). `clock` returns the time in ns since the
    epoch, `n_frames` how much memory there is. Errors are raised as `SysError`."""

    def __init__(self, cache: PageCache, n_frames: int, clock: Callable[[], int]) -> None:
        self._cache = cache
        self._n_frames = n_frames
        self._clock = clock
        self._segments: dict[int, Segment] = {}
        """By index."""
        self._last_index = -1
        self._sequence = 0

    @property
    def segments(self) -> dict[int, Segment]:
        """The segments by index; those that went with their last mapping are gone."""
        for index, segment in list(self._segments.items()):
            if segment.mode & SHM_DEST and not self.attached(segment):
                del self._segments[index]
        return self._segments

    def attached(self, segment: Segment) -> int:
        """How many mappings a segment has (`shm_nattch`)."""
        return sum(vma.file is segment.inode for mm in self._cache.spaces for vma in mm.vmas)

    def find(self, ident: int) -> Segment:
        """The segment with an id. Raises EINVAL (`shm_obtain_object_check`)."""
        segment = self.segments.get(ident & (1 << _INDEX_BITS) - 1)
        if segment is None or segment.ident != ident:
            raise SysError(errno.EINVAL)
        return segment

    def get(self, key: int, size: int, flags: int, cred: Credentials, pid: int) -> int:
        """`shmget`: the id of the segment with a key, or of a new one (`ipcget`)."""
        if key != IPC_PRIVATE:
            segment = next((s for s in self.segments.values() if s.key == key), None)
            if segment is not None:
                return _check(segment, size, flags, cred)
            if not flags & IPC_CREAT:
                raise SysError(errno.ENOENT)
        return self._create(key, size, flags, cred, pid)

    def _create(self, key: int, size: int, flags: int, cred: Credentials, pid: int) -> int:
        """`newseg`."""
        if not SHMMIN <= size <= SHMMAX:
            raise SysError(errno.EINVAL)
        if size >> PAGE_SHIFT > self._n_frames and not flags & SHM_NORESERVE:
            raise SysError(errno.ENOMEM)
        ident = self._new_ident()
        name = f"/SYSV{key & 0xFFFF_FFFF:08x} (deleted)"
        inode = self._cache.shmem.create(page_align(size), name)
        inode.handles = 1
        inode.map_around = False
        self._segments[self._last_index] = Segment(
            ident,
            key,
            size,
            flags & S_IRWXUGO,
            cred.euid,
            cred.egid,
            cred.euid,
            cred.egid,
            pid,
            self._now(),
            inode,
        )
        return ident

    def _new_ident(self) -> int:
        """The next index of the turn that is free, with a sequence number that its last user
        did not have (`ipc_idr_alloc`)."""
        segments = self.segments
        if len(segments) >= SHMMNI:
            raise SysError(errno.ENOSPC)
        end = max(len(segments) * 3 // 2, _MIN_CYCLE)
        turn = chain(range(self._last_index + 1, end), range(end))
        index = next(each for each in turn if each not in segments)
        if index <= self._last_index:
            self._sequence = (self._sequence + 1) % _SEQUENCES
        self._last_index = index
        return self._sequence << _INDEX_BITS | index

    def _now(self) -> int:
        return self._clock() // NS

    def attach(
        self, mm: AddressSpace, ident: int, address: int, flags: int, cred: Credentials, pid: int
    ) -> int:
        """`shmat`: map a segment, and return where (`do_shmat`)."""
        if address & ~PAGE_MASK:
            if not flags & SHM_RND:
                raise SysError(errno.EINVAL)
            address &= PAGE_MASK
        if not address and flags & SHM_REMAP:
            raise SysError(errno.EINVAL)
        prot, wanted = Prot.READ, S_IRUGO
        if not flags & SHM_RDONLY:
            prot, wanted = prot | Prot.WRITE, wanted | S_IWUGO
        if flags & SHM_EXEC:
            prot, wanted = prot | Prot.EXEC, wanted | S_IXUGO
        segment = self.find(ident)
        if not segment.permits(cred, wanted):
            raise SysError(errno.EACCES)
        end = address + segment.size
        if address and not flags & SHM_REMAP and mm.vmas.overlapping(address, end):
            raise SysError(errno.EINVAL)
        kind = MapFlags.SHARED | (MapFlags.FIXED if address else 0)
        place = do_mmap(
            mm,
            address,
            segment.size,
            prot,
            kind,
            segment.inode,
            path=segment.inode.path,
            may_write=not flags & SHM_RDONLY,
        )
        segment.last_pid, segment.attached_at = pid, self._now()
        return place

    def detach(self, mm: AddressSpace, address: int, pid: int) -> None:
        """`shmdt`: unmap what is left of the segment that was mapped at `address`, whose
        first pages may be gone already (`ksys_shmdt`)."""
        by_file: dict[MappedFile | None, Segment] = {s.inode: s for s in self.segments.values()}
        found: Segment | None = None
        end = (1 << 64) - 1
        for vma in mm.vmas.overlapping(address, end) if not address & ~PAGE_MASK else ():
            if vma.start >= end:
                break
            segment = by_file.get(vma.file)
            in_place = vma.start - address == vma.pgoff << PAGE_SHIFT
            if segment is None or not in_place or (found is not None and segment is not found):
                continue
            found, end = segment, address + page_align(segment.size)
            do_munmap(mm, vma.start, vma.end - vma.start)
        if found is None:
            raise SysError(errno.EINVAL)
        found.last_pid, found.detached_at = pid, self._now()

    def readable(self, ident: int, cred: Credentials) -> Segment:
        """The segment with an id, for IPC_STAT. Raises EINVAL or EACCES (`shmctl_stat`)."""
        return _require_readable(self.find(ident), cred)

    def by_index(self, index: int, cred: Credentials | None) -> Segment:
        """The segment at an index, for SHM_STAT, which checks `cred`, and for SHM_STAT_ANY,
        which does not. Raises EINVAL or EACCES."""
        segment = self.segments.get(index & (1 << _INDEX_BITS) - 1)
        if segment is None:
            raise SysError(errno.EINVAL)
        return segment if cred is None else _require_readable(segment, cred)

    def change(self, ident: int, uid: int, gid: int, mode: int, cred: Credentials) -> None:
        """IPC_SET (`ipc_update_perm`). Raises EINVAL or EPERM."""
        segment = self._owned(ident, cred)
        segment.uid, segment.gid = uid, gid
        segment.mode = segment.mode & ~S_IRWXUGO | mode & S_IRWXUGO
        segment.changed_at = self._now()

    def remove(self, ident: int, cred: Credentials) -> None:
        """IPC_RMID: now, or with the last mapping (`do_shm_rmid`). Raises EINVAL or EPERM."""
        segment = self._owned(ident, cred)
        segment.mode |= SHM_DEST
        segment.key = IPC_PRIVATE
        segment.inode.handles = 0
        self._cache.release(segment.inode)

    def _owned(self, ident: int, cred: Credentials) -> Segment:
        segment = self.find(ident)
        if not segment.owned_by(cred):
            raise SysError(errno.EPERM)
        return segment

    def lock(self, ident: int, cred: Credentials, limit: int, *, locked: bool) -> None:
        """SHM_LOCK and SHM_UNLOCK (`shmctl_do_lock`); `limit` is RLIMIT_MEMLOCK in bytes. The
        memory of segments is never reclaimed, locked or not. Raises EINVAL, EPERM or ENOMEM."""
        segment = self.find(ident)
        if cred.euid not in (segment.uid, segment.cuid, 0) or (
            locked and not limit and cred.euid != 0
        ):
            raise SysError(errno.EPERM)
        if locked and cred.euid != 0 and segment.inode.page_count * PAGE_SIZE > limit:
            raise SysError(errno.ENOMEM)
        segment.mode = segment.mode & ~SHM_LOCKED | (SHM_LOCKED if locked else 0)

    @property
    def highest_index(self) -> int:
        """The highest index that is in use, 0 if none is: what IPC_INFO and SHM_INFO return."""
        return max(self.segments, default=0)


def _check(segment: Segment, size: int, flags: int, cred: Credentials) -> int:
    """Whether `shmget` may have the segment that has its key: its id (`ipcget_public`)."""
    if flags & IPC_CREAT and flags & IPC_EXCL:
        raise SysError(errno.EEXIST)
    if segment.size < size:
        raise SysError(errno.EINVAL)
    if not segment.permits(cred, flags & S_IRWXUGO):
        raise SysError(errno.EACCES)
    return segment.ident


def _require_readable(segment: Segment, cred: Credentials) -> Segment:
    if not segment.permits(cred, S_IRUGO):
        raise SysError(errno.EACCES)
    return segment
