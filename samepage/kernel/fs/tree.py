"""Making, removing and renaming names (the second half of fs/namei.c).

All of it happens in the model's directories; nothing reaches the host.
"""

import errno
import stat
from collections.abc import Callable

from samepage.abi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE
from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import MAY_EXEC, MAY_READ, MAY_WRITE, Credentials, FsContext
from samepage.kernel.fs.devices import Device, Drivers
from samepage.kernel.fs.directory import Directory
from samepage.kernel.fs.inode import Inode, Superblock, Symlink
from samepage.kernel.fs.namei import PATH_MAX, Last, LastKind, walk
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.pipe import Fifo
from samepage.kernel.fs.regular import Regular


class Tree:
    """The operations on names. `base` is where a relative path starts (default: cwd)."""

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers

    def mkdir(self, ctx: FsContext, path: bytes, mode: int, base: Path | None = None) -> None:
        """`mkdirat`. Raises `SysError`."""
        last = _for_create(ctx, path, base, directory=True)
        mode = mode & 0o1777 & ~ctx.umask
        create(ctx, last, lambda sb: Directory(sb, mode))

    def mknod(
        self, ctx: FsContext, path: bytes, mode: int, rdev: int = 0, base: Path | None = None
    ) -> Inode:
        """`mknodat`; also what binds a socket (S_IFSOCK). Returns the new inode."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFDIR:
            raise SysError(errno.EPERM)
        if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise SysError(errno.EINVAL)
        last = _for_create(ctx, path, base)
        mode = mode & 0o7777 & ~ctx.umask
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and not ctx.cred.privileged:
            raise SysError(errno.EPERM)

        def make(sb: Superblock) -> Inode:
            if kind == stat.S_IFREG:
                return Regular(sb, mode)
            if kind == stat.S_IFIFO:
                return Fifo(sb, mode)
            if kind == stat.S_IFSOCK:
                return Inode(sb, kind | mode)  # only its family knows what it names
            return Device(sb, kind | mode, self._drivers, rdev=rdev)

        return create(ctx, last, make).inode

    def symlink(self, ctx: FsContext, target: bytes, path: bytes, base: Path | None = None) -> None:
        """`symlinkat`. Raises `SysError`."""
        if not target:
            raise SysError(errno.ENOENT)
        if len(target) >= PATH_MAX:
            raise SysError(errno.ENAMETOOLONG)
        last = _for_create(ctx, path, base)
        create(ctx, last, lambda sb: Symlink(sb, target))

    def link(
        self,
        ctx: FsContext,
        old: Path,
        path: bytes,
        base: Path | None = None,
    ) -> None:
        """`linkat`: give the file at `old` (looked up before) one more name.

        Raises `SysError`; EPERM also for another's file that the caller could not write
        (`may_linkat`, with the usual fs.protected_hardlinks of 1).
        """
        last = _for_create(ctx, path, base)
        inode = old.inode
        if inode.sb is not last.parent.inode.sb:
            raise SysError(errno.EXDEV)
        if not ctx.cred.owns(inode) and not _safe_to_link(ctx.cred, inode):
            raise SysError(errno.EPERM)
        directory = _writable_directory(ctx.cred, last.parent)
        if inode.is_dir:
            raise SysError(errno.EPERM)
        inode.nlink += 1
        inode.ctime = inode.sb.clock()
        directory.add(last.name, inode)

    def unlink(self, ctx: FsContext, path: bytes, base: Path | None = None) -> None:
        """`unlinkat`. Raises `SysError`."""
        last = walk(ctx, path, base, follow=False, slash_follows=False)
        if last.kind is not LastKind.NORM:
            raise SysError(errno.EISDIR)
        if last.child is None:
            raise SysError(errno.ENOENT)
        if last.slash:
            raise SysError(errno.EISDIR if last.child.inode.is_dir else errno.ENOTDIR)
        directory = _check_delete(ctx.cred, last.parent, last.child, directory=False)
        directory.remove(last.name)
        _drop_name(last.child)

    def rmdir(self, ctx: FsContext, path: bytes, base: Path | None = None) -> None:
        """`unlinkat` with AT_REMOVEDIR. Raises `SysError`."""
        last = walk(ctx, path, base, follow=False, slash_follows=False)
        if last.kind is LastKind.DOTDOT:
            raise SysError(errno.ENOTEMPTY)
        if last.kind is LastKind.DOT:
            raise SysError(errno.EINVAL)
        if last.kind is not LastKind.NORM:
            raise SysError(errno.EBUSY)
        if last.child is None:
            raise SysError(errno.ENOENT)
        directory = _check_delete(ctx.cred, last.parent, last.child, directory=True)
        _check_empty(last.child.inode)
        directory.remove(last.name)
        _drop_name(last.child)

    def rename(
        self,
        ctx: FsContext,
        old: bytes,
        new: bytes,
        flags: int = 0,
        old_base: Path | None = None,
        new_base: Path | None = None,
    ) -> None:
        """`renameat2`, with RENAME_NOREPLACE or RENAME_EXCHANGE. Raises `SysError`."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == 3:
            raise SysError(errno.EINVAL)
        source = walk(ctx, old, old_base, follow=False, slash_follows=False)
        target = walk(ctx, new, new_base, follow=False, slash_follows=False)
        if source.parent.inode.sb is not target.parent.inode.sb:
            raise SysError(errno.EXDEV)
        if source.kind is not LastKind.NORM:
            raise SysError(errno.EBUSY)
        if target.kind is not LastKind.NORM:
            raise SysError(errno.EEXIST if flags & RENAME_NOREPLACE else errno.EBUSY)
        _check_rename(source, target, flags)
        assert source.child is not None, "checked above"
        if target.child is not None and target.child.inode is source.child.inode:
            return
        if flags & RENAME_EXCHANGE:
            _exchange(ctx.cred, source, target)
        else:
            _replace(ctx.cred, source, target)


