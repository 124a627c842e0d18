"""Saving what guests changed: the upper side of the overlay, written to a host directory.

The form is that of an OCI image layer, which is overlayfs' own idea in plain files: new and
changed files as they are, a removed name as an empty file `.wh.NAME`, and `.wh..wh..opq` in
a directory that was made anew where the host has one. Only file content, symbolic links,
FIFOs, permission bits and times are written. The owner is the user who runs samepage, and
the set-user-id bits are dropped: a guest must not be able to leave a privileged program on
the host. Devices and sockets are left out. Of the names that a changed file has on the host,
those are written that a guest has looked up.

The tree is built under a temporary name beside the target and renamed when it is complete.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Collection

from samepage.kernel.fs.inode import Inode
from samepage.kernel.fs.path import Path

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_CHUNK = 1 << 20


def export_changes(root: Path, target: str, skip: Collection[Inode] = ()) -> int:
    """Write all changes below `root` (not those in other mounts) to the new directory
    `target`; return how many names were written. `skip` are inodes to leave out.

    Raises `FileExistsError` if `target` exists, `OSError` as the host does.
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already")
    parent = os.path.dirname(os.path.abspath(target))
    place = tempfile.mkdtemp(prefix=".samepage-export-", dir=parent)
    try:
        count = _Export(skip).directory(root.inode, os.fsencode(place))
        os.rename(place, target)  # noqa: PTH104
    except BaseException:
        shutil.rmtree(place)
        raise
    return count


class _Export:
    """One export; remembers what was written, for hard links."""

    def __init__(self, skip: Collection[Inode]) -> None:
        self._skip = skip
        self._written: dict[Inode, bytes] = {}

    def directory(self, directory: Inode, place: bytes) -> int:
        """Write the changes in a directory to `place`, which exists."""
        count = 0
        for name, inode in directory.changes().items():
            path = place + b"/" + name
            if inode in self._skip:
                continue
            if inode is None:
                _write_empty(place + b"/" + WHITEOUT + name)
                count += 1
            elif inode.is_dir:
                count += self._subdirectory(directory, name, inode, path)
            elif _is_changed(directory, name, inode) and self._file(inode, path):
                count += 1
        return count

    def _subdirectory(self, parent: Inode, name: bytes, inode: Inode, path: bytes) -> int:
        new = _is_changed(parent, name, inode)
        os.mkdir(path, 0o700)  # noqa: PTH102 - the path is bytes
        if new and parent.below(name) is not None:
            _write_empty(path + b"/" + OPAQUE)
        count = self.directory(inode, path) + new
        if not count:
            os.rmdir(path)  # noqa: PTH106
            return 0
        _set_attributes(inode, path)
        return count

    def _file(self, inode: Inode, path: bytes) -> bool:
        first = self._written.setdefault(inode, path)
        if first is not path:
            os.link(first, path, follow_symlinks=False)
        elif inode.is_symlink:
            os.symlink(inode.readlink(), path)
        elif stat.S_ISFIFO(inode.mode):
            os.mkfifo(path, 0o600)
            _set_attributes(inode, path)
        elif inode.mapping is not None:
            with open(path, "xb") as file:
                for offset in range(0, inode.size, _CHUNK):
                    file.write(inode.sb.cache.read(inode.mapping, offset, _CHUNK))
            _set_attributes(inode, path)
        else:
            del self._written[inode]
            return False
        return True


def _is_changed(parent: Inode, name: bytes, inode: Inode) -> bool:
    """Whether the entry is not just what the host has under this name."""
    if inode.host is None or inode.altered:
        return True
    if inode.mapping is not None and not inode.mapping.unchanging:
        return True
    return parent.below(name) is not inode


def _write_empty(path: bytes) -> None:
    with open(path, "xb"):
        pass


def _set_attributes(inode: Inode, path: bytes) -> None:
    os.chmod(path, stat.S_IMODE(inode.mode) & 0o1777)  # noqa: PTH101
    os.utime(path, ns=(inode.atime, inode.mtime))
