"""Inodes: what a file is, whatever names it has.

An `Inode` holds the attributes; a subclass has what the file does. The content of a regular
file is a thing apart, `inode.mapping` (Linux's `i_mapping`): it has the cached pages, and a
copy-up exchanges it while the inode, its number and its open files stay.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Names

from samepage.kernel.errors import SysError
from samepage.kernel.fs.stat import Stat, StatFs
from samepage.kernel.mm.page_cache import PageCache
from samepage.records import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.file import OpenFile
    from samepage.kernel.fs.locks import FileLocks
    from samepage.kernel.fs.mapping import Mapping
    from samepage.kernel.fs.path import Path

ASK_HOST = -1
"""A birth time that was not asked for yet."""
FIRST_NEW_INO = 1 << 40
"""Inodes that the guest makes on a host file system count from here, out of the way of
the host's numbers."""


@record
class Superblock:
    """One mounted file system, as its inodes know it.

    `clock` returns the time in nanoseconds since the epoch. `statfs` gives its figures.
    """

    dev: int
    type_name: str
    cache: PageCache
    clock: Callable[[], int]
    statfs: Callable[[], StatFs]
    inos: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    birth_time: Callable[[bytes], int | None] = lambda path: None
    """When a host file was made, in ns; None if that is not known."""


