"""The ELF header and the program headers: all that a kernel's `execve` looks at.

This module reads the two with `struct`, since a kernel must be able to start a program
without the table machinery (and NumPy) that a linker needs. Source of the layout: the
System V ABI, "ELF Header" and "Program Header"; of the x86-64 values: its psABI.
"""

from __future__ import annotations

import struct

from samepage.errors import SamepageError
from samepage.records import record

ELF_MAGIC = b"\x7fELF"
EHDR64 = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR64 = struct.Struct("<IIQQQQQQ")


class ElfError(SamepageError):
    """The file is not an ELF file, or one whose headers cannot be right."""


class ElfType:
    """`e_type`."""

    NONE = 0
    REL = 1
    EXEC = 2
    DYN = 3
    CORE = 4


class ElfMachine:
    """`e_machine`, as far as samepage knows the architecture."""

    I386 = 3
    X86_64 = 62
    AARCH64 = 183
    RISCV = 243


class SegmentType:
    """`p_type`."""

    NULL = 0
    LOAD = 1
    DYNAMIC = 2
    INTERP = 3
    NOTE = 4
    SHLIB = 5
    PHDR = 6
    TLS = 7
    GNU_EH_FRAME = 0x6474E550
    GNU_STACK = 0x6474E551
    GNU_RELRO = 0x6474E552
    GNU_PROPERTY = 0x6474E553


class SegmentFlags:
    """`p_flags`."""

    X = 1
    W = 2
    R = 4


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
