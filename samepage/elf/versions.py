"""Symbol versions: DT_VERSYM, DT_VERDEF, DT_VERNEED.

A version index accompanies each symbol. Index 0 is local and 1 global without version;
from 2 on it names a version that the file defines (verdef) or needs of a library by
name (verneed). Bit 15 of a symbol's entry says "hidden": of a definition, that it is
not the default one (`name@V` instead of `name@@V`).

verdef and verneed are linked lists of records of 20 and 16 bytes, each with a list of 8
or 16 bytes of its own; links are byte distances. A link of 0 ends a list. A walk that
follows them only forward ends with the table. Source: LSB "Symbol Versioning",
`_dl_check_map_versions` of glibc.
"""

import struct
from dataclasses import dataclass

import numpy as np

from samepage.elf.dynamic import Dynamic, Tag
from samepage.elf.file import ElfFile
from samepage.elf.layout import U16
from samepage.elf.strings import StringTable

VER_FLG_BASE = 1
VER_FLG_WEAK = 2
HIDDEN = 0x8000
INDEX_MASK = 0x7FFF

_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")


@dataclass(frozen=True, slots=True)
class Version:
    """One version that a file defines, or needs (then `file` is the library's name)."""

    index: int
    name: str
    hash: int
    file: str | None = None
    hidden: bool = False
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Versions:
    """The version tables of a file.

    `symbols` is None if the file has no versions at all; otherwise it has one entry per
    dynamic symbol. `base` is the file's own name in verdef, if it has one.
    """

    symbols: U16 | None
    defined: list[Version]
    needed: list[Version]
    base: str | None = None


def read_versions(
    elf: ElfFile, dynamic: Dynamic, strings: StringTable, symbol_count: int
) -> Versions:
    """Read the version tables. Raises `ElfError` if they cannot be right."""
    address = dynamic.get(Tag.VERSYM)
    symbols = None
    if address is not None:
        symbols = elf.table_at("DT_VERSYM", address, np.dtype("<u2"), symbol_count)
    defined, base = _read_defined(elf, dynamic, strings)
    needed = _read_needed(elf, dynamic, strings)
    return Versions(symbols, defined, needed, base)


def _read_defined(
    elf: ElfFile, dynamic: Dynamic, strings: StringTable
) -> tuple[list[Version], str | None]:
    start = dynamic.get(Tag.VERDEF)
    if start is None:
        return [], None
    what = "DT_VERDEF"
    base = None
    defined = []
    offset, rest = elf.file_offset(what, start, _VERDEF.size)
    limit = offset + rest
    while True:
        record = _read(elf, what, _VERDEF, offset, limit)
        version, flags, index, count, version_hash, aux, next_record = record
        if version != 1:
            raise elf.error(f"{what} at offset {offset:#x}: unknown version {version}")
        if count == 0:
            raise elf.error(f"{what} at offset {offset:#x}: a version without a name")
        name_index, _ = _read(elf, what, _VERDAUX, offset + aux, limit)
        name = strings.get(name_index, what)
        if flags & VER_FLG_BASE:
            base = name
        else:
            weak = bool(flags & VER_FLG_WEAK)
            defined.append(Version(index & INDEX_MASK, name, version_hash, None, False, weak))
        if len(defined) > INDEX_MASK:
            raise elf.error(f"{what} at offset {offset:#x}: more versions than indices")
        if next_record == 0:
            return defined, base
        offset += next_record


def _read_needed(elf: ElfFile, dynamic: Dynamic, strings: StringTable) -> list[Version]:
    start = dynamic.get(Tag.VERNEED)
    if start is None:
        return []
    what = "DT_VERNEED"
    needed = []
    offset, rest = elf.file_offset(what, start, _VERNEED.size)
    limit = offset + rest
    while True:
        version, _, file_index, aux, next_record = _read(elf, what, _VERNEED, offset, limit)
        if version != 1:
            raise elf.error(f"{what} at offset {offset:#x}: unknown version {version}")
        file = strings.get(file_index, what)
        at = offset + aux
        while True:
            version_hash, flags, other, name_index, next_aux = _read(elf, what, _VERNAUX, at, limit)
            needed.append(
                Version(
                    other & INDEX_MASK,
                    strings.get(name_index, what),
                    version_hash,
                    file,
                    bool(other & HIDDEN),
                    bool(flags & VER_FLG_WEAK),
                )
            )
            if len(needed) > INDEX_MASK:
                raise elf.error(f"{what} at offset {at:#x}: more versions than indices")
            if next_aux == 0:
                break
            at += next_aux
        if next_record == 0:
            return needed
        offset += next_record


def _read(
    elf: ElfFile, what: str, record: struct.Struct, offset: int, limit: int
) -> tuple[int, ...]:
    if offset + record.size > limit:
        raise elf.error(f"{what}: the record at offset {offset:#x} is outside of the table")
    return record.unpack_from(elf.buffer, offset)