class Inode:
    """The attributes of a file (`struct inode`); times are in nanoseconds.

    `host` is the host's path of the file, for attributes that are read on demand, or None
    for a file that is only in the model.

    What a kind of file can do is a method with the answer of all others as its default, as in
    Linux's `inode_operations`. Errors are raised as `SysError`.
    """

    mapping: Mapping | None = None
    """The content, of a file that has pages (`i_mapping`)."""
    takes_names = False
    """A directory in which names can be made and removed (`i_op->create`)."""
    dead = False
    """A directory that was removed: it has no entries, not even to be made (S_DEAD)."""
    executing = 0
    """How many processes run it: it cannot be opened for writing meanwhile
    (`deny_write_access`)."""
    writers = 0
    """How many open files may write to it (`i_writecount`)."""
    seals: int | None = None
    """F_SEAL_*: what may never be done to it again; None if it cannot be sealed."""

    def __init__(
        self, sb: Superblock, mode: int, *, ino: int = 0, nlink: int = 1, rdev: int = 0
    ) -> None:
        self.sb = sb
        self.dev = sb.dev
        self.ino = ino or next(sb.inos)
        self.mode = mode
        self.uid = 0
        self.gid = 0
        self.nlink = nlink
        self.rdev = rdev
        self.blksize = 4096
        self.atime = self.mtime = self.ctime = sb.clock()
        self.btime: int | None = self.atime
        self.host: bytes | None = None
        self.host_blocks = 0
        self.altered = False
        """The guest changed attributes of a host file."""
        self.xattrs: dict[bytes, bytes] | None = None
        self.locks: FileLocks | None = None

    @property
    def size(self) -> int:
        """The length in bytes, as `st_size` shows it."""
        return 0

    @property
    def blocks(self) -> int:
        """Allocated blocks of 512 bytes; a host file's as the host reports them."""
        return self.host_blocks

    @property
    def write_sealed(self) -> bool:
        """Whether new writable shared mappings and writes are forbidden for good."""
        return False

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link, a magic one of /proc included."""
        return stat.S_ISLNK(self.mode)

    def stat(self) -> Stat:
        """All attributes, as `fstat` returns them (`generic_fillattr`)."""
        if self.btime == ASK_HOST and self.host is not None:
            self.btime = self.sb.birth_time(self.host)
        return Stat(
            dev=self.dev,
            ino=self.ino,
            mode=self.mode,
            nlink=self.nlink,
            uid=self.uid,
            gid=self.gid,
            rdev=self.rdev,
            size=self.size,
            blksize=self.blksize,
            blocks=self.blocks,
            atime_ns=self.atime,
            mtime_ns=self.mtime,
            ctime_ns=self.ctime,
            btime_ns=self.btime,
        )

    def adopt(self, host: os.stat_result, path: bytes) -> None:
        """Take over the attributes of a host file."""
        self.ino, self.nlink, self.rdev = host.st_ino, host.st_nlink, host.st_rdev
        self.uid, self.gid = host.st_uid, host.st_gid
        self.atime, self.mtime, self.ctime = host.st_atime_ns, host.st_mtime_ns, host.st_ctime_ns
        self.btime = ASK_HOST
        self.blksize, self.host_blocks = host.st_blksize, host.st_blocks
        self.host = path

    def alter(self) -> None:
        """Attributes changed: ctime is now."""
        self.altered = True
        self.ctime = self.sb.clock()

    def remove_privileges(self) -> None:
        """Content or owner changed: a program must not keep the owner's rights
        (`setattr_should_drop_suidgid`; the group's bit without execution means locking)."""
        self.mode &= ~(stat.S_ISUID | (stat.S_ISGID if self.mode & stat.S_IXGRP else 0))

    def touch(self) -> None:
        """Content changed: mtime and ctime are now."""
        self.mtime = self.ctime = self.sb.clock()

    def lookup(self, name: bytes) -> Inode | None:
        """The entry `name`, None if there is none. Raises `SysError(ENOTDIR)`."""
        raise SysError(errno.ENOTDIR)

    def add(self, name: bytes, inode: Inode) -> None:
        """Make the entry `name`, which must not exist, in a directory that takes names."""
        raise SysError(errno.EPERM)

    def remove(self, name: bytes) -> None:
        """Remove an existing entry of a directory that takes names."""
        raise SysError(errno.EPERM)

    def is_empty(self) -> bool:
        """Whether a directory can be removed (`simple_empty`)."""
        raise SysError(errno.EPERM)

    def changes(self) -> Names[bytes, Inode | None]:
        """The entries of a directory that the guest has made or looked up; None for one that
        it has removed."""
        return {}

    def below(self, name: bytes) -> Inode | None:
        """What lies below the guest's changes under the name `name`."""
        return None

    def dropped(self) -> None:
        """A name or an open file of it is gone."""

    def add_seals(self, seals: int) -> None:
        """F_ADD_SEALS. Raises `SysError` with EINVAL, or EPERM if sealing is over."""
        raise SysError(errno.EINVAL)

    def open(self, path: Path, flags: int) -> OpenFile:
        """Make an open file; permissions are checked. Raises `SysError`."""
        raise SysError(errno.ENXIO)

    def truncate(self, size: int) -> None:
        """Change the length. Raises `SysError(EINVAL)` where there is none to change."""
        raise SysError(errno.EINVAL)

    def readlink(self) -> bytes:
        """The target of a symbolic link. Raises `SysError(EINVAL)` for anything else."""
        raise SysError(errno.EINVAL)

    def follow(self) -> Path | None:
        """Where a magic link leads; None if it is resolved by its text."""
        return None

    def get_xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes; a host file's are read from the host."""
        if self.xattrs is None:
            self.xattrs = _host_xattrs(self.host) if self.host is not None else {}
        return self.xattrs


class Symlink(Inode):
    """A symbolic link with a fixed text."""

    def __init__(self, sb: Superblock, target: bytes) -> None:
        super().__init__(sb, stat.S_IFLNK | 0o777)
        self.target = target

    @property
    def size(self) -> int:
        """The length of the target's text."""
        return len(self.target)

    def readlink(self) -> bytes:
        """The target's text."""
        return self.target

    def open(self, path: Path, flags: int) -> OpenFile:
        """A link itself cannot be opened (`may_open`)."""
        raise SysError(errno.ELOOP)


def _host_xattrs(path: bytes) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}
    except OSError:
        return {}
