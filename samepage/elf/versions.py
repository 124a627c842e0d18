"""Symbol versions: DT_VERSYM, DT_VERDEF, DT_VERNEED.

A version index accompanies each symbol. Index 0 is local and 1 global without version;
from 2 on it names a version that the file defines (verdef) or needs of a library by
name (verneed). Bit 15 of a symbol's entry means "hidden": of a definition, that it is
not the default one (`name@V` instead of `name@@V`).

verdef and verneed are linked lists of records of 20 and 16 bytes, each with a list of 8
or 16 bytes of its own; links are byte distances. A link of 0 ends a list. A walk that
follows them only forward ends with the table. Source: LSB "Symbol Versioning",
`_dl_check_map_versions` of glibc.
"""

import struct

import numpy as np

from samepage.elf.dynamic import Dynamic, Tag
from samepage.elf.file import ElfFile
from samepage.elf.header import ElfError
from samepage.elf.layout import U16
from samepage.elf.strings import StringTable
from samepage.records import record

VER_FLG_BASE = 1
VER_FLG_WEAK = 2
HIDDEN = 0x8000
INDEX_MASK = 0x7FFF
GLIBC_2_2_5 = ("GLIBC_2.2.5", 0x09691A75)
"""Name and hash of the oldest version of glibc on x86-64."""
RELR_VERSION = "GLIBC_ABI_DT_RELR"
"""What an object with DT_RELR has to need of libc."""

_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")


@record
class Version:
    """One version that a file defines, or needs (then `file` is the library's name)."""

    index: int
    name: str
    hash: int
    file: str | None = None
    hidden: bool = False
    weak: bool = False


@record(frozen=True)
class Versions:
    """The version tables of a file.

    `symbols` is None if the file has no versions at all; otherwise it has one entry per
    dynamic symbol. `base` is the file's own name in verdef, if it has one.
    """

    symbols: U16 | None
    defined: list[Version]
    needed: list[Version]
    base: str | None = None

    @property
    def known(self) -> bool:
        """Whether ld.so looks at versions here (`l_versyms`): some version has to be listed."""
        listed = self.defined or self.needed or self.base is not None
        return self.symbols is not None and bool(listed)

    @property
    def names(self) -> frozenset[tuple[str, int]] | None:
        """Name and hash of each version that the file defines; None if it has none at all."""
        if not self.defined and self.base is None:
            return None
        return frozenset((entry.name, entry.hash) for entry in self.defined)

    def name_of(self, symbol: int) -> str:
        """The version of a symbol, defined or needed; "" if it has none."""
        version = self._of(symbol)
        return version.name if version else ""

    def file_of(self, symbol: int) -> str | None:
        """The library that a symbol's version is needed of; None if it is not."""
        version = self._of(symbol)
        return version.file if version else None

    def _of(self, symbol: int) -> Version | None:
        if self.symbols is None:
            return None
        index = int(self.symbols[symbol]) & INDEX_MASK
        entries = (entry for entry in (*self.defined, *self.needed) if entry.index == index)
        return next((entry for entry in entries if entry.hash), None)


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
    records = _Records(elf, "DT_VERDEF", start, _VERDEF.size)
    base = None
    defined: list[Version] = []
    at = 0
    while True:
        version, flags, index, count, version_hash, aux, next_record = records.read(_VERDEF, at)
        if version != 1:
            raise records.error(at, f"unknown version {version}")
        if count == 0:
            raise records.error(at, "a version without a name")
        name = strings.get(records.read(_VERDAUX, at + aux)[0], "DT_VERDEF")
        if flags & VER_FLG_BASE:
            base = name
        else:
            weak = flags & VER_FLG_WEAK != 0
            defined.append(Version(index & INDEX_MASK, name, version_hash, None, False, weak))
        if len(defined) > INDEX_MASK:
            raise records.error(at, "more versions than indices")
        if next_record == 0:
            return defined, base
        at += next_record


def _read_needed(elf: ElfFile, dynamic: Dynamic, strings: StringTable) -> list[Version]:
    start = dynamic.get(Tag.VERNEED)
    if start is None:
        return []
    records = _Records(elf, "DT_VERNEED", start, _VERNEED.size)
    needed: list[Version] = []
    get = strings.get
    record_at = 0
    while True:
        version, _, file_index, aux, next_record = records.read(_VERNEED, record_at)
        if version != 1:
            raise records.error(record_at, f"unknown version {version}")
        file = get(file_index, "DT_VERNEED")
        at = record_at + aux
        next_aux = -1
        while next_aux:
            version_hash, flags, other, name_index, next_aux = records.read(_VERNAUX, at)
            name = get(name_index, "DT_VERNEED")
            hidden, weak = other & HIDDEN != 0, flags & VER_FLG_WEAK != 0
            needed.append(Version(other & INDEX_MASK, name, version_hash, file, hidden, weak))
            at += next_aux
            if len(needed) > INDEX_MASK:
                raise records.error(at, "more versions than indices")
        if next_record == 0:
            return needed
        record_at += next_record


class _Records:
    """A linked list of records. Places in it are distances from its first record."""

    def __init__(self, elf: ElfFile, what: str, address: int, first: int) -> None:
        self._elf = elf
        self._what = what
        self._start, self._limit = elf.file_offset(what, address, first)

    def read(self, record: struct.Struct, at: int) -> tuple[int, ...]:
        """The record at a place. Raises `ElfError` if it is not in the table's segment."""
        if at + record.size > self._limit:
            raise self.error(at, "the record is outside of the table")
        return record.unpack_from(self._elf.buffer, self._start + at)

    def error(self, at: int, message: str) -> ElfError:
        """The error to raise about the record at a place."""
        return self._elf.error(f"{self._what} at offset {self._start + at:#x}: {message}")
