"""The host's files, read-only: one inode for each host (st_dev, st_ino).

The same file reached by another path, a hard link, a symlink or a bind mount is the same
`Inode`, so the same pages. Attributes are those at the first look; a host file that
changes during a run is not followed.

The guest only ever causes these calls on the host: lstat, readlink, getxattr, statfs,
listing a directory, and reading a regular file. A FIFO, socket or device of the host is
shown by its attributes and never opened. File systems that show the host's kernel (proc,
sysfs, cgroup, ...) are shown empty, wherever they are mounted.
"""

import errno
import itertools
import os
import stat
from collections.abc import Callable

from samepage.kernel.errors import SysError
from samepage.kernel.fs import hostcalls
from samepage.kernel.fs.devices import Device, Drivers
from samepage.kernel.fs.directory import Directory, DirEntry
from samepage.kernel.fs.inode import FIRST_NEW_INO, Inode, Superblock, Symlink
from samepage.kernel.fs.mapping import HostFiles, HostMapping, reopen
from samepage.kernel.fs.pipe import Fifo
from samepage.kernel.fs.regular import Regular
from samepage.kernel.mm.page_cache import PageCache

HIDDEN_TYPES = {
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x1CD1: "devpts",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0xF97CFF8C: "selinuxfs",
    0xCAFE4A11: "bpf",
    0x42494E4D: "binfmt_misc",
    0x6165676C: "pstore",
    0xDE5E81E4: "efivarfs",
    0x19800202: "mqueue",
    0x6E736673: "nsfs",
    0x62656570: "configfs",
    0x958458F6: "hugetlbfs",
    0x67596969: "rpc_pipefs",
    0x65735543: "fusectl",
    0x187: "autofs",
}
"""`f_type` of file systems whose content is the host's kernel, not files
(include/uapi/linux/magic.h)."""


class HostFs:
    """Finds and keeps the inodes of host files."""

    def __init__(self, cache: PageCache, clock: Callable[[], int], drivers: Drivers) -> None:
        self._cache = cache
        self._clock = clock
        self._drivers = drivers
        self._files = HostFiles()
        self._inodes: dict[tuple[int, int], Inode] = {}
        self._superblocks: dict[int, Superblock] = {}
        self._hidden: set[int] = set()

    def inode(self, path: bytes) -> Inode | None:
        """The inode of the host's `path`, whose last part is not followed; None if there
        is none. Raises `SysError` with the host's errno."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SysError(error.errno or errno.EIO) from error
        except ValueError:  # a NUL in the name: no file has that
            return None
        key = (found.st_dev, found.st_ino)
        known = self._inodes.get(key)
        if known is None or stat.S_IFMT(known.mode) != stat.S_IFMT(found.st_mode):
            known = self._inodes[key] = self._make(found, path)
        return known

    def _superblock(self, dev: int, path: bytes) -> Superblock:
        sb = self._superblocks.get(dev)
        if sb is None:
            figures = hostcalls.statfs(path)
            if figures.type in HIDDEN_TYPES:
                self._hidden.add(dev)
            sb = Superblock(
                dev,
                "host",
                self._cache,
                self._clock,
                lambda: hostcalls.statfs(path),
                itertools.count(FIRST_NEW_INO),
                hostcalls.birth_time,
            )
            self._superblocks[dev] = sb
        return sb

    def _make(self, found: os.stat_result, path: bytes) -> Inode:
        # A link may point into another file system: ask for the one that the link is in.
        place = os.path.dirname(path) if stat.S_ISLNK(found.st_mode) else path
        sb = self._superblock(found.st_dev, place)
        inode = self._of_type(sb, found, path)
        inode.mode = found.st_mode
        inode.adopt(found, path)
        return inode

    def _of_type(self, sb: Superblock, found: os.stat_result, path: bytes) -> Inode:
        mode = found.st_mode
        hidden = found.st_dev in self._hidden
        if stat.S_ISDIR(mode):
            lower = None if hidden else HostDirectory(self, path, found.st_dev, found.st_ino)
            directory = Directory(sb, mode, lower)
            directory.host_size = found.st_size
            return directory
        if stat.S_ISREG(mode):
            size = 0 if hidden else found.st_size
            mapping = HostMapping(
                self._files, found.st_dev, found.st_ino, size, path, found.st_blocks
            )
            return Regular(sb, mode, mapping)
        if stat.S_ISLNK(mode):
            return Symlink(sb, os.readlink(path))
        if stat.S_ISFIFO(mode):
            return Fifo(sb, mode)
        if stat.S_ISSOCK(mode):
            return Inode(sb, mode)
        return Device(sb, mode, self._drivers, rdev=found.st_rdev)


class HostDirectory:
    """The lower side of a directory: the host's `path`."""

    def __init__(self, hostfs: HostFs, path: bytes, dev: int, ino: int) -> None:
        self._hostfs = hostfs
        self._path = path
        self._identity = (dev, ino)

    def lookup(self, name: bytes) -> Inode | None:
        """The inode of an entry, None if there is none."""
        return self._hostfs.inode(self._path.rstrip(b"/") + b"/" + name)

    def list(self) -> list[DirEntry]:
        """All entries in the host's order. Raises `SysError` with the host's errno, or EIO
        if the directory is another by now."""
        try:
            handle = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SysError(error.errno or errno.EIO) from error
        try:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) != self._identity:
                raise SysError(errno.EIO)
            fd = reopen(handle, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(handle)
        try:
            return hostcalls.list_directory(fd)
        finally:
            os.close(fd)
