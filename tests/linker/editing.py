"""Changes ELF files as patchelf, strip and hostile hands do: a field here, a header there."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PT_LOAD, PF_W = 1, 2
_PHDR = struct.Struct("<IIQQQQQQ")


@dataclass
class Segment:
    """A program header, by its fields."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


def edit_loads(path: str, edit: Callable[[list[Segment]], list[Segment] | None]) -> None:
    """Let `edit` change the PT_LOAD headers of a file, or return others for their places."""
    data = bytearray(Path(path).read_bytes())
    (start,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    places = [start + _PHDR.size * index for index in range(count)]
    places = [at for at in places if struct.unpack_from("<I", data, at)[0] == PT_LOAD]
    segments = [Segment(*_PHDR.unpack_from(data, at)) for at in places]
    segments = edit(segments) or segments
    for at, segment in zip(places, segments, strict=True):
        _PHDR.pack_into(data, at, *vars(segment).values())
    Path(path).write_bytes(data)


def poke(path: str, layout: str, offset: int, value: int) -> None:
    """Store a number at an offset of a file; `layout` as in `struct`."""
    data = bytearray(Path(path).read_bytes())
    struct.pack_into(layout, data, offset, value)
    Path(path).write_bytes(data)
