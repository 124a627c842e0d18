"""Attributes of files: mode, owner, times, length, extended attributes (fs/attr.c, fs/xattr.c).

They take an inode that was looked up before, so that the calls by path and by descriptor
are the same. A change stays in the model's inode; the content of a host file is not copied
for it (overlayfs calls that a metadata-only copy-up).
"""

import errno
import stat

from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import MAY_EXEC, MAY_READ, MAY_WRITE, FsContext
from samepage.kernel.fs.inode import Inode

XATTR_CREATE, XATTR_REPLACE = 1, 2
XATTR_NAME_MAX, XATTR_SIZE_MAX = 255, 65536
KEEP_ID = 0xFFFF_FFFF
"""`chown` to -1: leave it."""


def chmod(ctx: FsContext, inode: Inode, mode: int) -> None:
    """`chmod`. Raises `SysError`: EPERM if not the owner, EOPNOTSUPP for a symlink."""
    if inode.is_symlink:
        raise SysError(errno.EOPNOTSUPP)
    if not ctx.cred.owns(inode):
        raise SysError(errno.EPERM)
    mode &= 0o7777
    if not ctx.cred.privileged and not ctx.cred.in_group(inode.gid):
        mode &= ~stat.S_ISGID
    inode.mode = stat.S_IFMT(inode.mode) | mode
    inode.alter()


def chown(ctx: FsContext, inode: Inode, uid: int, gid: int) -> None:
    """`chown`; -1 (as an unsigned 32-bit number too) leaves an id. Raises `SysError(EPERM)`."""
    uid, gid = uid & KEEP_ID, gid & KEEP_ID
    cred = ctx.cred
    if not cred.privileged:
        own = cred.fsuid == inode.uid
        if uid != KEEP_ID and not (own and uid == inode.uid):
            raise SysError(errno.EPERM)
        if gid != KEEP_ID and not (own and (gid == inode.gid or cred.in_group(gid))):
            raise SysError(errno.EPERM)
    if uid != KEEP_ID:
        inode.uid = uid
    if gid != KEEP_ID:
        inode.gid = gid
    if not inode.is_dir:
        inode.remove_privileges()
    inode.alter()


def utimens(ctx: FsContext, inode: Inode, atime: int | None, mtime: int | None) -> None:
    """Set the times, in ns; None leaves one. Raises `SysError(EPERM)` if not the owner."""
    if atime is None and mtime is None:
        return
    if not ctx.cred.owns(inode):
        raise SysError(errno.EPERM)
    _set_times(inode, atime, mtime)


def touch(ctx: FsContext, inode: Inode) -> None:
    """Set both times to now, for which write permission is enough. Raises `SysError(EACCES)`."""
    if not ctx.cred.owns(inode):
        ctx.cred.require(inode, MAY_WRITE)
    now = inode.sb.clock()
    _set_times(inode, now, now)


def _set_times(inode: Inode, atime: int | None, mtime: int | None) -> None:
    if atime is not None:
        inode.atime = atime
    if mtime is not None:
        inode.mtime = mtime
    inode.alter()


def truncate(ctx: FsContext, inode: Inode, size: int) -> None:
    """`truncate` by path. Raises `SysError`: EISDIR, EINVAL, EACCES, ETXTBSY, EFBIG."""
    if size < 0:
        raise SysError(errno.EINVAL)
    if inode.is_dir:
        raise SysError(errno.EISDIR)
    if not stat.S_ISREG(inode.mode):
        raise SysError(errno.EINVAL)
    ctx.cred.require(inode, MAY_WRITE)
    if inode.executing:
        raise SysError(errno.ETXTBSY)
    inode.truncate(size)
    if not ctx.cred.privileged:
        inode.remove_privileges()


def access(ctx: FsContext, inode: Inode, mode: int, *, effective: bool = False) -> None:
    """`faccessat2`: R_OK | W_OK | X_OK with the real ids, or the effective ones.

    The path itself must have been walked with `ctx.cred.for_access()` to be exact. Raises
    `SysError` with EACCES or EINVAL.
    """
    if mode & ~(MAY_READ | MAY_WRITE | MAY_EXEC):
        raise SysError(errno.EINVAL)
    cred = ctx.cred if effective else ctx.cred.for_access()
    if mode:
        cred.require(inode, mode)


def getxattr(ctx: FsContext, inode: Inode, name: bytes) -> bytes:
    """The value of an extended attribute. Raises `SysError` with ENODATA, EOPNOTSUPP,
    ERANGE or EACCES."""
    _check_xattr(inode, name)
    if name.startswith(b"user."):
        ctx.cred.require(inode, MAY_READ)
    value = inode.get_xattrs().get(name)
    if value is None:
        raise SysError(errno.ENODATA)
    return value


def listxattr(ctx: FsContext, inode: Inode) -> list[bytes]:
    """The names of the extended attributes; `trusted.` only for the privileged."""
    hidden = () if ctx.cred.privileged else (b"trusted.",)
    return [name for name in inode.get_xattrs() if not name.startswith(hidden or b"\0")]


def setxattr(ctx: FsContext, inode: Inode, name: bytes, value: bytes, flags: int = 0) -> None:
    """Set an extended attribute, in the model. Raises `SysError`."""
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise SysError(errno.EINVAL)
    if len(value) > XATTR_SIZE_MAX:
        raise SysError(errno.E2BIG)
    _check_xattr(inode, name)
    _check_xattr_change(ctx, inode, name)
    values = inode.get_xattrs()
    if flags & XATTR_CREATE and name in values:
        raise SysError(errno.EEXIST)
    if flags & XATTR_REPLACE and name not in values:
        raise SysError(errno.ENODATA)
    values[name] = value
    inode.alter()


def removexattr(ctx: FsContext, inode: Inode, name: bytes) -> None:
    """Remove an extended attribute, in the model. Raises `SysError`."""
    _check_xattr(inode, name)
    _check_xattr_change(ctx, inode, name)
    if inode.get_xattrs().pop(name, None) is None:
        raise SysError(errno.ENODATA)
    inode.alter()


def _check_xattr(inode: Inode, name: bytes) -> None:
    if not 0 < len(name) <= XATTR_NAME_MAX:
        raise SysError(errno.ERANGE)
    if not name.startswith((b"user.", b"security.", b"trusted.", b"system.posix_acl_")):
        raise SysError(errno.EOPNOTSUPP)
    if inode.sb.type_name in ("proc", "sysfs") and not name.startswith(b"security."):
        raise SysError(errno.EOPNOTSUPP)


def _check_xattr_change(ctx: FsContext, inode: Inode, name: bytes) -> None:
    if name.startswith(b"user."):
        if not (stat.S_ISREG(inode.mode) or inode.is_dir):
            raise SysError(errno.EPERM)
        ctx.cred.require(inode, MAY_WRITE)
    elif not ctx.cred.privileged:
        raise SysError(errno.EPERM)
