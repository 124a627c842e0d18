"""System V shared memory: the calls, and the structures that they read and write. What they
do is in `ipc.shm`."""

from __future__ import annotations

import errno
import struct

from samepage.abi.resource import Rlimit
from samepage.arch import PAGE_SHIFT, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.ipc.shm import SHMALL, SHMMAX, SHMMIN, SHMMNI, Segment
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user, put_struct
from samepage.kernel.mm.unmapped_area import page_align
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, syscall

_IPC_RMID, _IPC_SET, _IPC_STAT, _IPC_INFO = 0, 1, 2, 3
_SHM_LOCK, _SHM_UNLOCK, _SHM_STAT, _SHM_INFO, _SHM_STAT_ANY = 11, 12, 13, 14, 15
_PERM = struct.Struct("<iIIIIIHHxxxxQQ")
"""`struct ipc64_perm`: key, uid, gid, cuid, cgid, mode, seq and padding."""
_SHMID64_DS = struct.Struct("<QqqqiiQQQ")
"""`struct shmid64_ds` after its permissions: size, times, pids, attachments and padding."""
_SHMINFO64 = struct.Struct("<QQQQQ32x")
_SHM_INFO_STRUCT = struct.Struct("<ixxxxQQQQQ")


@syscall(Sys.SHMGET)
def sys_shmget(task: Task, key: I32, size: int, flags: I32) -> int:
    """`shmget(2)`."""
    process = task.process
    return task.kernel.shm.get(key, size, flags, process.cred, process.pid)


@syscall(Sys.SHMAT)
def sys_shmat(task: Task, ident: I32, address: int, flags: I32) -> int:
    """`shmat(2)`."""
    process = task.process
    return task.kernel.shm.attach(task.mm, ident, address, flags, process.cred, process.pid)


@syscall(Sys.SHMDT)
def sys_shmdt(task: Task, address: int) -> int:
    """`shmdt(2)`."""
    task.kernel.shm.detach(task.mm, address, task.process.pid)
    return 0


@syscall(Sys.SHMCTL)
def sys_shmctl(task: Task, ident: I32, command: I32, buffer: int) -> int:
    """`shmctl(2)`."""
    shm, cred = task.kernel.shm, task.process.cred
    if ident < 0 or command < 0:
        raise SysError(errno.EINVAL)
    if command == _IPC_INFO:
        put_struct(task.mm, buffer, _SHMINFO64, SHMMAX, SHMMIN, SHMMNI, SHMMNI, SHMALL)
        return shm.highest_index
    if command == _SHM_INFO:
        copy_to_user(task.mm, buffer, _pack_info(task))
        return shm.highest_index
    if command == _IPC_STAT:
        copy_to_user(task.mm, buffer, _pack(task, shm.readable(ident, cred)))
    elif command in (_SHM_STAT, _SHM_STAT_ANY):
        segment = shm.by_index(ident, cred if command == _SHM_STAT else None)
        copy_to_user(task.mm, buffer, _pack(task, segment))
        return segment.ident
    elif command == _IPC_SET:
        raw = copy_from_user(task.mm, buffer, _PERM.size + _SHMID64_DS.size)
        _, uid, gid, _, _, mode, *_ = _PERM.unpack_from(raw)
        shm.change(ident, uid, gid, mode, cred)
    elif command == _IPC_RMID:
        shm.remove(ident, cred)
    elif command in (_SHM_LOCK, _SHM_UNLOCK):
        limit = task.process.limit(Rlimit.MEMLOCK)
        shm.lock(ident, cred, limit, locked=command == _SHM_LOCK)
    else:
        raise SysError(errno.EINVAL)
    return 0


def _pack(task: Task, segment: Segment) -> bytes:
    """`struct shmid64_ds`."""
    owners = segment.uid, segment.gid, segment.cuid, segment.cgid
    permissions = _PERM.pack(segment.key, *owners, segment.mode, segment.sequence, 0, 0, 0)
    return permissions + _SHMID64_DS.pack(
        segment.size,
        segment.attached_at,
        segment.detached_at,
        segment.changed_at,
        segment.creator,
        segment.last_pid,
        task.kernel.shm.attached(segment),
        0,
        0,
    )


def _pack_info(task: Task) -> bytes:
    """`struct shm_info`: how many segments there are, their pages, and how many of these are
    in memory; there is no swap."""
    segments = task.kernel.shm.segments.values()
    total = sum(page_align(segment.size) >> PAGE_SHIFT for segment in segments)
    resident = sum(len(segment.inode.pages) for segment in segments)
    return _SHM_INFO_STRUCT.pack(len(segments), total, resident, 0, 0, 0)