def create(ctx: FsContext, last: Last, make: Callable[[Superblock], Inode]) -> Path:
    """Make an inode with `make` and name it. The caller checked that the name is free.

    Raises `SysError`: EACCES, or ENOENT in a removed directory.
    """
    directory = _writable_directory(ctx.cred, last.parent)
    inode = make(directory.sb)
    own(ctx.cred, directory, inode)
    directory.add(last.name, inode)
    path = last.parent.child(last.name)
    assert path is not None, "it was just added"
    return path


def own(cred: Credentials, directory: Inode, inode: Inode) -> None:
    """Owner and group of a new inode (`inode_init_owner`)."""
    inode.uid = cred.fsuid
    inode.gid = cred.fsgid
    if directory.mode & stat.S_ISGID:
        inode.gid = directory.gid
        if inode.is_dir:
            inode.mode |= stat.S_ISGID


def _for_create(ctx: FsContext, path: bytes, base: Path | None, *, directory: bool = False) -> Last:
    """Walk to a name that must not exist (`filename_create`)."""
    last = walk(ctx, path, base, follow=False, slash_follows=False)
    if last.kind is not LastKind.NORM or last.child is not None:
        raise SysError(errno.EEXIST)
    _check_alive(last)
    if last.slash and not directory:
        raise SysError(errno.ENOENT)
    return last


def _safe_to_link(cred: Credentials, inode: Inode) -> bool:
    """`safe_hardlink_source`."""
    setgid = stat.S_ISGID | stat.S_IXGRP
    return (
        stat.S_ISREG(inode.mode)
        and not inode.mode & stat.S_ISUID
        and inode.mode & setgid != setgid
        and cred.may(inode, MAY_READ | MAY_WRITE)
    )


def _check_alive(last: Last) -> None:
    """A removed directory has no entries, not even to be made (`lookup_one_qstr_excl`)."""
    if last.parent.inode.dead:
        raise SysError(errno.ENOENT)


def _writable_directory(cred: Credentials, path: Path) -> Inode:
    """The directory, if an entry may be made in it (`may_create`)."""
    directory = path.inode
    if not directory.takes_names:
        raise SysError(errno.ENOENT)  # /proc and /sys take nothing
    if directory.dead:
        raise SysError(errno.ENOENT)
    cred.require(directory, MAY_WRITE | MAY_EXEC)
    return directory


