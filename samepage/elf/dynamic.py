"""The dynamic section: the table of contents of what a dynamic linker needs.

It is an array of (tag, value) pairs that ends with DT_NULL. Most tags occur once, and
the last occurrence counts, as glibc's `elf_get_dynamic_info` overwrites its pointer at
each; DT_NEEDED, DT_AUXILIARY and DT_FILTER are lists, in order. Values that are
addresses are virtual addresses of the file.
"""

import enum

import numpy as np

from samepage.elf.file import ElfFile
from samepage.elf.header import SegmentType
from samepage.elf.layout import Table


class Tag(enum.IntEnum):
    """`d_tag`: the generic ABI's, GNU's and the architectures' that samepage uses."""

    NULL = 0
    NEEDED = 1
    PLTRELSZ = 2
    PLTGOT = 3
    HASH = 4
    STRTAB = 5
    SYMTAB = 6
    RELA = 7
    RELASZ = 8
    RELAENT = 9
    STRSZ = 10
    SYMENT = 11
    INIT = 12
    FINI = 13
    SONAME = 14
    RPATH = 15
    SYMBOLIC = 16
    REL = 17
    RELSZ = 18
    RELENT = 19
    PLTREL = 20
    DEBUG = 21
    TEXTREL = 22
    JMPREL = 23
    BIND_NOW = 24
    INIT_ARRAY = 25
    FINI_ARRAY = 26
    INIT_ARRAYSZ = 27
    FINI_ARRAYSZ = 28
    RUNPATH = 29
    FLAGS = 30
    PREINIT_ARRAY = 32
    PREINIT_ARRAYSZ = 33
    SYMTAB_SHNDX = 34
    RELRSZ = 35
    RELR = 36
    RELRENT = 37
    GNU_HASH = 0x6FFFFEF5
    TLSDESC_PLT = 0x6FFFFEF6
    TLSDESC_GOT = 0x6FFFFEF7
    VERSYM = 0x6FFFFFF0
    RELACOUNT = 0x6FFFFFF9
    RELCOUNT = 0x6FFFFFFA
    FLAGS_1 = 0x6FFFFFFB
    VERDEF = 0x6FFFFFFC
    VERDEFNUM = 0x6FFFFFFD
    VERNEED = 0x6FFFFFFE
    VERNEEDNUM = 0x6FFFFFFF
    AUXILIARY = 0x7FFFFFFD
    FILTER = 0x7FFFFFFF


class DynamicFlags(enum.IntFlag):
    """DT_FLAGS."""

    ORIGIN = 1
    SYMBOLIC = 2
    TEXTREL = 4
    BIND_NOW = 8
    STATIC_TLS = 16


class DynamicFlags1(enum.IntFlag):
    """DT_FLAGS_1, as far as glibc acts on them."""

    NOW = 0x1
    GLOBAL = 0x2
    NODELETE = 0x8
    INITFIRST = 0x20
    NOOPEN = 0x40
    ORIGIN = 0x80
    NODEFLIB = 0x800
    PIE = 0x8000000


LISTS = (Tag.NEEDED, Tag.AUXILIARY, Tag.FILTER)


class Dynamic:
    """The dynamic section of one file.

    `entries` is the view of the table up to its DT_NULL, `address` its virtual address.
    `get` gives the value of a tag, `libraries` the DT_NEEDED, DT_AUXILIARY and DT_FILTER
    values in the table's order. `flags` is DT_FLAGS with the older tags of the same
    meaning folded in, `flags_1` is DT_FLAGS_1.
    """

    __slots__ = ("_values", "address", "entries", "flags", "flags_1", "libraries")

    def __init__(self, elf: ElfFile) -> None:
        """Raises `ElfError` if the table is outside of the file or does not end."""
        segment = elf.segment(SegmentType.DYNAMIC)
        self.address = segment.vaddr if segment else 0
        self._values: dict[int, int] = {}
        self.libraries: list[tuple[Tag, int]] = []
        self.flags_1 = 0
        self.flags = DynamicFlags(0)
        dyn = elf.layout.dyn
        if segment is None:
            self.entries: Table = np.empty(0, dyn)
            return
        count = segment.filesz // dyn.itemsize
        table = elf.table_at("dynamic section", segment.vaddr, dyn, count)
        tags = table["d_tag"].tolist()
        try:
            end = tags.index(Tag.NULL)
        except ValueError:
            raise elf.error(
                f"dynamic section: {count} entries at offset {segment.offset:#x} without DT_NULL"
            ) from None
        self.entries = table[:end]
        for tag, value in zip(tags[:end], table["d_val"][:end].tolist(), strict=True):
            if tag in LISTS:
                self.libraries.append((Tag(tag), value))
            else:
                self._values[tag] = value
        self.flags_1 = self.value(Tag.FLAGS_1)
        self.flags = self._read_flags()

    def get(self, tag: Tag) -> int | None:
        """The value of a tag that occurs once, or None."""
        return self._values.get(tag)

    def value(self, tag: Tag, default: int = 0) -> int:
        """The value of a tag, or a default."""
        return self._values.get(tag, default)

    def _read_flags(self) -> DynamicFlags:
        flags = self.value(Tag.FLAGS) & 31
        if Tag.SYMBOLIC in self._values:
            flags |= DynamicFlags.SYMBOLIC
        if Tag.TEXTREL in self._values:
            flags |= DynamicFlags.TEXTREL
        if Tag.BIND_NOW in self._values or self.flags_1 & DynamicFlags1.NOW:
            flags |= DynamicFlags.BIND_NOW
        return DynamicFlags(flags)
