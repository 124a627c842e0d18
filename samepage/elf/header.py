"""The ELF header and the program headers: all that a kernel's `execve` looks at.

This module reads the two with `struct`, since a kernel must be able to start a program
without the table machinery (and NumPy) that a linker needs. Source of the layout: the
System V ABI, "ELF Header" and "Program Header"; of the x86-64 values: its psABI.
"""

from __future__ import annotations

from samepage.abi.elf import EHDR64, ELF_MAGIC, PHDR64, ElfMachine
from samepage.errors import SamepageError
from samepage.records import record


class ElfError(SamepageError):
    """The file is not an ELF file, or one whose headers cannot be right."""


@record
class ProgramHeader:
    """One segment. Addresses, offsets and sizes are in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


@record(frozen=True)
class ElfHeader:
    """The fields of an ELF64 header that loading uses."""

    type: int
    machine: int
    entry: int
    phoff: int
    phentsize: int
    phnum: int


def parse_elf_header(data: bytes) -> ElfHeader:
    """Read a little-endian ELF64 header from the first 64 bytes of a file.

    The machine is what counts, as for Linux (`elf_check_arch`): only where it is another one,
    class and byte order are looked at.

    Raises `ElfError` if the magic, the size, or class and byte order are not right.
    """
    if data[:4] != ELF_MAGIC:
        raise ElfError("not an ELF file")
    if len(data) < EHDR64.size:
        raise ElfError(f"truncated ELF header ({len(data)} of {EHDR64.size} bytes)")
    (_, e_type, machine, _, entry, phoff, _, _, _, phentsize, phnum, _, _, _) = EHDR64.unpack_from(
        data
    )
    if machine != ElfMachine.X86_64 and data[4] != 2:
        raise ElfError("not a 64-bit ELF file")
    if machine != ElfMachine.X86_64 and data[5] != 1:
        raise ElfError("not a little-endian ELF file")
    return ElfHeader(e_type, machine, entry, phoff, phentsize, phnum)


def parse_program_headers(table: bytes, phnum: int) -> list[ProgramHeader]:
    """Read `phnum` program headers from `table`, the bytes of the file at `e_phoff`.

    Raises `ElfError` if the table is shorter than `phnum` entries.
    """
    if len(table) < phnum * PHDR64.size:
        raise ElfError("program headers lie beyond the end of the file")
    return [
        ProgramHeader(p_type, flags, offset, vaddr, filesz, memsz, align)
        for p_type, flags, offset, vaddr, _, filesz, memsz, align in PHDR64.iter_unpack(
            table[: phnum * PHDR64.size]
        )
    ]
