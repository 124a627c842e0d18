"""/etc/ld.so.cache: which library name is found at which path.

`ldconfig` writes it. The new format ("glibc-ld.so.cache1.1") may follow an old one in
the same file. An entry has the library's name, its path, what kind of ELF it is, and a
hardware capability; bit 62 of the latter says that its low half is the index of a
glibc-hwcaps subdirectory whose name is in the file's extension section. Of entries for
the same name, the one of the best supported subdirectory wins, otherwise the first
plain one. Source: `dl-cache.h`, `search_cache` of glibc.
"""

import os
import struct
from dataclasses import dataclass

_OLD_MAGIC = b"ld.so-1.7.0"
_OLD_HEADER = 12
_OLD_ENTRY = 12
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_NEW_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_EXTENSION_MAGIC = 0xEAA42174
_EXTENSION_HEADER = struct.Struct("<II")
_EXTENSION_SECTION = struct.Struct("<IIII")
_TAG_GLIBC_HWCAPS = 1
_HWCAP_EXTENSION = 1 << 62

FLAGS_X86_64 = 0x0303
"""FLAG_ELF_LIBC6 | FLAG_X8664_LIB64: what ld.so of x86-64 accepts, besides FLAG_ELF (1)."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry: flags as above; `level` is the glibc-hwcaps subdirectory or empty."""

    name: str
    path: str
    flags: int
    level: str = ""


class LibraryCache:
    """The entries of an ld.so.cache that this architecture can use, by name."""

    def __init__(self, entries: list[CacheEntry]) -> None:
        self.entries: dict[str, list[CacheEntry]] = {}
        for entry in entries:
            if entry.flags in (1, FLAGS_X86_64):
                self.entries.setdefault(entry.name, []).append(entry)

    @classmethod
    def parse(cls, data: bytes | None) -> "LibraryCache":
        """Read the file's bytes. Like ld.so, take what cannot be read as no cache at all."""
        return cls(parse_cache(data) if data else [])

    def lookup(self, name: str, levels: tuple[str, ...]) -> str | None:
        """The path for a library's name; `levels` are the supported ones, best first."""
        entries = self.entries.get(name)
        if not entries:
            return None
        for level in levels:
            for entry in entries:
                if entry.level == level:
                    return entry.path
        for entry in entries:
            if not entry.level:
                return entry.path
        return None


def parse_cache(data: bytes) -> list[CacheEntry]:
    """All entries of a cache in the new format; none if the data is not such a cache."""
    start = 0
    if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER + 4:
        (count,) = struct.unpack_from("<I", data, _OLD_HEADER)
        start = (_OLD_HEADER + 4 + count * _OLD_ENTRY + 7) & ~7
    if len(data) < start + _NEW_HEADER.size:
        return []
    magic, count, _, endian, extension = _NEW_HEADER.unpack_from(data, start)
    first = start + _NEW_HEADER.size
    if magic != _NEW_MAGIC or endian not in (0, 2) or first + count * _ENTRY.size > len(data):
        return []
    levels = _hwcaps_names(data, start, extension)
    entries = []
    for flags, key, value, _, hwcap in _ENTRY.iter_unpack(
        data[first : first + count * _ENTRY.size]
    ):
        level = ""
        if hwcap & _HWCAP_EXTENSION:
            index = hwcap & 0xFFFFFFFF
            if index >= len(levels):
                continue
            level = levels[index]
        elif hwcap:
            continue  # legacy capabilities: ldconfig of 2.33 and later writes none
        name, path = _string(data, start + key), _string(data, start + value)
        if name and path:
            entries.append(CacheEntry(name, path, flags, level))
    return entries


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
