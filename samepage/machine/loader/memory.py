"""The linker's `Memory` in a process of the model: its calls are real system calls.

The tables of a file are taken from the file's content at once, as arrays; what the process
would have read through its mapping is loaded there too (`read_tables`), so that the pages
are present as they would be: the linker reads each table as a whole.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator

import numpy as np

from samepage.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD
from samepage.abi.mman import MapFlags, Prot
from samepage.arch import Sys
from samepage.elf.dynamic import Tag
from samepage.elf.file import check_kind
from samepage.elf.header import ElfError
from samepage.elf.layout import I64, U64
from samepage.elf.object import DynamicObject
from samepage.kernel.errors import SysError
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE, OpenFile
from samepage.machine.content import Contents
from samepage.machine.loader.user_side import UserSide

_CWD = AT_FDCWD & (1 << 64) - 1
_STAT_SIZE = 144
_CHUNK = 1024
_HEADER = 832
"""What ld.so reads of a file before it maps it (`struct filebuf`)."""


class ProgramMemory:
    """The address space of one process, as its own code sees it."""

    def __init__(self, user: UserSide, contents: Contents) -> None:
        self.user = user
        self._contents = contents
        self._texts: list[tuple[int, int]] = []

    def open(self, path: str) -> OpenFile:
        fd = self._open(path)
        try:
            header = self._read_header(fd, path)
            device, inode, mode, size = self._stat(fd)
            check_kind(path, mode, size if header else 0)
            found = DynamicObject.from_bytes(self._content(fd), path)
        except BaseException:
            self.user.syscall(Sys.CLOSE, fd)
            raise
        return OpenFile(path, fd, (device, inode), found, mode)

    def _read_header(self, fd: int, path: str) -> int:
        try:
            return self.user.syscall(Sys.READ, fd, self.user.buffer(_HEADER), _HEADER)
        except OSError as error:
            raise ElfError(f"{path}: cannot read file data: {error.strerror}") from None

    def _content(self, fd: int) -> bytes:
        try:
            content = self.user.task.process.files.get(fd).mappable
            if content is None:
                raise SysError(errno.ENODEV)
            return self._contents.of(content)
        except SysError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None

    def _open(self, path: str) -> int:
        name = self.user.push(os.fsencode(path) + b"\0")
        flags = os.O_RDONLY | os.O_CLOEXEC
        return self.user.syscall(Sys.OPENAT, _CWD, name, flags)

    def _stat(self, fd: int) -> tuple[int, int, int, int]:
        """Device, inode, mode and size of an open file."""
        buffer = self.user.buffer(_STAT_SIZE + 16)
        name = buffer + _STAT_SIZE
        self.user.store(name, b"\0")
        self.user.syscall(Sys.NEWFSTATAT, fd, name, buffer, AT_EMPTY_PATH)
        return _read_stat(self.user.load(buffer, _STAT_SIZE))

    def close(self, file: OpenFile) -> None:
        self.user.syscall(Sys.CLOSE, file.fd)

    def is_directory(self, path: str) -> bool:
        name = os.fsencode(path) + b"\0"
        buffer = self.user.buffer(_STAT_SIZE + len(name))
        self.user.store(buffer + _STAT_SIZE, name)
        try:
            self.user.syscall(Sys.NEWFSTATAT, _CWD, buffer + _STAT_SIZE, buffer, 0)
        except OSError:
            return False
        return stat.S_ISDIR(_read_stat(self.user.load(buffer, _STAT_SIZE))[2])

    def read_text(self, path: str) -> bytes | None:
        """Map the file, as ld.so does, until `unmap_texts`."""
        try:
            fd = self._open(path)
        except OSError:
            return None
        try:
            size = self._stat(fd)[3]
            if not size:
                return b""
            address = self.user.syscall(Sys.MMAP, 0, size, Prot.READ, MapFlags.PRIVATE, fd, 0)
        except OSError:
            return None
        finally:
            self.user.syscall(Sys.CLOSE, fd)
        self._texts.append((address, size))
        return self.user.load(address, size)

    def read_file(self, path: str) -> bytes | None:
        """The whole of a file, by read(2); None if it cannot be read."""
        try:
            fd = self._open(path)
        except OSError:
            return None
        buffer, text = self.user.buffer(_CHUNK), b""
        try:
            while length := self.user.syscall(Sys.READ, fd, buffer, _CHUNK):
                text += self.user.load(buffer, length)
        except OSError:
            return None
        finally:
            self.user.syscall(Sys.CLOSE, fd)
        return text

    def unmap_texts(self) -> None:
        """Give back what `read_text` has mapped (`_dl_unload_cache`)."""
        for address, size in self._texts:
            self.user.syscall(Sys.MUNMAP, address, size)
        self._texts.clear()

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        anonymous = file is None or flags & MapFlags.ANONYMOUS
        fd = -1 & (1 << 64) - 1 if anonymous or file is None else file.fd
        return self.user.syscall(Sys.MMAP, address, length, prot, flags, fd, offset)

    def munmap(self, address: int, length: int) -> None:
        self.user.syscall(Sys.MUNMAP, address, length)

    def mprotect(self, address: int, length: int, prot: int) -> None:
        self.user.syscall(Sys.MPROTECT, address, length, prot)

    def read(self, address: int, length: int) -> bytes:
        return self.user.load(address, length)

    def write(self, address: int, data: bytes) -> None:
        self.user.store(address, data)

    def zero(self, address: int, length: int) -> None:
        self.user.store(address, bytes(length))

    def read_words(self, start: int, offsets: I64) -> U64:
        addresses = offsets.astype(np.uint64) + np.uint64(start)
        words = np.empty(len(addresses), np.uint64)
        for page, where in _by_page(addresses):
            if page is None:
                for index in where.tolist():
                    words[index] = self.user.load_word(int(addresses[index]))
                continue
            content = np.frombuffer(self.user.load(page, PAGE), np.uint8)
            places = (addresses[where] - np.uint64(page)).astype(np.int64)
            words[where] = content[places[:, None] + np.arange(8)].view(np.uint64)[:, 0]
        return words

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        addresses = offsets.astype(np.uint64) + np.uint64(start)
        for page, where in _by_page(addresses):
            # The first store makes the page writable; only then it is read as a whole.
            self.user.store_word(int(addresses[where[0]]), int(words[where[0]]))
            if page is None:
                for index in where.tolist():
                    self.user.store_word(int(addresses[index]), int(words[index]))
                continue
            content = np.frombuffer(self.user.load(page, PAGE), np.uint8).copy()
            places = (addresses[where] - np.uint64(page)).astype(np.int64)
            content[places[:, None] + np.arange(8)] = words[where, None].view(np.uint8)
            self.user.store(page, content.tobytes())


def _read_stat(raw: bytes) -> tuple[int, int, int, int]:
    device, inode, _, mode = struct.unpack_from("<QQQI", raw)
    (size,) = struct.unpack_from("<q", raw, 48)
    return device, inode, mode, size


def _by_page(addresses: U64) -> Iterator[tuple[int | None, I64]]:
    """The indices of words by the page that they lie in; None for those in two pages."""
    in_page = addresses & np.uint64(PAGE - 1)
    split = in_page > np.uint64(PAGE - 8)
    whole = np.flatnonzero(~split)
    pages, groups = np.unique(addresses[whole] - in_page[whole], return_inverse=True)
    order = whole[np.argsort(groups, kind="stable")]
    ends = np.cumsum(np.bincount(groups, minlength=len(pages)))
    for page, start, end in zip(pages.tolist(), [0, *ends.tolist()], ends.tolist(), strict=False):
        yield page, order[start:end]
    if split.any():
        yield None, np.flatnonzero(split)


_WORD = 8
_SYMBOL = 24


def read_tables(memory: ProgramMemory, link: LinkMap) -> None:
    """Load a byte of each page of the tables that linking reads, through the mapping."""
    item = link.object
    dynamic = item.dynamic
    sizes = {
        Tag.STRTAB: dynamic.value(Tag.STRSZ),
        Tag.SYMTAB: _SYMBOL * len(item.symbols),
        Tag.VERSYM: 2 * len(item.symbols),
        Tag.RELA: dynamic.value(Tag.RELASZ),
        Tag.JMPREL: dynamic.value(Tag.PLTRELSZ),
        Tag.RELR: dynamic.value(Tag.RELRSZ),
        Tag.VERNEED: 1,
        Tag.VERDEF: 1,
        Tag.HASH: 1,
    }
    if item.gnu_hash is not None:
        table = item.gnu_hash
        sizes[Tag.GNU_HASH] = 16 + _WORD * len(table.bloom) + 4 * len(table.buckets)
        sizes[Tag.GNU_HASH] += 4 * len(table.chains)
    for tag, size in sizes.items():
        address = dynamic.get(tag)
        if address is None or not size:
            continue
        start = link.base + address
        for page in range(start & -PAGE, start + size, PAGE):
            memory.read(max(page, start), 1)
