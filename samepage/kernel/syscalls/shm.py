"""System V shared memory (ipc/shm.c): segments of shared anonymous memory with a number."""

from __future__ import annotations

import errno
import struct

from samepage.abi.mman import MapFlags, Prot
from samepage.abi.time import NS
from samepage.cpu.ram import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.mmap import do_mmap, do_munmap
from samepage.kernel.mm.shmem import ShmemInode
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.mm.unmapped_area import page_align
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.numbers import Sys
from samepage.kernel.syscalls.table import I32, syscall
from samepage.records import record

_IPC_PRIVATE, _IPC_CREAT, _IPC_EXCL = 0, 0o1000, 0o2000
_IPC_RMID, _IPC_STAT = 0, 2
_SHM_RDONLY, _SHM_REMAP, _SHM_EXEC, _SHM_DEST = 0o10000, 0o40000, 0o100000, 0o1000
_SHMMAX = (1 << 64) - 1 - (1 << 24)


@record(eq=False)
class Segment:
    """One segment. Its memory has a handle on it until IPC_RMID; then the mappings alone
    keep it."""

    ident: int
    key: int
    size: int
    mode: int
    uid: int
    gid: int
    creator: int
    created: int
    inode: ShmemInode
    removed: bool = False
    last_pid: int = 0
    attached_at: int = 0
    detached_at: int = 0


def _segments(task: Task) -> dict[int, Segment]:
    return task.kernel.shm_segments


def _attached(task: Task, segment: Segment) -> int:
    spaces = task.kernel.cache.spaces
    return sum(vma.file is segment.inode for mm in spaces for vma in mm.vmas)


def _get(task: Task, ident: int) -> Segment:
    segments = _segments(task)
    for gone in [s for s in segments.values() if s.removed and not _attached(task, s)]:
        del segments[gone.ident]
    if ident not in segments:
        raise SysError(errno.EINVAL)
    return segments[ident]


@syscall(Sys.SHMGET)
def sys_shmget(task: Task, key: I32, size: int, flags: I32) -> int:
    """`shmget(2)`."""
    kernel, segments = task.kernel, _segments(task)
    found = [s for s in segments.values() if s.key == key and not s.removed]
    if key != _IPC_PRIVATE and found:
        if flags & _IPC_CREAT and flags & _IPC_EXCL:
            raise SysError(errno.EEXIST)
        if size > found[0].size:
            raise SysError(errno.EINVAL)
        return found[0].ident
    if key != _IPC_PRIVATE and not flags & _IPC_CREAT:
        raise SysError(errno.ENOENT)
    if not 0 < size <= _SHMMAX:
        raise SysError(errno.EINVAL)
    if size >> PAGE_SHIFT > kernel.ram.n_frames:
        raise SysError(errno.ENOMEM)
    ident = max(segments, default=-1) + 1
    inode = kernel.cache.shmem.create(page_align(size), f"/SYSV{key & 0xFFFF_FFFF:08x} (deleted)")
    inode.handles = 1
    inode.map_around = False
    cred, now = task.process.cred, kernel.clock.realtime() // NS
    pid = task.process.pid
    mode = flags & 0o777
    segments[ident] = Segment(ident, key, size, mode, cred.euid, cred.egid, pid, now, inode)
    return ident


@syscall(Sys.SHMAT)
def sys_shmat(task: Task, ident: I32, address: int, flags: I32) -> int:
    """`shmat(2)`."""
    segment = _get(task, ident)
    if address & (PAGE_SIZE - 1):
        if not flags & 0o20000:
            raise SysError(errno.EINVAL)
        address &= -PAGE_SIZE
    prot = Prot.READ if flags & _SHM_RDONLY else Prot.READ | Prot.WRITE
    if flags & _SHM_EXEC:
        prot |= Prot.EXEC
    kind = MapFlags.SHARED
    if address:
        kind |= MapFlags.FIXED if flags & _SHM_REMAP else MapFlags.FIXED_NOREPLACE
    try:
        place = do_mmap(
            task.mm,
            address,
            segment.size,
            prot,
            kind,
            segment.inode,
            path=segment.inode.path,
            may_write=not flags & _SHM_RDONLY,
        )
    except SysError as error:
        raise SysError(errno.EINVAL if error.errno == errno.EEXIST else error.errno) from None
    segment.last_pid, segment.attached_at = task.process.pid, task.kernel.clock.realtime() // NS
    return place


@syscall(Sys.SHMDT)
def sys_shmdt(task: Task, address: int) -> int:
    """`shmdt(2)`."""
    vma = task.mm.vmas.find(address)
    segment = next((s for s in _segments(task).values() if vma and vma.file is s.inode), None)
    if vma is None or segment is None or vma.start != address or vma.pgoff:
        raise SysError(errno.EINVAL)
    do_munmap(task.mm, address, page_align(segment.size))
    segment.last_pid, segment.detached_at = task.process.pid, task.kernel.clock.realtime() // NS
    return 0


@syscall(Sys.SHMCTL)
def sys_shmctl(task: Task, ident: I32, command: I32, buffer: int) -> int:
    """`shmctl(2)`: IPC_STAT and IPC_RMID."""
    segment = _get(task, ident)
    if command == _IPC_STAT:
        copy_to_user(task.mm, buffer, _pack(segment, _attached(task, segment)))
        return 0
    if command == _IPC_RMID:
        if task.process.cred.euid not in (0, segment.uid):
            raise SysError(errno.EPERM)
        if not segment.removed:
            segment.removed, segment.key = True, _IPC_PRIVATE
            segment.inode.handles = 0
            task.kernel.cache.release(segment.inode)
        return 0
    raise SysError(errno.EINVAL)


def _pack(segment: Segment, attached: int) -> bytes:
    """`struct shmid64_ds`."""
    mode = segment.mode | (_SHM_DEST if segment.removed else 0)
    uid, gid = segment.uid, segment.gid
    permissions = struct.pack("<iIIIIIHHxxxxQQ", segment.key, uid, gid, uid, gid, mode, 0, 0, 0, 0)
    return permissions + struct.pack(
        "<QqqqiiQQQ",
        segment.size,
        segment.attached_at,
        segment.detached_at,
        segment.created,
        segment.creator,
        segment.last_pid,
        attached,
        0,
        0,
    )
