"""Section headers: names for ranges of the file, where it still has them.

A dynamic linker does not look at sections, and a file without any is valid. They are
read only to tell people which part of a library a page belongs to.
"""

from dataclasses import dataclass

from samepage.abi.elf import SHF_ALLOC, SHF_TLS, SHF_WRITE, SHT_NOBITS
from samepage.elf.file import ElfFile


@dataclass(frozen=True, slots=True)
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
    """The sections in the order of the table; none if the file has been stripped of it.

    Raises `ElfError` if the table or its names lie outside of the file.
    """
    if not elf.shnum:
        return []
    headers = elf.table("section headers", elf.shoff, elf.layout.shdr, elf.shnum)
    if elf.shstrndx >= elf.shnum:
        raise elf.error(f"section headers: no section {elf.shstrndx} with the names")
    names = headers[elf.shstrndx]
    start, size = int(names["sh_offset"]), int(names["sh_size"])
    if start + size > elf.size:
        raise elf.error(f"section names: offset {start:#x} is beyond the end of the file")
    columns = ("sh_name", "sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_addralign")
    return [
        Section(elf.string("section names", start + name, start + size), *rest)
        for name, *rest in zip(*(headers[column].tolist() for column in columns), strict=True)
    ]
