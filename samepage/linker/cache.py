"""/etc/ld.so.cache: which library name is found at which path.

`ldconfig` writes it. The new format ("glibc-ld.so.cache1.1") may follow an old one in
the same file. An entry has the library's name, its path, what kind of ELF it is, and a
hardware capability; bit 62 of the latter means that its low half is the index of a
glibc-hwcaps subdirectory whose name is in the file's extension section. Of entries for
the same name, the one of the best supported subdirectory wins, otherwise the first
plain one. Source: `dl-cache.h`, `search_cache` of glibc.
"""

import os
import struct
from functools import lru_cache

import numpy as np

from samepage.records import record

_OLD_MAGIC = b"ld.so-1.7.0"
_OLD_HEADER = 12
_OLD_ENTRY = 12
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_NEW_HEADER = struct.Struct("<20sIIB3xI12x")
_EXTENSION_MAGIC = 0xEAA42174
_EXTENSION_HEADER = struct.Struct("<II")
_EXTENSION_SECTION = struct.Struct("<IIII")
_TAG_GLIBC_HWCAPS = 1
_HWCAP_EXTENSION = 1 << 62

FLAGS_X86_64 = 0x0303
"""FLAG_ELF_LIBC6 | FLAG_X8664_LIB64: what ld.so of x86-64 accepts, besides FLAG_ELF (1)."""

_LONGEST = 4096
"""PATH_MAX: a longer name is none that a file could have."""

_ENTRIES = np.dtype(
    [("flags", "<i4"), ("key", "<u4"), ("value", "<u4"), ("osversion", "<u4"), ("hwcap", "<u8")]
)


@record
class CacheEntry:
    """One entry: flags as above; `level` is the glibc-hwcaps subdirectory or empty."""

    name: str
    path: str
    flags: int
    level: str = ""


class LibraryCache:
    """An ld.so.cache. Of its entries only the names are read; a program needs few of them."""

    def __init__(self, data: bytes | None) -> None:
        """Take the file's bytes. Like ld.so, take what cannot be read as no cache at all."""
        self._data = data or b""
        self._start = 0
        self._levels: list[str] = []
        self._table = np.empty(0, _ENTRIES)
        self._by_name: dict[bytes, list[int]] = {}
        self._read_header()
        data = self._data
        for index, key in enumerate(self._table["key"].tolist()):
            start = self._start + key
            end = data.find(b"\0", start, start + _LONGEST)
            if end > start:
                self._by_name.setdefault(data[start:end], []).append(index)

    def _read_header(self) -> None:
        data, start = self._data, 0
        if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER + 4:
            (count,) = struct.unpack_from("<I", data, _OLD_HEADER)
            start = (_OLD_HEADER + 4 + count * _OLD_ENTRY + 7) & ~7
        if len(data) < start + _NEW_HEADER.size:
            return
        magic, count, _, endian, extension = _NEW_HEADER.unpack_from(data, start)
        first = start + _NEW_HEADER.size
        if magic != _NEW_MAGIC or endian not in (0, 2):
            return
        if first + count * _ENTRIES.itemsize > len(data):
            return
        self._start = start
        self._table = np.frombuffer(data, _ENTRIES, count, first)
        self._levels = _hwcaps_names(data, start, extension)

    def entries(self) -> list[CacheEntry]:
        """All entries, of every architecture, in the order of the file."""
        return [entry for index in range(len(self._table)) if (entry := self._entry(index))]

    def _entry(self, index: int) -> CacheEntry | None:
        flags, key, value, _, hwcap = self._table[index].tolist()
        level = ""
        if hwcap & _HWCAP_EXTENSION:
            number = hwcap & 0xFFFFFFFF
            if number >= len(self._levels):
                return None
            level = self._levels[number]
        elif hwcap:
            return None  # legacy capabilities: ldconfig of 2.33 and later writes none
        name = _string(self._data, self._start + key)
        path = _string(self._data, self._start + value)
        return CacheEntry(name, path, flags, level) if name and path else None

    def lookup(self, name: str, levels: tuple[str, ...]) -> str | None:
        """The path for a library's name; `levels` are the supported ones, best first."""
        entries = [
            entry
            for index in self._by_name.get(os.fsencode(name), ())
            if (entry := self._entry(index)) and entry.flags in (1, FLAGS_X86_64)
        ]
        for level in (*levels, ""):
            for entry in entries:
                if entry.level == level:
                    return entry.path
        return None


@lru_cache(maxsize=1)
def library_cache(data: bytes | None) -> LibraryCache:
    """The cache of a file with this content. The last one is kept for the next program."""
    return LibraryCache(data)


def _hwcaps_names(data: bytes, start: int, extension: int) -> list[str]:
    """The glibc-hwcaps subdirectories that the extension section names, in its order."""
    at = start + extension
    if not extension or at + _EXTENSION_HEADER.size > len(data):
        return []
    magic, count = _EXTENSION_HEADER.unpack_from(data, at)
    if magic != _EXTENSION_MAGIC:
        return []
    at += _EXTENSION_HEADER.size
    for index in range(min(count, (len(data) - at) // _EXTENSION_SECTION.size)):
        tag, _, offset, size = _EXTENSION_SECTION.unpack_from(
            data, at + index * _EXTENSION_SECTION.size
        )
        if tag == _TAG_GLIBC_HWCAPS and start + offset + size <= len(data):
            words = struct.unpack_from(f"<{size // 4}I", data, start + offset)
            return [_string(data, start + word) for word in words]
    return []


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    return os.fsdecode(data[offset:end]) if end >= 0 else ""
