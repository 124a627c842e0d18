"""The dynamic section: the table of contents of what a dynamic linker needs.

It is an array of (tag, value) pairs that ends with DT_NULL. Most tags occur once, and
the last occurrence counts, as glibc's `elf_get_dynamic_info` overwrites its pointer at
each; DT_NEEDED, DT_AUXILIARY and DT_FILTER are lists, in order. Values that are
addresses are virtual addresses of the file.
"""

import enum
import struct

import numpy as np

from samepage.abi.elf import DynamicFlags, DynamicFlags1, SegmentType
from samepage.elf.file import ElfFile
from samepage.elf.header import ProgramHeader
from samepage.elf.layout import Table
from samepage.elf.once import once


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
    DEPAUDIT = 0x6FFFFEFB
    AUDIT = 0x6FFFFEFC
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


_PAIR64, _PAIR32 = struct.Struct("<QQ"), struct.Struct("<II")

LISTS = {int(tag): tag for tag in (Tag.NEEDED, Tag.AUXILIARY, Tag.FILTER)}


class Dynamic:
    """The dynamic section of one file.

    `get` gives the value of a tag, `places` its index in the table, which has `count`
    entries before its DT_NULL and lies at the virtual address `address`; `libraries` are
    the DT_NEEDED, DT_AUXILIARY and DT_FILTER values in the table's order. `flags_1` is
    DT_FLAGS_1; `symbolic`, `textrel` and `bind_now` are flags of DT_FLAGS, or the older
    tags of the same meaning.
    """

    def __init__(self, elf: ElfFile) -> None:
        """Raises `ElfError` if the table is outside of the file or does not end."""
        segment = elf.segment(SegmentType.DYNAMIC)
        self.address = segment.vaddr if segment else 0
        self.count = 0
        self.places: dict[int, int] = {}
        self._values: dict[int, int] = {}
        self.libraries: list[tuple[Tag, int]] = []
        dyn = elf.layout.dyn
        self._table: Table = np.empty(0, dyn)
        if segment is not None:
            self._read(elf, segment)
        values = self._values
        flags = values.get(Tag.FLAGS, 0)
        self.flags_1 = values.get(Tag.FLAGS_1, 0)
        self.symbolic = bool(flags & DynamicFlags.SYMBOLIC) or Tag.SYMBOLIC in values
        self.textrel = bool(flags & DynamicFlags.TEXTREL) or Tag.TEXTREL in values
        self.bind_now = bool(flags & DynamicFlags.BIND_NOW | self.flags_1 & DynamicFlags1.NOW) or (
            Tag.BIND_NOW in values
        )

    def _read(self, elf: ElfFile, segment: ProgramHeader) -> None:
        """What is read is what p_vaddr leads to; p_offset is not looked at, and p_filesz only
        has a section.
        """
        if not segment.filesz:
            return
        dyn = elf.layout.dyn
        offset, rest = elf.file_offset("dynamic section", segment.vaddr, dyn.itemsize)
        count = _count(elf, offset, rest // dyn.itemsize)
        self._table = elf.table("dynamic section", offset, dyn, count)
        pair = _PAIR64 if elf.layout.bits == 64 else _PAIR32
        for tag, value in pair.iter_unpack(self._table.tobytes()):
            if tag == 0:
                break
            if tag in LISTS:
                self.libraries.append((LISTS[tag], value))
            else:
                # The last of equal tags counts, as in `elf_get_dynamic_info`.
                self._values[tag] = value
            self.places[tag] = self.count
            self.count += 1
        else:
            raise elf.error(
                f"dynamic section: {count} entries at offset {segment.offset:#x} without DT_NULL"
            )

    @once
    def entries(self) -> Table:
        """The table, up to its DT_NULL."""
        return self._table[: self.count]

    @once
    def flags(self) -> int:
        """DT_FLAGS, with the older tags of the same meaning folded in."""
        flags = self.value(Tag.FLAGS) & 31
        for given, flag in (
            (self.symbolic, DynamicFlags.SYMBOLIC),
            (self.textrel, DynamicFlags.TEXTREL),
            (self.bind_now, DynamicFlags.BIND_NOW),
        ):
            flags |= flag if given else 0
        return flags

    def get(self, tag: Tag) -> int | None:
        """The value of a tag that occurs once, or None."""
        return self._values.get(tag)

    def value(self, tag: Tag, default: int = 0) -> int:
        """The value of a tag, or a default."""
        return self._values.get(tag, default)


def _count(elf: ElfFile, offset: int, available: int) -> int:
    """The number of entries up to DT_NULL and with it, or all that there is room for."""
    dyn = elf.layout.dyn
    begin, step = 0, 64
    while begin < available:
        part = elf.table(
            "dynamic section", offset + begin * dyn.itemsize, dyn, min(step, available - begin)
        )
        ends = (part["d_tag"] == 0).nonzero()[0]
        if len(ends):
            return begin + int(ends[0]) + 1
        begin += step
        step *= 2
    return available
