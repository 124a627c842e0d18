"""The virtual file system: mounts, looking up and opening.

    /            the files of a `RootFs`, changes kept in RAM
    /dev         devices of the model
    /dev/shm     memory
    /proc        the model's processes
    /sys         what programs ask about the CPU

Paths are bytes, as on Linux. Each call gets the caller's `FsContext` first:
where `/` and `.` are, and with which credentials.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable

from samepage.abi.fcntl import O_LARGEFILE, O_TMPFILE
from samepage.kernel.errors import SysError
from samepage.kernel.fs import attributes, devtree, procfs, sysfs
from samepage.kernel.fs.context import (
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    Credentials,
    FsContext,
)
from samepage.kernel.fs.devices import TTY, memory_drivers
from samepage.kernel.fs.directory import Directory
from samepage.kernel.fs.file import OpenFile, PathFile
from samepage.kernel.fs.hostfs import HostFs
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.mount import Mount
from samepage.kernel.fs.namei import Last, LastKind, path_name, walk
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.pipe import make_pipe
from samepage.kernel.fs.procfs import ProcFs
from samepage.kernel.fs.regular import Regular
from samepage.kernel.fs.stat import Stat, StatFs
from samepage.kernel.fs.stdio import Stdio
from samepage.kernel.fs.tree import Tree, create, own
from samepage.kernel.mm.page_cache import PageCache

TYPE_CHECKING = False
if TYPE_CHECKING:  # few programs need these
    from samepage.kernel.fs.epoll import Epoll
    from samepage.kernel.fs.eventfd import EventFd
    from samepage.kernel.fs.memfd import MemfdFile
    from samepage.kernel.fs.rootfs import RootFs
    from samepage.kernel.fs.timerfd import TimerFd

PIPEFS_MAGIC, ANON_INODE_FS_MAGIC = 0x50495045, 0x09041934
FIRST_MODEL_DEVICE = os.makedev(0, 1000)
"""Device numbers of the model's own file systems count from here, away from the host's."""


class Vfs(Tree):
    """All files of one machine.

    `root` has the files that guests see as `/`; `clock` returns the time
    in ns since the epoch; `seed` decides what /dev/urandom gives.

    Raises `SysError` if `root` is no readable directory.
    """

    def __init__(
        self,
        cache: PageCache,
        root: RootFs,
        clock: Callable[[], int] = lambda: 0,
        seed: int = 0,
    ) -> None:
        self.cache = cache
        self.clock = clock
        self.random = random.Random(seed)
        self.drivers = memory_drivers(self.random)
        super().__init__(self.drivers)
        self.hostfs = HostFs(cache, clock, self.drivers)
        self._n_devices = 0
        self.root_fs = root
        self.root = Path(root.root(self.hostfs, self.superblock, self.drivers))
        self.mounts: list[Mount] = [Mount(self.root, "overlay")]
        self._mount_points: set[Inode] = set()
        """Directories that were made only to mount on."""
        self.pipefs = self.superblock("pipefs", PIPEFS_MAGIC)
        self.anonfs = self.superblock("anon_inodefs", ANON_INODE_FS_MAGIC)
        self.shm = self._shmem_superblock()
        self.proc = ProcFs(self.superblock("proc", procfs.MAGIC), self.mounts)
        self.mount(b"/proc", self.proc.root)
        self.mount(b"/sys", sysfs.make_root(self.superblock("sysfs", sysfs.MAGIC), self.proc))
        tmpfs = devtree.TMPFS_MAGIC
        dev = devtree.make_root(self.superblock("devtmpfs", tmpfs), self.drivers)
        self.mount(b"/dev", dev)
        self.stdio = Stdio(self.superblock("hostfd", 0), self.hostfs, dev)
        self.drivers[TTY] = self.stdio.open_tty
        self.mount(b"/dev/shm", Directory(self.superblock("tmpfs", tmpfs), 0o1777))

    def superblock(self, type_name: str, magic: int) -> Superblock:
        """A new file system of the model, with a device number of its own."""
        dev = FIRST_MODEL_DEVICE + self._n_devices
        self._n_devices += 1
        return Superblock(dev, type_name, self.cache, self.clock, lambda: StatFs(type=magic))

    def _shmem_superblock(self) -> Superblock:
        """The tmpfs without names that memfd and shared anonymous memory live in."""
        shmem = self.cache.shmem
        figures = StatFs(type=devtree.TMPFS_MAGIC)
        inos = (shmem.create(0).ino for _ in itertools.count())
        return Superblock(shmem.DEV, "tmpfs", self.cache, self.clock, lambda: figures, inos)

    def mount(self, place: bytes, root: Inode) -> Path:
        """Cover the directory `place` with another file system; the directory is made (in
        the model) where the host has none."""
        ctx = self.context()
        if walk(ctx, place, follow=False).child is None:
            self.mkdir(ctx, place, 0o755)
            self._mount_points.add(self.lookup(ctx, place).inode)
        at = self.lookup(ctx, place)
        at.mounted = Path(root, at.name, at.parent, len(self.mounts) + 1)
        self.mounts.append(Mount(at.mounted, root.sb.type_name))
        return at.mounted

    def context(self, cred: Credentials | None = None, cwd: bytes = b"/") -> FsContext:
        """A context at the machine's root, with working directory `cwd`.

        Raises `SysError` if `cwd` is no directory that `cred` may enter.
        """
        ctx = FsContext(self.root, self.root, cred=cred or Credentials())
        if cwd != b"/":
            self.chdir(ctx, self.lookup(ctx, cwd))
        return ctx

    def lookup(
        self,
        ctx: FsContext,
        path: bytes,
        *,
        follow: bool = True,
        base: Path | None = None,
        empty: bool = False,
        cred: Credentials | None = None,
    ) -> Path:
        """The file that `path` names. `empty`: an empty path means `base` itself, or the
        working directory (AT_EMPTY_PATH). `cred` overrides the context's. Raises `SysError`.
        """
        if empty and not path:
            return base or ctx.cwd
        last = walk(ctx, path, base, follow=follow, cred=cred)
        if last.child is None:
            raise SysError(errno.ENOENT)
        if last.slash and not last.child.inode.is_dir:
            raise SysError(errno.ENOTDIR)
        return last.child

    def path_name(self, path: Path, root: Path | None = None) -> str:
        """The absolute name of `path`, as /proc/PID/maps shows it."""
        return os.fsdecode(path_name(path, root))

    def stat(
        self,
        ctx: FsContext,
        path: bytes,
        *,
        follow: bool = True,
        base: Path | None = None,
        empty: bool = False,
    ) -> Stat:
        """`newfstatat`, `statx`."""
        return self.stat_path(self.lookup(ctx, path, follow=follow, base=base, empty=empty))

    def stat_path(self, path: Path) -> Stat:
        """The attributes of a file that was looked up, with those of its mount."""
        result = path.inode.stat()
        result.mount_id = path.mount_id
        result.mount_root = path.parent is None or path.parent.mount_id != path.mount_id
        return result

    def statfs(self, path: Path) -> StatFs:
        """The figures of the file system that a file is on."""
        return path.inode.sb.statfs()

    def readlink(self, ctx: FsContext, path: bytes, base: Path | None = None) -> bytes:
        """`readlinkat`; an empty path means `base` itself. Raises `SysError`."""
        found = self.lookup(ctx, path, follow=False, base=base, empty=base is not None)
        return found.inode.readlink()

    def access(
        self,
        ctx: FsContext,
        path: bytes,
        mode: int,
        *,
        effective: bool = False,
        follow: bool = True,
        base: Path | None = None,
        empty: bool = False,
    ) -> None:
        """`faccessat2`. Raises `SysError`."""
        cred = ctx.cred if effective else ctx.cred.for_access()
        found = self.lookup(ctx, path, follow=follow, base=base, empty=empty, cred=cred)
        attributes.access(ctx, found.inode, mode, effective=effective)

    def getcwd(self, ctx: FsContext) -> bytes:
        """The working directory's name. Raises `SysError(ENOENT)` if it was removed."""
        if ctx.cwd.inode.dead:
            raise SysError(errno.ENOENT)
        return path_name(ctx.cwd, ctx.root)

    def chdir(self, ctx: FsContext, path: Path) -> None:
        """Change the working directory. Raises `SysError` with ENOTDIR or EACCES."""
        if not path.inode.is_dir:
            raise SysError(errno.ENOTDIR)
        ctx.cred.require(path.inode, MAY_EXEC)
        ctx.cwd = path

    def chroot(self, ctx: FsContext, path: Path) -> None:
        """Change the root. Raises `SysError` with ENOTDIR, EACCES or EPERM."""
        if not path.inode.is_dir:
            raise SysError(errno.ENOTDIR)
        ctx.cred.require(path.inode, MAY_EXEC)
        if not ctx.cred.privileged:
            raise SysError(errno.EPERM)
        ctx.root = path

    def open(
        self, ctx: FsContext, path: bytes, flags: int, mode: int = 0, base: Path | None = None
    ) -> OpenFile:
        """`openat`. The file's `opening` is whether the descriptor must still wait (a
        FIFO without its other end). Raises `SysError`."""
        if flags & os.O_PATH:
            return self._open_path(ctx, path, flags, base)
        if flags & O_TMPFILE == O_TMPFILE:
            return self._open_tmpfile(ctx, path, flags, mode, base)
        if flags & os.O_CREAT and flags & os.O_DIRECTORY:
            raise SysError(errno.EINVAL)
        exclusive = flags & os.O_CREAT and flags & os.O_EXCL
        follow = not (flags & os.O_NOFOLLOW or exclusive)
        last = walk(ctx, path, base, follow=follow, slash_follows=not flags & os.O_CREAT)
        if flags & os.O_CREAT:
            created = self._open_create(ctx, last, flags, mode)
            if created is not None:
                file = created.inode.open(created, _status(flags & ~os.O_TRUNC))
                file.privileged = ctx.cred.privileged
                return file
        if last.child is None:
            raise SysError(errno.ENOENT)
        if (last.slash or flags & os.O_DIRECTORY) and not last.child.inode.is_dir:
            raise SysError(errno.ENOTDIR)
        return self.open_inode(ctx, last.child, flags)

    def _open_create(self, ctx: FsContext, last: Last, flags: int, mode: int) -> Path | None:
        """The O_CREAT side: the new file, None if it exists (`lookup_open`)."""
        if last.kind is LastKind.NORM and last.slash:
            raise SysError(errno.EISDIR)
        if last.child is not None:
            if flags & os.O_EXCL:
                raise SysError(errno.EEXIST)
            if last.child.inode.is_dir:
                raise SysError(errno.EISDIR)
            return None
        mode = mode & 0o7777 & ~ctx.umask
        return create(ctx, last, lambda sb: Regular(sb, mode))

    def open_inode(self, ctx: FsContext, path: Path, flags: int) -> OpenFile:
        """Open a file that was looked up, if permitted (`may_open`, `do_dentry_open`)."""
        inode = path.inode
        mask = 0
        if flags & os.O_ACCMODE != os.O_WRONLY:
            mask |= MAY_READ
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            mask |= MAY_WRITE
        if inode.is_symlink:
            raise SysError(errno.ELOOP)
        if inode.is_dir and mask & MAY_WRITE:
            raise SysError(errno.EISDIR)
        ctx.cred.require(inode, mask)
        if flags & os.O_NOATIME and not ctx.cred.owns(inode):
            raise SysError(errno.EPERM)
        file = inode.open(path, _status(flags))
        file.privileged = ctx.cred.privileged
        if flags & os.O_TRUNC and not file.privileged and not inode.is_dir:
            inode.remove_privileges()
        return file

    def _open_path(self, ctx: FsContext, path: bytes, flags: int, base: Path | None) -> OpenFile:
        found = self.lookup(ctx, path, follow=not flags & os.O_NOFOLLOW, base=base)
        if flags & os.O_DIRECTORY and not found.inode.is_dir:
            raise SysError(errno.ENOTDIR)
        return PathFile(found, flags & (os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))

    def _open_tmpfile(
        self, ctx: FsContext, path: bytes, flags: int, mode: int, base: Path | None
    ) -> OpenFile:
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise SysError(errno.EINVAL)
        where = self.lookup(ctx, path, base=base)
        directory = where.inode
        if not directory.takes_names:
            raise SysError(errno.EOPNOTSUPP if directory.is_dir else errno.ENOTDIR)
        ctx.cred.require(directory, MAY_WRITE | MAY_EXEC)
        inode = Regular(directory.sb, mode & 0o7777 & ~ctx.umask)
        inode.nlink = 0
        own(ctx.cred, directory, inode)
        unnamed = Path(inode, b"#%d" % inode.ino, where, where.mount_id)
        unnamed.deleted = True
        return inode.open(unnamed, _status(flags))

    def export(self, target: str) -> int:
        """Save what guests changed in the root file system to the new host directory
        `target`; return how many names. Raises `OSError`."""
        from samepage.kernel.fs.export import export_changes  # few runs need it

        return export_changes(self.root, target, self._mount_points)

    def pipe(self, flags: int = 0) -> tuple[OpenFile, OpenFile]:
        """`pipe2`: the end to read from and the end to write to."""
        return make_pipe(self.pipefs, flags)

    def memfd(self, name: bytes, flags: int = 0) -> MemfdFile:
        """`memfd_create`. Raises `SysError(EINVAL)`."""
        from samepage.kernel.fs.memfd import make_memfd

        return make_memfd(self.shm, name, flags)

    def eventfd(self, count: int, flags: int = 0) -> EventFd:
        """`eventfd2`. Raises `SysError(EINVAL)`."""
        from samepage.kernel.fs.eventfd import EventFd

        return EventFd(self.anonfs, count, flags)

    def epoll(self, flags: int = 0) -> Epoll:
        """`epoll_create1`. Raises `SysError(EINVAL)`."""
        from samepage.kernel.fs.epoll import Epoll

        return Epoll(self.anonfs, flags)

    def timerfd(self, clock: Callable[[], int], flags: int = 0) -> TimerFd:
        """`timerfd_create` on a clock given as a function. Raises `SysError(EINVAL)`."""
        from samepage.kernel.fs.timerfd import TimerFd

        return TimerFd(self.anonfs, clock, flags)


def _status(flags: int) -> int:
    return flags | O_LARGEFILE
