"""System calls that take a path."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator

from samepage.abi.fcntl import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
)
from samepage.abi.time import NS
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs import attributes
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.mm.uaccess import copy_to_user, get_struct
from samepage.kernel.process.task import SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, I64, U32, syscall
from samepage.kernel.syscalls.usermem import at_path, base_path, read_path

_STATX_SYNC = 0x6000
_STATX_FLAGS = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | _STATX_SYNC
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


@syscall(Sys.OPEN)
def sys_open(task: Task, path: int, flags: I32, mode: U32) -> SyscallResult:
    """`open(2)`."""
    return sys_openat(task, AT_FDCWD, path, flags, mode)


@syscall(Sys.CREAT)
def sys_creat(task: Task, path: int, mode: U32) -> SyscallResult:
    """`creat(2)`."""
    return sys_openat(task, AT_FDCWD, path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)


@syscall(Sys.OPENAT)
def sys_openat(task: Task, dirfd: I32, path: int, flags: I32, mode: U32) -> SyscallResult:
    """`openat(2)`. Opening a FIFO waits for its other end."""
    name = read_path(task, path)
    process = task.process
    base = base_path(task, dirfd, name)
    file = task.kernel.vfs.open(process.fs, name, flags, mode, base)
    if file.opening:
        return _wait_for_partner(task, file, bool(flags & os.O_CLOEXEC))
    return process.files.install(file, bool(flags & os.O_CLOEXEC))


def _wait_for_partner(task: Task, file: OpenFile, cloexec: bool) -> Generator[Wait, None, int]:
    try:
        while file.opening:
            yield Wait()
    except BaseException:
        file.release()
        raise
    return task.process.files.install(file, cloexec)


@syscall(Sys.OPENAT2)
def sys_openat2(task: Task, dirfd: I32, path: int, how: int, size: int) -> SyscallResult:
    """`openat2(2)`, without RESOLVE_* restrictions."""
    if size < 24:
        raise SysError(errno.EINVAL)
    flags, mode, resolve = get_struct(task.mm, how, "<QQQ")
    if resolve:
        raise SysError(errno.EINVAL)
    return sys_openat(task, dirfd, path, flags, mode)


@syscall(Sys.STAT)
def sys_stat(task: Task, path: int, buffer: int) -> int:
    """`stat(2)`."""
    return sys_newfstatat(task, AT_FDCWD, path, buffer, 0)


@syscall(Sys.LSTAT)
def sys_lstat(task: Task, path: int, buffer: int) -> int:
    """`lstat(2)`."""
    return sys_newfstatat(task, AT_FDCWD, path, buffer, AT_SYMLINK_NOFOLLOW)


@syscall(Sys.NEWFSTATAT)
def sys_newfstatat(task: Task, dirfd: I32, path: int, buffer: int, flags: I32) -> int:
    """`fstatat(2)`."""
    if flags & AT_EMPTY_PATH and dirfd >= 0 and (not path or not read_path(task, path)):
        found = task.process.files.get_raw(dirfd).fstat()
    else:
        found = at_path(task, dirfd, path, flags).inode.stat()
    copy_to_user(task.mm, buffer, found.pack())
    return 0


@syscall(Sys.STATX)
def sys_statx(task: Task, dirfd: I32, path: int, flags: I32, mask: U32, buffer: int) -> int:
    """`statx(2)`."""
    if mask >> 31 or flags & ~_STATX_FLAGS or flags & _STATX_SYNC == _STATX_SYNC:
        raise SysError(errno.EINVAL)
    found = at_path(task, dirfd, path, flags)
    copy_to_user(task.mm, buffer, task.kernel.vfs.stat_path(found).pack_statx())
    return 0


@syscall(Sys.ACCESS)
def sys_access(task: Task, path: int, mode: I32) -> int:
    """`access(2)`."""
    return sys_faccessat2(task, AT_FDCWD, path, mode, 0)


@syscall(Sys.FACCESSAT)
def sys_faccessat(task: Task, dirfd: I32, path: int, mode: I32) -> int:
    """The system call behind `faccessat(2)`, which has no flags."""
    return sys_faccessat2(task, dirfd, path, mode, 0)


@syscall(Sys.FACCESSAT2)
def sys_faccessat2(task: Task, dirfd: I32, path: int, mode: I32, flags: I32) -> int:
    """`faccessat2(2)`."""
    if mode & ~7 or flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise SysError(errno.EINVAL)
    found = at_path(task, dirfd, path, flags)
    effective = bool(flags & AT_EACCESS)
    attributes.access(task.process.fs, found.inode, mode, effective=effective)
    return 0


@syscall(Sys.READLINK)
def sys_readlink(task: Task, path: int, buffer: int, size: I32) -> int:
    """`readlink(2)`."""
    return sys_readlinkat(task, AT_FDCWD, path, buffer, size)


@syscall(Sys.READLINKAT)
def sys_readlinkat(task: Task, dirfd: I32, path: int, buffer: int, size: I32) -> int:
    """`readlinkat(2)`."""
    if size <= 0:
        raise SysError(errno.EINVAL)
    name = read_path(task, path)
    base = base_path(task, dirfd, name)
    if not name:
        inode = task.process.files.get_raw(dirfd).inode
        if not inode.is_symlink:
            raise SysError(errno.ENOENT)
        target = inode.readlink()
    else:
        target = task.kernel.vfs.readlink(task.process.fs, name, base)
    copy_to_user(task.mm, buffer, target[:size])
    return min(len(target), size)


@syscall(Sys.GETCWD)
def sys_getcwd(task: Task, buffer: int, size: int) -> int:
    """`getcwd(2)`: the length, NUL included."""
    text = task.kernel.vfs.getcwd(task.process.fs) + b"\0"
    if len(text) > size:
        raise SysError(errno.ERANGE)
    copy_to_user(task.mm, buffer, text)
    return len(text)


@syscall(Sys.CHDIR)
def sys_chdir(task: Task, path: int) -> int:
    """`chdir(2)`."""
    task.kernel.vfs.chdir(task.process.fs, at_path(task, AT_FDCWD, path, 0))
    return 0


@syscall(Sys.FCHDIR)
def sys_fchdir(task: Task, fd: I32) -> int:
    """`fchdir(2)`."""
    task.kernel.vfs.chdir(task.process.fs, task.process.files.get_raw(fd).path)
    return 0


@syscall(Sys.CHROOT)
def sys_chroot(task: Task, path: int) -> int:
    """`chroot(2)`."""
    task.kernel.vfs.chroot(task.process.fs, at_path(task, AT_FDCWD, path, 0))
    return 0


@syscall(Sys.MKDIR)
def sys_mkdir(task: Task, path: int, mode: U32) -> int:
    """`mkdir(2)`."""
    return sys_mkdirat(task, AT_FDCWD, path, mode)


@syscall(Sys.MKDIRAT)
def sys_mkdirat(task: Task, dirfd: I32, path: int, mode: U32) -> int:
    """`mkdirat(2)`."""
    name = read_path(task, path)
    task.kernel.vfs.mkdir(task.process.fs, name, mode, base_path(task, dirfd, name))
    return 0


@syscall(Sys.MKNOD)
def sys_mknod(task: Task, path: int, mode: U32, device: U32) -> int:
    """`mknod(2)`."""
    return sys_mknodat(task, AT_FDCWD, path, mode, device)


@syscall(Sys.MKNODAT)
def sys_mknodat(task: Task, dirfd: I32, path: int, mode: U32, device: U32) -> int:
    """`mknodat(2)`."""
    name = read_path(task, path)
    task.kernel.vfs.mknod(task.process.fs, name, mode, device, base_path(task, dirfd, name))
    return 0


@syscall(Sys.UNLINK)
def sys_unlink(task: Task, path: int) -> int:
    """`unlink(2)`."""
    return sys_unlinkat(task, AT_FDCWD, path, 0)


@syscall(Sys.RMDIR)
def sys_rmdir(task: Task, path: int) -> int:
    """`rmdir(2)`."""
    return sys_unlinkat(task, AT_FDCWD, path, AT_REMOVEDIR)


@syscall(Sys.UNLINKAT)
def sys_unlinkat(task: Task, dirfd: I32, path: int, flags: I32) -> int:
    """`unlinkat(2)`."""
    if flags & ~AT_REMOVEDIR:
        raise SysError(errno.EINVAL)
    name = read_path(task, path)
    base = base_path(task, dirfd, name)
    vfs, context = task.kernel.vfs, task.process.fs
    if flags & AT_REMOVEDIR:
        vfs.rmdir(context, name, base)
    else:
        vfs.unlink(context, name, base)
    return 0


@syscall(Sys.RENAME)
def sys_rename(task: Task, old: int, new: int) -> int:
    """`rename(2)`."""
    return sys_renameat2(task, AT_FDCWD, old, AT_FDCWD, new, 0)


@syscall(Sys.RENAMEAT)
def sys_renameat(task: Task, old_fd: I32, old: int, new_fd: I32, new: int) -> int:
    """`renameat(2)`."""
    return sys_renameat2(task, old_fd, old, new_fd, new, 0)


@syscall(Sys.RENAMEAT2)
def sys_renameat2(task: Task, old_fd: I32, old: int, new_fd: I32, new: int, flags: U32) -> int:
    """`renameat2(2)`."""
    old_name, new_name = read_path(task, old), read_path(task, new)
    task.kernel.vfs.rename(
        task.process.fs,
        old_name,
        new_name,
        flags,
        old_base=base_path(task, old_fd, old_name),
        new_base=base_path(task, new_fd, new_name),
    )
    return 0


@syscall(Sys.LINK)
def sys_link(task: Task, old: int, new: int) -> int:
    """`link(2)`."""
    return sys_linkat(task, AT_FDCWD, old, AT_FDCWD, new, 0)


@syscall(Sys.LINKAT)
def sys_linkat(task: Task, old_fd: I32, old: int, new_fd: I32, new: int, flags: I32) -> int:
    """`linkat(2)`."""
    follow = AT_SYMLINK_FOLLOW if not flags & AT_SYMLINK_FOLLOW else 0
    nofollow = AT_SYMLINK_NOFOLLOW if follow else 0
    source = at_path(task, old_fd, old, flags & AT_EMPTY_PATH | nofollow)
    name = read_path(task, new)
    task.kernel.vfs.link(task.process.fs, source, name, base_path(task, new_fd, name))
    return 0


@syscall(Sys.SYMLINK)
def sys_symlink(task: Task, target: int, path: int) -> int:
    """`symlink(2)`."""
    return sys_symlinkat(task, target, AT_FDCWD, path)


@syscall(Sys.SYMLINKAT)
def sys_symlinkat(task: Task, target: int, dirfd: I32, path: int) -> int:
    """`symlinkat(2)`."""
    text, name = read_path(task, target), read_path(task, path)
    task.kernel.vfs.symlink(task.process.fs, text, name, base_path(task, dirfd, name))
    return 0


@syscall(Sys.CHMOD)
def sys_chmod(task: Task, path: int, mode: U32) -> int:
    """`chmod(2)`."""
    return sys_fchmodat2(task, AT_FDCWD, path, mode, 0)


@syscall(Sys.FCHMODAT)
def sys_fchmodat(task: Task, dirfd: I32, path: int, mode: U32) -> int:
    """The system call behind `fchmodat(2)`, which has no flags."""
    return sys_fchmodat2(task, dirfd, path, mode, 0)


@syscall(Sys.FCHMODAT2)
def sys_fchmodat2(task: Task, dirfd: I32, path: int, mode: U32, flags: I32) -> int:
    """`fchmodat2(2)`."""
    found = at_path(task, dirfd, path, flags)
    attributes.chmod(task.process.fs, found.inode, mode)
    return 0


@syscall(Sys.FCHMOD)
def sys_fchmod(task: Task, fd: I32, mode: U32) -> int:
    """`fchmod(2)`."""
    attributes.chmod(task.process.fs, task.process.files.get(fd).inode, mode)
    return 0


@syscall(Sys.CHOWN)
def sys_chown(task: Task, path: int, uid: U32, gid: U32) -> int:
    """`chown(2)`."""
    return sys_fchownat(task, AT_FDCWD, path, uid, gid, 0)


@syscall(Sys.LCHOWN)
def sys_lchown(task: Task, path: int, uid: U32, gid: U32) -> int:
    """`lchown(2)`."""
    return sys_fchownat(task, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)


@syscall(Sys.FCHOWNAT)
def sys_fchownat(task: Task, dirfd: I32, path: int, uid: U32, gid: U32, flags: I32) -> int:
    """`fchownat(2)`."""
    found = at_path(task, dirfd, path, flags)
    attributes.chown(task.process.fs, found.inode, uid, gid)
    return 0


@syscall(Sys.FCHOWN)
def sys_fchown(task: Task, fd: I32, uid: U32, gid: U32) -> int:
    """`fchown(2)`."""
    attributes.chown(task.process.fs, task.process.files.get(fd).inode, uid, gid)
    return 0


@syscall(Sys.TRUNCATE)
def sys_truncate(task: Task, path: int, length: I64) -> int:
    """`truncate(2)`."""
    attributes.truncate(task.process.fs, at_path(task, AT_FDCWD, path, 0).inode, length)
    return 0


@syscall(Sys.UTIMENSAT)
def sys_utimensat(task: Task, dirfd: I32, path: int, times: int, flags: I32) -> int:
    """`utimensat(2)`; a null path means `dirfd` itself."""
    if not path and dirfd != AT_FDCWD:
        task.process.files.get(dirfd)  # not one of O_PATH
    found = at_path(task, dirfd, path, flags if path else flags | AT_EMPTY_PATH)
    now = task.kernel.clock.realtime()
    stamps: list[int | None] = [now, now]
    if times:
        raw = get_struct(task.mm, times, "<qqqq")
        for i in range(2):
            seconds, nanoseconds = raw[2 * i], raw[2 * i + 1]
            if nanoseconds == _UTIME_OMIT:
                stamps[i] = None
            elif nanoseconds != _UTIME_NOW:
                if not 0 <= nanoseconds < NS:
                    raise SysError(errno.EINVAL)
                stamps[i] = seconds * NS + nanoseconds
    if not times:
        attributes.touch(task.process.fs, found.inode)
    elif stamps != [None, None]:
        attributes.utimens(task.process.fs, found.inode, stamps[0], stamps[1])
    return 0


@syscall(Sys.UTIMES, Sys.UTIME)
def sys_utimes(task: Task, path: int, times: int) -> int:
    """`utimes(2)` (and `utime`, whose programs all pass NULL or whole seconds)."""
    inode = at_path(task, AT_FDCWD, path, 0).inode
    if not times:
        attributes.touch(task.process.fs, inode)
    elif task.syscall_number == Sys.UTIME:
        seconds = get_struct(task.mm, times, "<qq")
        attributes.utimens(task.process.fs, inode, seconds[0] * NS, seconds[1] * NS)
    else:
        raw = get_struct(task.mm, times, "<qqqq")
        access, modification = raw[0] * NS + raw[1] * 1000, raw[2] * NS + raw[3] * 1000
        attributes.utimens(task.process.fs, inode, access, modification)
    return 0


@syscall(Sys.STATFS)
def sys_statfs(task: Task, path: int, buffer: int) -> int:
    """`statfs(2)`."""
    found = at_path(task, AT_FDCWD, path, 0)
    copy_to_user(task.mm, buffer, found.inode.sb.statfs().pack())
    return 0


@syscall(Sys.FSTATFS)
def sys_fstatfs(task: Task, fd: I32, buffer: int) -> int:
    """`fstatfs(2)`."""
    copy_to_user(task.mm, buffer, task.process.files.get_raw(fd).inode.sb.statfs().pack())
    return 0


@syscall(Sys.UMASK)
def sys_umask(task: Task, mask: U32) -> int:
    """`umask(2)`."""
    old, task.process.fs.umask = task.process.fs.umask, mask & 0o777
    return old


@syscall(Sys.NAME_TO_HANDLE_AT)
def sys_name_to_handle_at(
    task: Task, dirfd: I32, path: int, handle: int, mount: int, flags: I32
) -> int:
    """`name_to_handle_at(2)`: the model's file systems have no handles."""
    follow = AT_SYMLINK_FOLLOW if flags & AT_SYMLINK_FOLLOW else AT_SYMLINK_NOFOLLOW
    at_path(task, dirfd, path, follow & AT_SYMLINK_NOFOLLOW | flags & AT_EMPTY_PATH)
    raise SysError(errno.EOPNOTSUPP)
