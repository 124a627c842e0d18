"""The build-id of an ELF file, from the few bytes that hold it.

`ld --build-id` puts a hash of the contents into a note (NT_GNU_BUILD_ID of owner "GNU"), in a
PT_NOTE segment that nearly always lies within the first 4 KiB. Two files with the same
build-id have the same code and read-only data, whatever their names are.
"""

import os
import struct

from samepage.elf.header import (
    ELF_MAGIC,
    PHDR64,
    ElfError,
    SegmentType,
    parse_elf_header,
    parse_program_headers,
)

_HEAD = 4096
_NOTE = struct.Struct("<III")
_NT_GNU_BUILD_ID = 3
_MAX_PHNUM = 1024
_MAX_NOTES = 1 << 16
_MAX_BUILD_ID = 64


def read_build_id(fd: int) -> str | None:
    """Return the build-id of an open file in hexadecimal, None if it has none.

    Files that are not 64-bit ELF, or damaged, have none. Raises `OSError`.
    """
    head = os.pread(fd, _HEAD, 0)
    if not head.startswith(ELF_MAGIC):
        return None
    try:
        header = parse_elf_header(head)
        if header.phentsize != PHDR64.size or not 0 < header.phnum <= _MAX_PHNUM:
            return None
        size = header.phnum * PHDR64.size
        segments = parse_program_headers(_slice(fd, head, header.phoff, size), header.phnum)
    except ElfError:
        return None
    for segment in segments:
        if segment.type == SegmentType.NOTE and segment.filesz <= _MAX_NOTES:
            notes = _slice(fd, head, segment.offset, segment.filesz)
            build_id = find_build_id(notes, 8 if segment.align == 8 else 4)
            if build_id:
                return build_id
    return None


def find_build_id(notes: bytes, align: int) -> str | None:
    """Return the build-id out of a note segment whose entries are padded to `align` bytes."""
    position = 0
    while position + _NOTE.size <= len(notes):
        name_size, size, note_type = _NOTE.unpack_from(notes, position)
        name = position + _NOTE.size
        content = position + _padded(_NOTE.size + name_size, align)
        if (
            note_type == _NT_GNU_BUILD_ID
            and notes[name : name + name_size] == b"GNU\0"
            and 0 < size <= _MAX_BUILD_ID
            and content + size <= len(notes)
        ):
            return notes[content : content + size].hex()
        position = content + _padded(size, align)
    return None


def _padded(size: int, align: int) -> int:
    return (size + align - 1) & -align


def _slice(fd: int, head: bytes, offset: int, size: int) -> bytes:
    if offset + size <= len(head):
        return head[offset : offset + size]
    if offset >= 1 << 62:
        return b""
    return os.pread(fd, size, offset)
