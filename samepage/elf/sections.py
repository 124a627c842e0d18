"""Section headers: names for ranges of the file, where it still has them.

A dynamic linker does not look at sections, and a file without any is valid. They are
read only to name the part of a library that a page belongs to.
"""

import numpy as np

from samepage.abi.elf import SHF_ALLOC, SHF_TLS, SHF_WRITE, SHT_NOBITS
from samepage.elf.file import ElfFile
from samepage.elf.header import ElfError
from samepage.elf.layout import Table
from samepage.records import record


@record(frozen=True)
class Section:
    """One section. `address` is 0 if it is not loaded; `in_file` is False for .bss."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    alignment: int

    @property
    def writable(self) -> bool:
        return bool(self.flags & SHF_WRITE)

    @property
    def thread_local(self) -> bool:
        return bool(self.flags & SHF_TLS)

    @property
    def loaded(self) -> bool:
        return bool(self.flags & SHF_ALLOC)

    @property
    def in_file(self) -> bool:
        return self.type != SHT_NOBITS


def read_sections(elf: ElfFile) -> list[Section]:
    """The sections in the order of the table; none if the file has no (usable) table.

    A name that cannot be read is empty.
    """
    headers = section_headers(elf)
    if not len(headers):
        return []
    start = size = 0
    if elf.shstrndx < elf.shnum:
        names = headers[elf.shstrndx]
        start, size = int(names["sh_offset"]), int(names["sh_size"])
    columns = ("sh_name", "sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_addralign")
    return [
        Section(_name(elf, start + name, start + size), *rest)
        for name, *rest in zip(*(headers[column].tolist() for column in columns), strict=True)
    ]


def section_headers(elf: ElfFile) -> Table:
    """The table of sections; empty if the file has none, or claims an offset where the file is
    not: no loader looks there, so the library is a good one.
    """
    if not elf.shnum or elf.shoff + elf.shnum * elf.layout.shdr.itemsize > elf.size:
        return np.empty(0, elf.layout.shdr)
    return elf.table("section headers", elf.shoff, elf.layout.shdr, elf.shnum)


def _name(elf: ElfFile, offset: int, limit: int) -> str:
    try:
        return elf.string("section names", offset, min(limit, elf.size))
    except ElfError:
        return ""
