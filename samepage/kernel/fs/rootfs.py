"""What guests see as `/`: a directory of the host, or the merged layers of an image.

Both are read-only and lie below the guests' changes (see `directory`). Regular files are the
host's inodes in either case: what the page cache holds is a file of the host.
"""

from __future__ import annotations

import errno
import os
import stat

from samepage.kernel.errors import SysError
from samepage.kernel.fs.devices import Device
from samepage.kernel.fs.directory import Directory, DirEntry, dirent_type
from samepage.kernel.fs.inode import Inode, Superblock, Symlink
from samepage.kernel.fs.pipe import Fifo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from samepage.images.tree import Node, Tree
    from samepage.kernel.fs.devices import Drivers
    from samepage.kernel.fs.directory import Lower
    from samepage.kernel.fs.hostfs import HostFs

    MakeSuperblock = Callable[[str, int], Superblock]
    """By a type's name and its magic number."""

    class RootFs(Protocol):
        """Where the files of a machine come from."""

        name: str
        """For messages."""

        def root(self, hostfs: HostFs, make_sb: MakeSuperblock, drivers: Drivers) -> Inode:
            """The root directory. `make_sb` makes the file system of what no host file is.

            Raises `SysError` if there is none.
            """
            ...

        def host_path(self, path: str) -> str:
            """The file of the host behind a guest's path. Raises `OSError` if there is none."""
            ...


OVERLAYFS_MAGIC = 0x794C7630
"""OVERLAYFS_SUPER_MAGIC."""


class HostRoot:
    """The host's directory at a path."""

    def __init__(self, path: str = "/") -> None:
        self.name = path

    def root(self, hostfs: HostFs, make_sb: MakeSuperblock, drivers: Drivers) -> Inode:
        """As `RootFs.root`."""
        found = hostfs.inode(os.fsencode(os.path.realpath(self.name)))
        if found is None or not found.is_dir:
            raise SysError(errno.ENOENT if found is None else errno.ENOTDIR)
        return found

    def host_path(self, path: str) -> str:
        """As `RootFs.host_path`."""
        return self.name + path


class TreeRoot:
    """The files of a `Tree`, over those of the host's directory `base` if there is one.

    `covered` are the paths (without a slash at either end) below which nothing of `base` shows:
    those that a layer hides, and its opaque directories. The contents must have been kept.
    """

    def __init__(
        self, name: str, tree: Tree, base: str | None = None, covered: Collection[str] = ()
    ) -> None:
        self.name = name
        self.tree = tree
        self._base = base
        self._covered = covered

    def root(self, hostfs: HostFs, make_sb: MakeSuperblock, drivers: Drivers) -> Inode:
        """As `RootFs.root`."""
        sb = make_sb("overlay", OVERLAYFS_MAGIC)
        files = _TreeFiles(hostfs, sb, drivers, self._covered)
        lower = None
        if self._base is not None:
            lower = HostRoot(self._base).root(hostfs, make_sb, drivers)
        return files.directory(self.tree.root, "", lower)

    def host_path(self, path: str) -> str:
        """As `RootFs.host_path`."""
        node = self.tree.lookup(path)
        if node is not None and node.entry.content is not None and node.entry.content.path:
            return node.entry.content.path
        if node is None and self._base is not None:
            return self._base + path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class _TreeFiles:
    """The inodes of a tree: one for each content, and one for each other node."""

    def __init__(
        self, hostfs: HostFs, sb: Superblock, drivers: Drivers, covered: Collection[str]
    ) -> None:
        self.covered = covered
        self._hostfs = hostfs
        self._sb = sb
        self._drivers = drivers

    def directory(self, node: Node, path: str, lower: Inode | None) -> Directory:
        """The inode of a directory; `lower` is what it merges with."""
        result = Directory(self._sb, node.entry.mode, _TreeDirectory(self, node, path, lower))
        self._adopt(result, node)
        return result

    def inode(self, node: Node, path: str, lower: Inode | None) -> Inode:
        """The inode of a node at a path. Raises `SysError` if its content is gone."""
        entry = node.entry
        if node.names is not None:
            merges = lower is not None and lower.is_dir and path not in self.covered
            return self.directory(node, path, lower if merges else None)
        if entry.content is not None:
            assert entry.content.path is not None, "the contents of a machine's files are kept"
            found = self._hostfs.inode(os.fsencode(entry.content.path))
            if found is None or not stat.S_ISREG(found.mode):
                raise SysError(errno.EIO)
        elif entry.is_symlink:
            found = Symlink(self._sb, os.fsencode(entry.target))
        elif stat.S_ISFIFO(entry.mode):
            found = Fifo(self._sb, entry.mode)
        elif stat.S_ISSOCK(entry.mode):
            found = Inode(self._sb, entry.mode)
        else:
            found = Device(self._sb, entry.mode, self._drivers, rdev=entry.rdev)
        self._adopt(found, node)
        return found

    def _adopt(self, inode: Inode, node: Node) -> None:
        """Give a file the attributes that it has in the image, in place of its copy's."""
        entry = node.entry
        inode.mode, inode.uid, inode.gid = entry.mode, entry.uid, entry.gid
        inode.atime = inode.mtime = inode.ctime = entry.mtime * 1_000_000_000
        if entry.attributes is not None:
            inode.xattrs = {os.fsencode(name): value for name, value in entry.attributes.items()}


class _TreeDirectory:
    """The `Lower` of a directory of a tree: its entries, then those of what it merges with."""

    def __init__(self, files: _TreeFiles, node: Node, path: str, lower: Inode | None) -> None:
        self._files = files
        self._node = node
        self._path = path
        self._lower: Lower | None = lower.lower if isinstance(lower, Directory) else None
        self._made: dict[str, Inode] = {}

    def lookup(self, name: bytes) -> Inode | None:
        """The inode of an entry, None if there is none."""
        text = os.fsdecode(name)
        known = self._made.get(text)
        if known is not None:
            return known
        path = f"{self._path}/{text}" if self._path else text
        assert self._node.names is not None
        node = self._node.names.get(text)
        below = None
        if self._lower is not None and path not in self._files.covered:
            below = self._lower.lookup(name)
        if node is None:
            return below
        made = self._made[text] = self._files.inode(node, path, below)
        return made

    def list(self) -> list[DirEntry]:
        """All entries, those of the tree first. Raises `SysError`."""
        assert self._node.names is not None
        names = [b".", b"..", *(os.fsencode(name) for name in self._node.names)]
        known = set(names)
        if self._lower is not None:
            for entry in self._lower.list():
                path = os.fsdecode(entry.name)
                path = f"{self._path}/{path}" if self._path else path
                if entry.name not in known and path not in self._files.covered:
                    names.append(entry.name)
        entries = []
        for cookie, name in enumerate(names, 1):
            inode = self.lookup(name) if cookie > 2 else None
            number = inode.ino if inode is not None else 1
            kind = dirent_type(inode.mode if inode is not None else stat.S_IFDIR)
            entries.append(DirEntry(name, number, kind, cookie))
        return entries
