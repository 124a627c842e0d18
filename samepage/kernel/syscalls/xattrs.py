"""Extended attributes: of host files as the host has them, changed ones in the model."""

from __future__ import annotations

import errno

from samepage.abi.fcntl import AT_FDCWD, AT_SYMLINK_NOFOLLOW
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs import attributes
from samepage.kernel.fs.inode import Inode
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user, strncpy_from_user
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, syscall
from samepage.kernel.syscalls.usermem import at_path


@syscall(Sys.GETXATTR)
def sys_getxattr(task: Task, path: int, name: int, buffer: int, size: int) -> int:
    """`getxattr(2)`."""
    return _get_xattr(task, at_path(task, AT_FDCWD, path, 0).inode, name, buffer, size)


@syscall(Sys.LGETXATTR)
def sys_lgetxattr(task: Task, path: int, name: int, buffer: int, size: int) -> int:
    """`lgetxattr(2)`."""
    inode = at_path(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode
    return _get_xattr(task, inode, name, buffer, size)


@syscall(Sys.FGETXATTR)
def sys_fgetxattr(task: Task, fd: I32, name: int, buffer: int, size: int) -> int:
    """`fgetxattr(2)`."""
    return _get_xattr(task, task.process.files.get(fd).inode, name, buffer, size)


def _get_xattr(task: Task, inode: Inode, name: int, buffer: int, size: int) -> int:
    key = strncpy_from_user(task.mm, name, 256)
    value = attributes.getxattr(task.process.fs, inode, key)
    return _give(task, value, buffer, size)


def _give(task: Task, value: bytes, buffer: int, size: int) -> int:
    if size:
        if len(value) > size:
            raise SysError(errno.ERANGE)
        copy_to_user(task.mm, buffer, value)
    return len(value)


def _list_xattrs(task: Task, inode: Inode, buffer: int, size: int) -> int:
    names = attributes.listxattr(task.process.fs, inode)
    return _give(task, b"".join(name + b"\0" for name in names), buffer, size)


@syscall(Sys.SETXATTR)
def sys_setxattr(task: Task, path: int, name: int, value: int, size: int, flags: I32) -> int:
    """`setxattr(2)`."""
    inode = at_path(task, AT_FDCWD, path, 0).inode
    return _set_xattr(task, inode, name, value, size, flags)


@syscall(Sys.LSETXATTR)
def sys_lsetxattr(task: Task, path: int, name: int, value: int, size: int, flags: I32) -> int:
    """`lsetxattr(2)`."""
    inode = at_path(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode
    return _set_xattr(task, inode, name, value, size, flags)


@syscall(Sys.FSETXATTR)
def sys_fsetxattr(task: Task, fd: I32, name: int, value: int, size: int, flags: I32) -> int:
    """`fsetxattr(2)`."""
    return _set_xattr(task, task.process.files.get(fd).inode, name, value, size, flags)


def _set_xattr(task: Task, inode: Inode, name: int, value: int, size: int, flags: int) -> int:
    if size > 1 << 16:
        raise SysError(errno.E2BIG)
    key, data = strncpy_from_user(task.mm, name, 256), copy_from_user(task.mm, value, size)
    attributes.setxattr(task.process.fs, inode, key, data, flags)
    return 0


@syscall(Sys.REMOVEXATTR)
def sys_removexattr(task: Task, path: int, name: int) -> int:
    """`removexattr(2)`."""
    inode = at_path(task, AT_FDCWD, path, 0).inode
    attributes.removexattr(task.process.fs, inode, strncpy_from_user(task.mm, name, 256))
    return 0


@syscall(Sys.LISTXATTR)
def sys_listxattr(task: Task, path: int, buffer: int, size: int) -> int:
    """`listxattr(2)`."""
    inode = at_path(task, AT_FDCWD, path, 0).inode
    return _list_xattrs(task, inode, buffer, size)


@syscall(Sys.LLISTXATTR)
def sys_llistxattr(task: Task, path: int, buffer: int, size: int) -> int:
    """`llistxattr(2)`."""
    inode = at_path(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW).inode
    return _list_xattrs(task, inode, buffer, size)


@syscall(Sys.FLISTXATTR)
def sys_flistxattr(task: Task, fd: I32, buffer: int, size: int) -> int:
    """`flistxattr(2)`."""
    inode = task.process.files.get(fd).inode
    return _list_xattrs(task, inode, buffer, size)
