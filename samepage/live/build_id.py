"""The build-id of an ELF file, from the few bytes that hold it.

`ld --build-id` puts a hash of the contents into a note (NT_GNU_BUILD_ID of owner "GNU"), in a
PT_NOTE segment that nearly always lies within the first 4 KiB. Two files with the same
build-id have the same code and read-only data, whatever their names are.
"""

import os

from samepage.abi.elf import (
    EHDR64,
    ELF_MAGIC,
    ELFCLASS64,
    ELFDATA2LSB,
    NHDR,
    NT_GNU_BUILD_ID,
    PHDR64,
    SegmentType,
)

_MAGIC = ELF_MAGIC + bytes((ELFCLASS64, ELFDATA2LSB))
_HEAD = 4096
_MAX_PHNUM = 1024
_MAX_NOTES = 1 << 16
_MAX_BUILD_ID = 64


def read_build_id(fd: int) -> str | None:
    """Return the build-id of an open file in hexadecimal, None if it has none.

    Files that are not 64-bit ELF, or damaged, have none. Raises `OSError`.
    """
    head = os.pread(fd, _HEAD, 0)
    if not head.startswith(_MAGIC) or len(head) < EHDR64.size:
        return None
    header = EHDR64.unpack_from(head)
    phoff, phentsize, phnum = header[5], header[9], header[10]
    if phentsize != PHDR64.size or not 0 < phnum <= _MAX_PHNUM:
        return None
    table = _slice(fd, head, phoff, phnum * PHDR64.size)
    if len(table) < phnum * PHDR64.size:
        return None
    for kind, _, offset, _, _, filesz, _, align in PHDR64.iter_unpack(table):
        if kind == SegmentType.NOTE and filesz <= _MAX_NOTES:
            notes = _slice(fd, head, offset, filesz)
            build_id = find_build_id(notes, 8 if align == 8 else 4)
            if build_id:
                return build_id
    return None


def find_build_id(notes: bytes, align: int) -> str | None:
    """Return the build-id out of a note segment whose entries are padded to `align` bytes."""
    position = 0
    while position + NHDR.size <= len(notes):
        name_size, size, note_type = NHDR.unpack_from(notes, position)
        name = position + NHDR.size
        content = position + _padded(NHDR.size + name_size, align)
        if (
            note_type == NT_GNU_BUILD_ID
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