def _check_delete(cred: Credentials, parent: Path, child: Path, *, directory: bool) -> Inode:
    """Whether `child` may be taken out of `parent` (`may_delete`)."""
    holder = parent.inode
    if not holder.takes_names:
        raise SysError(errno.EPERM)
    cred.require(holder, MAY_WRITE | MAY_EXEC)
    inode = child.inode
    sticky = holder.mode & stat.S_ISVTX and cred.fsuid not in (inode.uid, holder.uid)
    if sticky and not cred.privileged:
        raise SysError(errno.EPERM)
    if directory and not inode.is_dir:
        raise SysError(errno.ENOTDIR)
    if not directory and inode.is_dir:
        raise SysError(errno.EISDIR)
    if child.parent is not parent or _is_mount_root(child):
        raise SysError(errno.EBUSY)
    return holder


def _is_mount_root(path: Path) -> bool:
    return path.parent is None or path.mount_id != path.parent.mount_id


def _check_empty(inode: Inode) -> None:
    if not inode.is_empty():
        raise SysError(errno.ENOTEMPTY)


def _drop_name(path: Path) -> None:
    """An entry was removed: the inode has one link less."""
    inode = path.inode
    path.deleted = True
    if path.parent is not None:
        path.parent.children.pop(path.name, None)
    if inode.is_dir:
        inode.dead = True
        inode.nlink = 0
    else:
        inode.nlink -= 1
    inode.ctime = inode.sb.clock()
    inode.dropped()


def _check_rename(source: Last, target: Last, flags: int) -> None:
    """The checks of `do_renameat2` before it calls `vfs_rename`."""
    if source.child is None:
        raise SysError(errno.ENOENT)
    _check_alive(target)
    if flags & RENAME_NOREPLACE and target.child is not None:
        raise SysError(errno.EEXIST)
    if flags & RENAME_EXCHANGE:
        if target.child is None:
            raise SysError(errno.ENOENT)
        if target.slash and not target.child.inode.is_dir:
            raise SysError(errno.ENOTDIR)
    if not source.child.inode.is_dir and (
        source.slash or (target.slash and not flags & RENAME_EXCHANGE)
    ):
        raise SysError(errno.ENOTDIR)
    if target.parent.is_below(source.child):
        raise SysError(errno.EINVAL)
    if target.child is not None and source.parent.is_below(target.child):
        raise SysError(errno.EINVAL if flags & RENAME_EXCHANGE else errno.ENOTEMPTY)


def _replace(cred: Credentials, source: Last, target: Last) -> None:
    """`vfs_rename`."""
    child = source.child
    assert child is not None, "checked by the caller"
    is_dir = child.inode.is_dir
    old_directory = _check_delete(cred, source.parent, child, directory=is_dir)
    if target.child is None:
        new_directory = _writable_directory(cred, target.parent)
    else:
        new_directory = _check_delete(cred, target.parent, target.child, directory=is_dir)
    if is_dir and new_directory is not old_directory:
        cred.require(child.inode, MAY_WRITE)
    if target.child is not None:
        if is_dir:
            _check_empty(target.child.inode)
        new_directory.remove(target.name)
        _drop_name(target.child)
    old_directory.remove(source.name)
    new_directory.add(target.name, child.inode)
    child.move(target.parent, target.name)
    child.inode.ctime = child.inode.sb.clock()


def _exchange(cred: Credentials, source: Last, target: Last) -> None:
    first, second = source.child, target.child
    assert first is not None, "checked by the caller"
    assert second is not None, "checked by the caller"
    one = _check_delete(cred, source.parent, first, directory=first.inode.is_dir)
    two = _check_delete(cred, target.parent, second, directory=second.inode.is_dir)
    one.remove(source.name)
    two.remove(target.name)
    one.add(source.name, second.inode)
    two.add(target.name, first.inode)
    first.move(target.parent, target.name)
    second.move(source.parent, source.name)
    source.parent.children[source.name] = second
    target.parent.children[target.name] = first
