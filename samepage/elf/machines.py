"""What the relocation types of each architecture mean.

Every architecture numbers its own relocation types, but a dynamic linker does only a
dozen different things with them. `Kind` names those; the tables give which type of which
architecture is which. x86-64 is complete as far as glibc's ld.so accepts types in a
dynamic object; of the others, the types that linkers put into dynamic objects are here.
Sources: the psABI documents of the architectures, `elf_machine_rela` of glibc.
"""

import enum

import numpy as np

from samepage.abi.elf import ElfMachine
from samepage.elf.layout import I64, U8, U32
from samepage.records import record


class Kind(enum.IntEnum):
    """What a relocation stores at its place."""

    UNKNOWN = 0
    NONE = 1
    RELATIVE = 2  # base + addend
    ABSOLUTE = 3  # symbol + addend, a pointer
    GLOB_DAT = 4  # symbol (+ addend), a GOT entry
    JUMP_SLOT = 5  # symbol, a PLT's GOT entry: may be bound lazily
    COPY = 6  # the bytes of the symbol
    IRELATIVE = 7  # what the resolver at base + addend returns
    DTPMOD = 8  # the symbol's TLS module number
    DTPOFF = 9  # the symbol's offset in its TLS block
    TPOFF = 10  # the symbol's offset from the thread pointer
    TLSDESC = 11  # a TLS descriptor: function and argument
    PC_RELATIVE = 12  # symbol + addend - place
    SIZE = 13  # the symbol's size + addend
    ABSOLUTE_32 = 14  # symbol + addend, in 4 bytes of an 8-byte architecture
    PC_RELATIVE_32 = 15
    SIZE_32 = 16


WIDTHS = {Kind.NONE: 0, Kind.ABSOLUTE_32: 4, Kind.PC_RELATIVE_32: 4, Kind.SIZE_32: 4}
"""Bytes that a kind stores, where it is not a machine word (TLSDESC stores two)."""

NEEDS_SYMBOL = (
    Kind.ABSOLUTE,
    Kind.GLOB_DAT,
    Kind.JUMP_SLOT,
    Kind.COPY,
    Kind.DTPMOD,
    Kind.DTPOFF,
    Kind.TPOFF,
    Kind.TLSDESC,
    Kind.PC_RELATIVE,
    Kind.SIZE,
    Kind.ABSOLUTE_32,
    Kind.PC_RELATIVE_32,
    Kind.SIZE_32,
)


@record(frozen=True)
class Machine:
    """One architecture: its name, and (name, kind) of each relocation type."""

    name: str
    types: dict[int, tuple[str, Kind]]

    def kind_table(self) -> U8:
        """The kinds as an array, indexed by type; `Kind.UNKNOWN` where none is known."""
        table = np.zeros(max(self.types) + 2, np.uint8)
        for number, (_, kind) in self.types.items():
            table[number] = kind
        return table

    def type_name(self, number: int) -> str:
        """The name of a relocation type as `readelf` has it."""
        return self.types[number][0] if number in self.types else f"type {number}"


def kinds_of(kind_table: U8, types: U32 | I64) -> U8:
    """The kind of each relocation type; the table's last entry is `UNKNOWN`."""
    kinds: U8 = kind_table[np.minimum(types, len(kind_table) - 1)]
    return kinds


_X86_64 = Machine(
    "x86_64",
    {
        0: ("R_X86_64_NONE", Kind.NONE),
        1: ("R_X86_64_64", Kind.ABSOLUTE),
        2: ("R_X86_64_PC32", Kind.PC_RELATIVE_32),
        5: ("R_X86_64_COPY", Kind.COPY),
        6: ("R_X86_64_GLOB_DAT", Kind.GLOB_DAT),
        7: ("R_X86_64_JUMP_SLOT", Kind.JUMP_SLOT),
        8: ("R_X86_64_RELATIVE", Kind.RELATIVE),
        10: ("R_X86_64_32", Kind.ABSOLUTE_32),
        16: ("R_X86_64_DTPMOD64", Kind.DTPMOD),
        17: ("R_X86_64_DTPOFF64", Kind.DTPOFF),
        18: ("R_X86_64_TPOFF64", Kind.TPOFF),
        32: ("R_X86_64_SIZE32", Kind.SIZE_32),
        33: ("R_X86_64_SIZE64", Kind.SIZE),
        36: ("R_X86_64_TLSDESC", Kind.TLSDESC),
        37: ("R_X86_64_IRELATIVE", Kind.IRELATIVE),
        38: ("R_X86_64_RELATIVE64", Kind.RELATIVE),
    },
)

