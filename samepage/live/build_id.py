"""The build-id of an ELF file, from the few bytes that hold it.

`ld --build-id` puts a hash of the contents into a note (NT_GNU_BUILD_ID of owner "GNU"), in a
PT_NOTE segment that nearly always lies within the first 4 KiB. Two files with the same
build-id have the same code and read-only data, whatever their names are.
"""

import os
import struct

_MAGIC = b"\x7fELF\x02\x01"
"""64-bit, little-endian. The layout is defined once more in `samepage.elf.header`, whose
classes take longer to import than all build-ids of a system to read."""
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_NOTE = 4
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
    if not head.startswith(_MAGIC) or len(head) < _EHDR.size:
        return None
    header = _EHDR.unpack_from(head)
    phoff, phentsize, phnum = header[5], header[9], header[10]
    if phentsize != _PHDR.size or not 0 < phnum <= _MAX_PHNUM:
        return None
    table = _slice(fd, head, phoff, phnum * _PHDR.size)
    if len(table) < phnum * _PHDR.size:
        return None
    for kind, _, offset, _, _, filesz, _, align in _PHDR.iter_unpack(table):
        if kind == _PT_NOTE and filesz <= _MAX_NOTES:
            notes = _slice(fd, head, offset, filesz)
            build_id = find_build_id(notes, 8 if align == 8 else 4)
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
