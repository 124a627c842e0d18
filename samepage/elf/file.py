"""An ELF file: one read-only map of it, and checked views into that map.

Every table of an ELF file is given by an offset and a count that the file itself
states, so each may be wrong, by accident or by intent. All of them are read through
`ElfFile.table` (by file offset) or `ElfFile.table_at` (by virtual address, translated
by the PT_LOAD segments as the kernel would map them). These two check the bounds, and
an `ElfError` names the file, the table and the offset. Nothing is copied: a view of a
table is the mapped file.
"""

import mmap
import os
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np

from samepage.abi.elf import EHDR32, EHDR64, EI_NIDENT, ELF_MAGIC, PHDR32, PHDR64, SegmentType
from samepage.elf.header import ElfError, ProgramHeader
from samepage.elf.layout import ELF32, ELF64, U8, Layout, Table

_PT_LOAD = int(SegmentType.LOAD)

MAX_STRING = 1 << 16
"""Longer names are refused: the longest symbols seen in C++ and Rust are a tenth of it."""


class ElfFile:
    """The headers of an ELF file, and views of its tables.

    `buffer` holds the file's bytes and stays valid as long as the object or any view
    of it lives. Offsets, addresses and sizes are in bytes.
    """

    __slots__ = (
        "_last_of_type",
        "buffer",
        "data",
        "entry",
        "header_flags",
        "layout",
        "loads",
        "machine",
        "osabi",
        "path",
        "phoff",
        "segments",
        "shnum",
        "shoff",
        "shstrndx",
        "size",
        "type",
        "version",
    )

    def __init__(self, buffer: bytes | mmap.mmap, path: str) -> None:
        """Read the headers of the ELF file whose bytes are `buffer`.

        Raises `ElfError` if the file is not ELF, of an unknown class, big-endian, or if
        its program headers do not lie inside of it.
        """
        self.path = path
        self.buffer = buffer
        self.size = len(buffer)
        ident = bytes(buffer[:EI_NIDENT])
        if ident[:4] != ELF_MAGIC:
            raise self.error("not an ELF file")
        if len(ident) < EI_NIDENT:
            raise self.error("truncated ELF header")
        if ident[4:5] not in (b"\1", b"\2"):
            raise self.error("unknown ELF class")
        if ident[5:6] != b"\1":
            raise self.error("not a little-endian ELF file")
        self.osabi = ident[7]
        self.layout: Layout = ELF64 if ident[4] == 2 else ELF32
        ehdr = EHDR64 if ident[4] == 2 else EHDR32
        if self.size < ehdr.size:
            raise self.error("truncated ELF header")
        # An empty map cannot be, so `frombuffer` has at least the header here.
        self.data: U8 = np.frombuffer(buffer, np.uint8)
        fields = ehdr.unpack_from(buffer)[1:]
        self.type, self.machine, self.version, self.entry, self.phoff, self.shoff = fields[:6]
        self.header_flags, _, phentsize, phnum, shentsize, self.shnum, self.shstrndx = fields[6:]
        if self.shnum and shentsize != self.layout.shdr.itemsize:
            self.shnum = 0  # glibc does not look at sections; files without are valid
        self.segments = self._read_segments(phentsize, phnum)
        self.loads = [s for s in self.segments if s.type == _PT_LOAD]
        self._last_of_type = {segment.type: segment for segment in self.segments}

    @classmethod
    def open(cls, path: str) -> "ElfFile":
        """Map the file at `path` read-only. Raises `OSError` and `ElfError`.

        O_NONBLOCK: opening a FIFO, which cannot be mapped, does not wait for its other end.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return cls.from_fd(fd, path)
        finally:
            os.close(fd)

    @classmethod
    def from_fd(cls, fd: int, path: str) -> "ElfFile":
        """Map the open file `fd` read-only; `path` is for messages."""
        status = os.fstat(fd)
        check_kind(path, status.st_mode, status.st_size)
        return cls(mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ), path)

    def error(self, message: str) -> ElfError:
        """The error to raise about this file."""
        return ElfError(f"{self.path}: {message}")

    def _read_segments(self, phentsize: int, phnum: int) -> list[ProgramHeader]:
        """The program headers. With the two classes' fields in different order."""
        if phnum == 0:
            return []
        if phentsize != self.layout.phdr.itemsize:
            raise self.error(f"program header entries of {phentsize} bytes")
        if self.phoff + phnum * phentsize > self.size:
            raise self.error(
                f"program headers: {phnum} entries at offset {self.phoff:#x} "
                "lie beyond the end of the file"
            )
        table = self.buffer[self.phoff : self.phoff + phnum * phentsize]
        if self.layout is ELF64:
            return [
                ProgramHeader(kind, flags, offset, vaddr, filesz, memsz, align)
                for kind, flags, offset, vaddr, _, filesz, memsz, align in PHDR64.iter_unpack(table)
            ]
        return [
            ProgramHeader(kind, flags, offset, vaddr, filesz, memsz, align)
            for kind, offset, vaddr, _, filesz, memsz, flags, align in PHDR32.iter_unpack(table)
        ]

    def segment(self, kind: int) -> ProgramHeader | None:
        """The last program header of a kind, which is the one that glibc keeps."""
        return self._last_of_type.get(kind)

    def table(self, what: str, offset: int, dtype: np.dtype[Any], count: int) -> Table:
        """View `count` records of `dtype` at a file offset; `what` names the table.

        Raises `ElfError` if any of it lies outside of the file.
        """
        if count < 0 or offset < 0 or offset + count * dtype.itemsize > self.size:
            raise self.error(
                f"{what}: {count} entries of {dtype.itemsize} bytes at offset {offset:#x} "
                f"lie outside of the file ({self.size} bytes)"
            )
        return np.frombuffer(self.buffer, dtype, count, offset)

    def table_at(self, what: str, address: int, dtype: np.dtype[Any], count: int) -> Table:
        """View `count` records of `dtype` at a virtual address of the file."""
        offset, _ = self.file_offset(what, address, count * dtype.itemsize)
        return self.table(what, offset, dtype, count)

    def file_offset(self, what: str, address: int, length: int = 1) -> tuple[int, int]:
        """Translate a virtual address to (file offset, bytes of the segment from there on).

        Raises `ElfError` if `length` bytes from there are not in one segment's file part.
        A table may not end in the zeros that extend a segment: no linker makes such a
        file, and a reader of the file (rather than of memory) could not see them.
        """
        for load in self.loads:
            inside = address - load.vaddr
            if 0 <= inside < load.filesz or (length == 0 and inside == load.filesz):
                rest = min(load.filesz - inside, self.size - load.offset - inside)
                if length > rest:
                    break
                return load.offset + inside, rest
        raise self.error(f"{what}: {length} bytes at address {address:#x} are not in the file")

    def string(self, what: str, offset: int, limit: int) -> str:
        """The NUL-terminated string at a file offset, which must end before `limit`.

        Raises `ElfError` if it does not, or if it has more than `MAX_STRING` bytes.
        """
        limit = min(limit, offset + MAX_STRING + 1)
        end = self.buffer.find(b"\0", offset, limit) if 0 <= offset < limit else -1
        if end >= 0:
            return self.buffer[offset:end].decode("utf-8", "surrogateescape")
        raise self.error(f"{what}: the string at offset {offset:#x} does not end")


def check_kind(path: str, mode: int, size: int) -> None:
    """Raise `ElfError`, with ld.so's words, for a file from which no header can be read."""
    if stat.S_ISDIR(mode):
        raise ElfError(f"{path}: cannot read file data: Is a directory")
    if not stat.S_ISREG(mode) or size == 0:
        raise ElfError(f"{path}: file too short")


def covers(segments: Sequence[ProgramHeader], address: int) -> ProgramHeader | None:
    """The PT_LOAD segment whose memory (file part and zeros) holds `address`."""
    for segment in segments:
        if segment.type == SegmentType.LOAD and 0 <= address - segment.vaddr < segment.memsz:
            return segment
    return None