_I386 = Machine(
    "i386",
    {
        0: ("R_386_NONE", Kind.NONE),
        1: ("R_386_32", Kind.ABSOLUTE),
        2: ("R_386_PC32", Kind.PC_RELATIVE),
        5: ("R_386_COPY", Kind.COPY),
        6: ("R_386_GLOB_DAT", Kind.GLOB_DAT),
        7: ("R_386_JMP_SLOT", Kind.JUMP_SLOT),
        8: ("R_386_RELATIVE", Kind.RELATIVE),
        14: ("R_386_TLS_TPOFF", Kind.TPOFF),
        35: ("R_386_TLS_DTPMOD32", Kind.DTPMOD),
        36: ("R_386_TLS_DTPOFF32", Kind.DTPOFF),
        37: ("R_386_TLS_TPOFF32", Kind.TPOFF),
        38: ("R_386_SIZE32", Kind.SIZE),
        41: ("R_386_TLS_DESC", Kind.TLSDESC),
        42: ("R_386_IRELATIVE", Kind.IRELATIVE),
    },
)

_AARCH64 = Machine(
    "aarch64",
    {
        0: ("R_AARCH64_NONE", Kind.NONE),
        257: ("R_AARCH64_ABS64", Kind.ABSOLUTE),
        258: ("R_AARCH64_ABS32", Kind.ABSOLUTE_32),
        1024: ("R_AARCH64_COPY", Kind.COPY),
        1025: ("R_AARCH64_GLOB_DAT", Kind.GLOB_DAT),
        1026: ("R_AARCH64_JUMP_SLOT", Kind.JUMP_SLOT),
        1027: ("R_AARCH64_RELATIVE", Kind.RELATIVE),
        1028: ("R_AARCH64_TLS_DTPMOD64", Kind.DTPMOD),
        1029: ("R_AARCH64_TLS_DTPREL64", Kind.DTPOFF),
        1030: ("R_AARCH64_TLS_TPREL64", Kind.TPOFF),
        1031: ("R_AARCH64_TLSDESC", Kind.TLSDESC),
        1032: ("R_AARCH64_IRELATIVE", Kind.IRELATIVE),
    },
)

_RISCV = Machine(
    "riscv",
    {
        0: ("R_RISCV_NONE", Kind.NONE),
        1: ("R_RISCV_32", Kind.ABSOLUTE_32),
        2: ("R_RISCV_64", Kind.ABSOLUTE),
        3: ("R_RISCV_RELATIVE", Kind.RELATIVE),
        4: ("R_RISCV_COPY", Kind.COPY),
        5: ("R_RISCV_JUMP_SLOT", Kind.JUMP_SLOT),
        7: ("R_RISCV_TLS_DTPMOD64", Kind.DTPMOD),
        9: ("R_RISCV_TLS_DTPREL64", Kind.DTPOFF),
        11: ("R_RISCV_TLS_TPREL64", Kind.TPOFF),
        12: ("R_RISCV_TLSDESC", Kind.TLSDESC),
        58: ("R_RISCV_IRELATIVE", Kind.IRELATIVE),
    },
)

MACHINES: dict[int, Machine] = {
    ElfMachine.X86_64: _X86_64,
    ElfMachine.I386: _I386,
    ElfMachine.AARCH64: _AARCH64,
    ElfMachine.RISCV: _RISCV,
}
KIND_TABLES: dict[int, U8] = {number: m.kind_table() for number, m in MACHINES.items()}
