"""A dynamic object: everything in one file that a dynamic linker uses.

The tables are read when they are first asked for, once. Each table's own module checks
it; what is checked here is how they fit together: how many symbols there are.

A dynamic object does not state its number of symbols. DT_HASH has it as the number of
its chains; DT_GNU_HASH implies it, unless it is empty; a relocation or a version table
may use symbols beyond (all of them undefined ones). `symbols` therefore has the larger
of the hash tables' number and the largest index in use plus one.
"""

import mmap

import numpy as np

from samepage.abi.elf import ElfType, SegmentType
from samepage.elf.dynamic import Dynamic, Tag
from samepage.elf.file import ElfFile
from samepage.elf.hashes import GnuHash, SysvHash, read_gnu_hash, read_sysv_hash
from samepage.elf.header import ProgramHeader
from samepage.elf.layout import U64, Table
from samepage.elf.once import once
from samepage.elf.relocations import Relocations, read_relocations
from samepage.elf.strings import StringTable
from samepage.elf.versions import Versions, read_versions
from samepage.records import record


@record(frozen=True)
class TlsImage:
    """PT_TLS: a thread's initial copy of `filesz` bytes at `vaddr`, then zeros to `memsz`."""

    vaddr: int
    filesz: int
    memsz: int
    align: int


class DynamicObject:
    """A shared library or dynamically linked program: views of its tables."""

    def __init__(self, elf: ElfFile) -> None:
        """Raises `ElfError` if the dynamic section cannot be read."""
        self.elf = elf
        self.path = elf.path
        self.dynamic = Dynamic(elf)

    @classmethod
    def open(cls, path: str) -> "DynamicObject":
        """Map and read the file at `path`. Raises `OSError` and `ElfError`."""
        return cls(ElfFile.open(path))

    @classmethod
    def from_bytes(cls, data: bytes | mmap.mmap, path: str) -> "DynamicObject":
        """Read a file's bytes; `path` is for messages."""
        return cls(ElfFile(data, path))

    @once
    def strings(self) -> StringTable:
        """DT_STRTAB; empty if the file has none."""
        address = self.dynamic.get(Tag.STRTAB)
        if address is None:
            return StringTable(self.elf, 0, 0)
        size = self.dynamic.value(Tag.STRSZ)
        offset, _ = self.elf.file_offset("DT_STRTAB", address, size)
        return StringTable(self.elf, offset, size)

    def string(self, tag: Tag) -> str | None:
        """The string that a tag's value is the index of, or None without the tag."""
        index = self.dynamic.get(tag)
        return None if index is None else self.strings.get(index, f"DT_{tag.name}")

    @once
    def soname(self) -> str | None:
        """DT_SONAME."""
        return self.string(Tag.SONAME)

    @once
    def needed(self) -> list[str]:
        """The DT_NEEDED names in order."""
        return [
            self.strings.get(index, "DT_NEEDED")
            for tag, index in self.dynamic.libraries
            if tag == Tag.NEEDED
        ]

    @once
    def interpreter(self) -> str | None:
        """The path in PT_INTERP."""
        segment = self.elf.segment(SegmentType.INTERP)
        if segment is None:
            return None
        return self.elf.string("PT_INTERP", segment.offset, segment.offset + segment.filesz)

    @property
    def is_executable(self) -> bool:
        """Whether the file is a program: ET_EXEC, or ET_DYN with DF_1_PIE or PT_INTERP."""
        return self.elf.type == ElfType.EXEC or bool(self.dynamic.flags_1 & 0x8000000)

    @once
    def gnu_hash(self) -> GnuHash | None:
        """DT_GNU_HASH."""
        address = self.dynamic.get(Tag.GNU_HASH)
        return None if address is None else read_gnu_hash(self.elf, address)

    @once
    def sysv_hash(self) -> SysvHash | None:
        """DT_HASH. glibc does not look at it in a file that has DT_GNU_HASH."""
        address = self.dynamic.get(Tag.HASH)
        return None if address is None else read_sysv_hash(self.elf, address)

    @once
    def relocations(self) -> Relocations:
        """The relocation tables."""
        return read_relocations(self.elf, self.dynamic)

    @once
    def symbols(self) -> Table:
        """DT_SYMTAB."""
        address = self.dynamic.get(Tag.SYMTAB)
        count = 0
        if self.dynamic.get(Tag.GNU_HASH) is not None:
            assert self.gnu_hash is not None
            if len(self.gnu_hash.chains):
                count = self.gnu_hash.symbol_count
        elif self.sysv_hash is not None:
            count = len(self.sysv_hash.chains)
        shift = np.uint64(self.elf.layout.symbol_shift)
        relocations = self.relocations
        # The leading relative entries name no symbol; there may be 100,000s of them.
        rela, rel = relocations.rela, relocations.rel
        rela = rela[relocations.relative_count :]
        for table in (rela, rel, relocations.plt):
            if len(table):
                count = max(count, int(np.maximum.reduce(table["r_info"]) >> shift) + 1)
        if address is None:
            if count > 1:
                raise self.elf.error("relocations use symbols, but there is no DT_SYMTAB")
            return np.zeros(count, self.elf.layout.sym)
        record = self.elf.layout.sym
        if self.dynamic.value(Tag.SYMENT, record.itemsize) != record.itemsize:
            raise self.elf.error(f"DT_SYMTAB: entries of {self.dynamic.value(Tag.SYMENT)} bytes")
        return self.elf.table_at("DT_SYMTAB", address, record, count)

    @once
    def versions(self) -> Versions:
        """The version tables."""
        return read_versions(self.elf, self.dynamic, self.strings, len(self.symbols))

    @once
    def defined_versions(self) -> frozenset[tuple[str, int]] | None:
        """Name and hash of each version that the file defines; None if it has none at all."""
        return self.versions.names

    @once
    def tls(self) -> TlsImage | None:
        """PT_TLS, if it is not empty."""
        segment = self.elf.segment(SegmentType.TLS)
        if segment is None or segment.memsz == 0:
            return None
        if segment.filesz > segment.memsz or (segment.align & (segment.align - 1)):
            raise self.elf.error(
                f"PT_TLS: {segment.filesz} of {segment.memsz} bytes, alignment {segment.align:#x}"
            )
        return TlsImage(segment.vaddr, segment.filesz, segment.memsz, segment.align)

    @property
    def relro(self) -> ProgramHeader | None:
        """PT_GNU_RELRO."""
        return self.elf.segment(SegmentType.GNU_RELRO)

    def array(self, start: Tag, size: Tag) -> U64:
        """The words of an array like DT_INIT_ARRAY as they are in the file."""
        address = self.dynamic.get(start)
        word = self.elf.layout.word
        length = self.dynamic.value(size)
        if address is None or not length:
            return np.empty(0, np.uint64)
        table = self.elf.table_at(f"DT_{start.name}", address, word, length // word.itemsize)
        return table.astype(np.uint64)
