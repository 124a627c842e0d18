"""Files whose content is made when they are read, and directories made when looked into."""

import errno
import stat
from collections.abc import Callable, Iterable

from samepage.kernel.errors import SysError
from samepage.kernel.fs.directory import (
    END_OF_DIRECTORY,
    DirectoryBase,
    DirEntry,
    dirent_type,
)
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path


class TextNode(Inode):
    """A file of text; `store` takes what is written (None: EIO, as on Linux)."""

    def __init__(
        self, sb: Superblock, mode: int, store: Callable[[bytes], None] | None = None
    ) -> None:
        super().__init__(sb, stat.S_IFREG | mode)
        self.blksize = 1024 if sb.type_name == "proc" else 4096
        self.store = store

    def truncate(self, size: int) -> None:
        """Allowed and without effect: a shell opens with O_TRUNC before it writes."""


class ProcFile(TextNode):
    """A text made by `show`."""

    def __init__(
        self,
        sb: Superblock,
        show: Callable[[], bytes],
        mode: int = 0o444,
        store: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(sb, mode, store)
        self.show = show

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it; the text is made at the first read."""
        return GeneratedFile(path, flags, self.show)


class GeneratedFile(OpenFile):
    """An open text. It is made anew whenever reading starts at offset 0, as a seq_file does
    it."""

    pollable = True
    inode: TextNode

    def __init__(self, path: Path, flags: int, show: Callable[[], bytes]) -> None:
        super().__init__(path, flags)
        self._show = show
        self._text = b""

    def _read_at(self, length: int, offset: int) -> bytes:
        if offset == 0 or not self._text:
            self._text = self._show()
        return self._text[offset : offset + length]

    def _write_at(self, data: bytes, offset: int) -> int:
        if self.inode.store is None:
            raise SysError(errno.EIO)
        self.inode.store(data)
        return len(data)


class BinaryFile(Inode):
    """A file that is made piece by piece: `bind` is called at each `open`, for a function
    from an offset and a length to bytes."""

    def __init__(
        self, sb: Superblock, bind: Callable[[], Callable[[int, int], bytes]], mode: int
    ) -> None:
        super().__init__(sb, stat.S_IFREG | mode)
        self._bind = bind

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it."""
        return _OpenBinary(path, flags, self._bind())


class _OpenBinary(OpenFile):
    def __init__(self, path: Path, flags: int, part: Callable[[int, int], bytes]) -> None:
        super().__init__(path, flags)
        self._part = part

    def _read_at(self, length: int, offset: int) -> bytes:
        return self._part(offset, length)


class ProcLink(Inode):
    """A symbolic link whose text is made by `text`; `target` makes it a magic link, which
    leads to a file directly, whatever name it has by now."""

    def __init__(
        self,
        sb: Superblock,
        text: Callable[[], bytes],
        target: Callable[[], Path | None] = lambda: None,
        mode: int = 0o777,
    ) -> None:
        super().__init__(sb, stat.S_IFLNK | mode)
        self._text = text
        self._target = target

    def readlink(self) -> bytes:
        """The text, as it is now."""
        return self._text()

    def follow(self) -> Path | None:
        """Where the magic link leads."""
        return self._target()

    def open(self, path: Path, flags: int) -> OpenFile:
        """A link itself cannot be opened."""
        raise SysError(errno.ELOOP)


class ProcDirectory(DirectoryBase):
    """A directory with fixed entries, in their order; nothing can be made in it."""

    def __init__(self, sb: Superblock, nodes: dict[bytes, Inode], mode: int = 0o555) -> None:
        subdirectories = sum(node.is_dir for node in nodes.values())
        super().__init__(sb, stat.S_IFDIR | mode, nlink=2 + subdirectories)
        self.blksize = 1024 if sb.type_name == "proc" else 4096
        self.nodes = nodes

    def lookup(self, name: bytes) -> Inode | None:
        """The inode of an entry, None if there is none."""
        return self.nodes.get(name)

    def names(self) -> Iterable[bytes]:
        """The names of all entries, in the order of listing."""
        return self.nodes

    def entries(self, parent: int) -> list[DirEntry]:
        """All entries that can be looked up."""
        directory = stat.S_IFDIR >> 12
        found = [(b".", self.ino, directory), (b"..", parent, directory)]
        for name in self.names():
            inode = self.lookup(name)
            if inode is not None:
                found.append((name, inode.ino, dirent_type(inode.mode)))
        last = len(found)
        return [
            DirEntry(name, ino, kind, END_OF_DIRECTORY if at == last else at)
            for at, (name, ino, kind) in enumerate(found, 1)
        ]


class NumberDirectory(ProcDirectory):
    """A directory whose entries are numbers that come and go: descriptors, tasks.

    `numbers` lists them, `make` makes the inode of one. An inode is kept while `key` shows
    that it is the same thing (another open file on the same descriptor is not).
    """

    def __init__(
        self,
        sb: Superblock,
        numbers: Callable[[], Iterable[int]],
        make: Callable[[int], Inode],
        key: Callable[[int], object],
        mode: int = 0o555,
    ) -> None:
        super().__init__(sb, {}, mode)
        self._numbers = numbers
        self._make = make
        self._key = key
        self._known: dict[int, tuple[object, Inode]] = {}

    def lookup(self, name: bytes) -> Inode | None:
        """The inode of a number that is there now."""
        number = parse_number(name)
        if number is None or number not in self._numbers():
            return None
        key = self._key(number)
        known = self._known.get(number)
        if known is None or known[0] is not key:
            known = self._known[number] = (key, self._make(number))
        return known[1]

    def names(self) -> Iterable[bytes]:
        """The numbers that are there now."""
        return [b"%d" % number for number in self._numbers()]


def parse_number(name: bytes) -> int | None:
    """A decimal number without sign and leading zeros, as in /proc/PID; else None."""
    if not name.isdigit() or (len(name) > 1 and name.startswith(b"0")):
        return None
    return int(name)
