"""Directories: the host's entries below, the guest's changes above.

A directory that came from the host has a `lower` side, which is asked for a name that the
guest did not change. `names` has the changes, and remembers what was looked up; None in it
is a whiteout: the name is gone although the lower side has it. A directory that the guest
made has no lower side, so nothing of an older directory of that name shows through (what
overlayfs needs the opaque attribute for).

The order of entries is the host's order; names that only the guest made follow in the order
they were made (`ovl_dir_read_merged` puts the lowest layer first as well).
"""

from __future__ import annotations

import errno
import os
import stat

from samepage.abi.dirent import DIRENT64
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping as Names
    from typing import Protocol

    class Lower(Protocol):
        """The host's side of a directory."""

        def lookup(self, name: bytes) -> Inode | None:
            """The inode of an entry, None if there is none. Raises `SysError`."""
            ...

        def list(self) -> list[DirEntry]:
            """All entries in the host's order, `.` and `..` included. Raises `SysError`."""
            ...


END_OF_DIRECTORY = (1 << 63) - 1


@record(frozen=True)
class DirEntry:
    """One entry. `type` is a DT_* value, `cookie` the position after it (`d_off`)."""

    name: bytes
    ino: int
    type: int
    cookie: int


def dirent_type(mode: int) -> int:
    """DT_* of a mode (`S_DT`)."""
    return mode >> 12 & 15


class DirectoryBase(Inode):
    """What has entries: these directories, and those of /proc."""

    def entries(self, parent: int) -> list[DirEntry]:
        """All entries; `parent` is the inode number for `..`. Raises `SysError`."""
        raise NotImplementedError

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it for listing. Raises `SysError(EISDIR)` if for writing."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise SysError(errno.EISDIR)
        return DirectoryFile(path, flags)


class Directory(DirectoryBase):
    """A directory whose entries can change.

    Invariant: `names[n]` is never None for a name that the lower side does not have.
    """

    takes_names = True

    def __init__(self, sb: Superblock, mode: int, lower: Lower | None = None) -> None:
        super().__init__(sb, stat.S_IFDIR | stat.S_IMODE(mode), nlink=2)
        self.lower = lower
        self.names: dict[bytes, Inode | None] = {}
        self.changed = False
        self.host_size = self.blksize
        self.host_blocks = 8

    @property
    def size(self) -> int:
        """What the host reports, 4096 for a new one."""
        return self.host_size

    def lookup(self, name: bytes) -> Inode | None:
        """The inode of an entry, None if there is none."""
        if name in self.names:
            return self.names[name]
        inode = self.below(name)
        if inode is not None:
            self.names[name] = inode
        return inode

    def below(self, name: bytes) -> Inode | None:
        """The lower side's entry."""
        return None if self.lower is None else self.lower.lookup(name)

    def changes(self) -> Names[bytes, Inode | None]:
        """The upper side."""
        return self.names

    def add(self, name: bytes, inode: Inode) -> None:
        """Make an entry, which must not exist, and count the links."""
        if self.names.get(name, self) is None:
            del self.names[name]
        self.names[name] = inode
        if inode.is_dir:
            self._count_subdirectory(1)
        self.changed = True
        self.touch()

    def remove(self, name: bytes) -> None:
        """Remove an existing entry; the caller updates the inode's link count."""
        inode = self.names.pop(name)
        if self.below(name) is not None:
            self.names[name] = None
        if inode is not None and inode.is_dir:
            self._count_subdirectory(-1)
        self.changed = True
        self.touch()

    def _count_subdirectory(self, step: int) -> None:
        if self.nlink >= 2:  # some host file systems always report 1
            self.nlink += step

    def is_empty(self) -> bool:
        """Whether nothing but `.` and `..` is left."""
        return len(self.entries(0)) == 2

    def entries(self, parent: int) -> list[DirEntry]:
        """All entries, merged."""
        lower = self.lower.list() if self.lower is not None else []
        if lower and not self.changed:
            return [self._dot(entry, parent) for entry in lower]
        names = [b".", b".."]
        known = {entry.name: entry for entry in lower}
        names += [name for name in known if name not in names and not self._is_gone(name)]
        names += [name for name, inode in self.names.items() if inode and name not in known]
        last = len(names)
        merged = []
        for cookie, name in enumerate(names, 1):
            cookie = END_OF_DIRECTORY if cookie == last else cookie
            inode = self.names.get(name)
            if inode is not None:
                entry = DirEntry(name, inode.ino, dirent_type(inode.mode), cookie)
            elif name in known:
                entry = DirEntry(name, known[name].ino, known[name].type, cookie)
            else:
                entry = DirEntry(name, 0, stat.S_IFDIR >> 12, cookie)
            merged.append(self._dot(entry, parent))
        return merged

    def _is_gone(self, name: bytes) -> bool:
        return self.names.get(name, self) is None

    def _dot(self, entry: DirEntry, parent: int) -> DirEntry:
        if entry.name == b".":
            return DirEntry(b".", self.ino, entry.type, entry.cookie)
        if entry.name == b"..":
            return DirEntry(b"..", parent, entry.type, entry.cookie)
        return entry


class DirectoryFile(OpenFile):
    """An open directory.

    The entries are those at the first `getdents64` after opening or rewinding, as in
    overlayfs. The position is the cookie of the last entry given out.
    """

    inode: DirectoryBase

    def __init__(self, path: Path, flags: int) -> None:
        super().__init__(path, flags)
        self._entries: list[DirEntry] | None = None
        self._next = 0

    def _read_at(self, length: int, offset: int) -> bytes:
        raise SysError(errno.EISDIR)

    def _load(self) -> list[DirEntry]:
        if self._entries is None:
            parent = self.path.parent or self.path
            self._entries = self.inode.entries(parent.inode.ino)
        return self._entries

    def getdents64(self, size: int) -> bytes:
        """`struct linux_dirent64`s, as many as fit in `size` bytes; none at the end.

        Raises `SysError`: EINVAL if not even one fits, ENOENT if the directory is removed.
        """
        if self.inode.dead:
            raise SysError(errno.ENOENT)
        entries = self._load()
        out = bytearray()
        while self._next < len(entries):
            entry = entries[self._next]
            record = DIRENT64.size + len(entry.name) + 1
            record += -record % 8
            if len(out) + record > size:
                if not out:
                    raise SysError(errno.EINVAL)
                break
            head = DIRENT64.pack(entry.ino, entry.cookie, record, entry.type)
            out += (head + entry.name).ljust(record, b"\0")
            self.pos = entry.cookie
            self._next += 1
        return bytes(out)

    def lseek(self, offset: int, whence: int) -> int:
        """Go to a cookie that `getdents64` gave, or back to the start."""
        if whence == os.SEEK_CUR:
            offset += self.pos
        elif whence == os.SEEK_END:
            offset += END_OF_DIRECTORY
        elif whence != os.SEEK_SET:
            raise SysError(errno.EINVAL)
        if not 0 <= offset <= END_OF_DIRECTORY:
            raise SysError(errno.EINVAL)
        if offset != self.pos:
            if offset == 0:
                self._entries, self._next = None, 0
            else:
                cookies = [entry.cookie for entry in self._load()]
                self._next = cookies.index(offset) + 1 if offset in cookies else len(cookies)
        self.pos = offset
        return offset

    def fsync(self) -> None:
        """Nothing to do: RAM is the only storage."""
