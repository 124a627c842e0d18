"""Notes: the build-id, and the GNU property array.

A note is a header of three words, an owner's name and a descriptor, both padded. The
padding is 4 bytes, except that a PT_NOTE with an alignment of 8 pads to 8: glibc and
the kernel do the same for `.note.gnu.property`. Sources: gABI "Note Section", Linux
gABI extensions (`GNU_PROPERTY_TYPE_0`).
"""

import struct
from collections.abc import Iterator

from samepage.abi.elf import NHDR, NT_GNU_BUILD_ID, NT_GNU_PROPERTY_TYPE_0, SegmentType
from samepage.elf.file import ElfFile
from samepage.records import record

_PROPERTY = struct.Struct("<II")


@record(frozen=True)
class Note:
    """One note: the owner's name, the owner's own type number, and the descriptor."""

    owner: str
    type: int
    descriptor: bytes


def read_notes(elf: ElfFile) -> Iterator[Note]:
    """The notes of all PT_NOTE segments. Raises `ElfError` if one exceeds its segment."""
    for segment in elf.segments:
        if segment.type != SegmentType.NOTE:
            continue
        if segment.offset + segment.filesz > elf.size:
            raise elf.error(f"PT_NOTE: offset {segment.offset:#x} is beyond the end of the file")
        align = 8 if segment.align == 8 else 4
        at, end = segment.offset, segment.offset + segment.filesz
        while at + NHDR.size <= end:
            name_size, size, kind = NHDR.unpack_from(elf.buffer, at)
            name_at = at + NHDR.size
            data_at = at + _align(NHDR.size + name_size, align)
            next_at = data_at + _align(size, align)
            if data_at + size > end:
                raise elf.error(f"PT_NOTE: the note at offset {at:#x} exceeds its segment")
            owner = elf.buffer[name_at : name_at + name_size].rstrip(b"\0")
            yield Note(owner.decode("latin-1"), kind, bytes(elf.buffer[data_at : data_at + size]))
            at = next_at


def build_id(elf: ElfFile) -> str | None:
    """The build-id in hexadecimal, or None if the file has none."""
    for note in read_notes(elf):
        if note.owner == "GNU" and note.type == NT_GNU_BUILD_ID:
            return note.descriptor.hex()
    return None


def gnu_properties(elf: ElfFile) -> dict[int, bytes]:
    """The GNU properties of the file: type to data, as they are."""
    properties: dict[int, bytes] = {}
    pad = elf.layout.word_size
    for note in read_notes(elf):
        if note.owner != "GNU" or note.type != NT_GNU_PROPERTY_TYPE_0:
            continue
        at = 0
        while at + _PROPERTY.size <= len(note.descriptor):
            kind, size = _PROPERTY.unpack_from(note.descriptor, at)
            at += _PROPERTY.size
            if at + size > len(note.descriptor):
                raise elf.error(f"GNU property {kind:#x} exceeds its note")
            properties[kind] = note.descriptor[at : at + size]
            at += _align(size, pad)
    return properties


def _align(size: int, align: int) -> int:
    return (size + align - 1) & ~(align - 1)
