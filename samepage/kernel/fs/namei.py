"""From a path to a file: the walk (fs/namei.c).

The walk goes name by name from the root or from a directory. Symbolic links are replaced by
their text as they are met, at most 40 in one walk; absolute ones start again at the
process's root, and `..` never leaves it. The result is always (directory, last name, what
is there), so that the same walk serves looking up, making and removing.
"""

import enum
import errno

from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import MAY_EXEC, Credentials, FsContext
from samepage.kernel.fs.path import Path
from samepage.records import record

PATH_MAX = 4096
NAME_MAX = 255
MAXSYMLINKS = 40


class LastKind(enum.Enum):
    """What the last part of a path is (`LAST_NORM` and so on). JUMP: a magic link led here."""

    NORM = enum.auto()
    ROOT = enum.auto()
    DOT = enum.auto()
    DOTDOT = enum.auto()
    JUMP = enum.auto()


@record
class Last:
    """Where a walk ended. `child` is None if the name does not exist; `slash` is true if
    slashes followed the name, so that it must be a directory."""

    parent: Path
    name: bytes
    kind: LastKind
    slash: bool
    child: Path | None


def walk(
    ctx: FsContext,
    path: bytes,
    base: Path | None = None,
    *,
    follow: bool,
    slash_follows: bool = True,
    cred: Credentials | None = None,
) -> Last:
    """Walk `path`, from `base` (default: the working directory) if it is relative.

    `follow` is whether a symbolic link at the end is followed; with slashes after it
    `slash_follows` decides instead (false for calls that make and remove names).
    Raises `SysError`: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG.
    """
    cred = cred or ctx.cred
    if not path:
        raise SysError(errno.ENOENT)
    if len(path) >= PATH_MAX:
        raise SysError(errno.ENAMETOOLONG)
    current = ctx.root if path.startswith(b"/") else base or ctx.cwd
    todo = _parts(path)
    slash = path.endswith(b"/")
    links = 0
    last = Last(current, b"/", LastKind.ROOT, slash, current)
    while todo:
        if not current.inode.is_dir:
            raise SysError(errno.ENOTDIR)
        cred.require(current.inode, MAY_EXEC)
        last = _step(ctx, current, todo.pop())
        last.slash = slash and not todo
        child = last.child
        if not todo and not (slash_follows if slash else follow):
            return last
        if child is None:
            if todo:
                raise SysError(errno.ENOENT)
            return last
        if not child.inode.is_symlink:
            current = child
            continue
        links += 1
        if links > MAXSYMLINKS:
            raise SysError(errno.ELOOP)
        magic = child.inode.follow()
        if magic is not None:
            current = magic
            last = Last(current, b"", LastKind.JUMP, slash and not todo, current)
            continue
        target = child.inode.readlink()
        if not target:
            raise SysError(errno.ENOENT)
        if not todo:
            slash |= target.endswith(b"/")
        if target.startswith(b"/"):
            current = ctx.root
            last = Last(current, b"/", LastKind.ROOT, slash, current)
        todo += _parts(target)
    return last


def _parts(path: bytes) -> list[bytes]:
    """The names of a path, last one first."""
    return [part for part in reversed(path.split(b"/")) if part]


def _step(ctx: FsContext, current: Path, name: bytes) -> Last:
    if name == b".":
        return Last(current, name, LastKind.DOT, False, current)
    if name == b"..":
        return Last(current, name, LastKind.DOTDOT, False, parent_of(ctx, current))
    if len(name) > NAME_MAX:
        raise SysError(errno.ENAMETOOLONG)
    return Last(current, name, LastKind.NORM, False, current.child(name))


def parent_of(ctx: FsContext, path: Path) -> Path:
    """`..`: the root of the process is its own parent (`follow_dotdot`)."""
    if path is ctx.root or path.parent is None:
        return path
    return path.parent


def path_name(path: Path, root: Path | None = None) -> bytes:
    """The absolute name of `path` below `root` (default: the machine's root), as `d_path`
    prints it: " (deleted)" follows a removed name; an anonymous file is just its name."""
    if path.parent is None:
        return path.name
    parts: list[bytes] = []
    at: Path | None = path
    while at is not None and at is not root and at.parent is not None:
        parts.append(at.name)
        at = at.parent
    reached = root is None or at is root
    name = b"/" + b"/".join(reversed(parts))
    if not reached:
        name = b"(unreachable)" + name
    return name + (b" (deleted)" if path.deleted else b"")
