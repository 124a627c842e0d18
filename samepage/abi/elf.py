"""ELF files: the headers' layouts, and the values of their fields.

Source: System V ABI, chapters 4 and 5 ("Object Files", "Program Loading and Dynamic
Linking"), with the GNU extensions of glibc's elf.h. What is read as whole tables has its
layout as NumPy types in `samepage.elf.layout`; the tags of the dynamic section are in
`samepage.elf.dynamic`, and relocation types in `samepage.elf.machines`.
"""

import struct

ELF_MAGIC = b"\x7fELF"
EI_NIDENT = 16
ELFCLASS64 = 2
ELFDATA2LSB = 1

EHDR64 = struct.Struct("<16sHHIQQQIHHHHHH")
EHDR32 = struct.Struct("<16sHHIIIIIHHHHHH")
PHDR64 = struct.Struct("<IIQQQQQQ")
PHDR32 = struct.Struct("<IIIIIIII")
"""The fields' order differs between the classes: `p_flags` is second in PHDR64, seventh here."""

NHDR = struct.Struct("<III")
"""A note's header: sizes of name and descriptor, and the type."""


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


SHT_SYMTAB = 2
SHT_NOBITS = 8
SHT_DYNSYM = 11
SHF_WRITE, SHF_ALLOC, SHF_TLS = 1, 2, 0x400

SHN_UNDEF = 0
SHN_ABS = 0xFFF1

STB_LOCAL, STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 0, 1, 2, 10
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_COMMON, STT_TLS, STT_GNU_IFUNC = 0, 1, 2, 5, 6, 10
STV_DEFAULT, STV_INTERNAL, STV_HIDDEN, STV_PROTECTED = 0, 1, 2, 3


class DynamicFlags:
    """`DF_*`, of DT_FLAGS."""

    ORIGIN = 1
    SYMBOLIC = 2
    TEXTREL = 4
    BIND_NOW = 8
    STATIC_TLS = 16


class DynamicFlags1:
    """`DF_1_*`, of DT_FLAGS_1, as far as glibc acts on them."""

    NOW = 0x1
    GLOBAL = 0x2
    NODELETE = 0x8
    INITFIRST = 0x20
    NOOPEN = 0x40
    ORIGIN = 0x80
    NODEFLIB = 0x800
    PIE = 0x8000000


NT_GNU_BUILD_ID = 3
NT_GNU_PROPERTY_TYPE_0 = 5
