"""Which pages of a library are in memory in this process, and which of them are copies.

/proc/self/pagemap shows both without privileges; frame numbers are not needed.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from samepage.abi.elf import SegmentFlags
from samepage.abi.pagemap import Pm
from samepage.elf.header import ProgramHeader
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE


@dataclass(frozen=True, slots=True)
class PageState:
    """One page of a library in this process."""

    address: int
    section: str
    """"text", "rodata", "relro" or "data"."""
    resident: bool
    private: bool
    """Resident, and a copy of our own: no longer the file's page."""


def pages_of(link: LinkMap) -> Iterator[PageState]:
    """Yield the state of each page of the segments of a library, ascending."""
    relro = link.object.relro
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for load in link.object.elf.loads:
            first = (link.base + load.vaddr) // PAGE
            last = (link.base + load.vaddr + load.memsz + PAGE - 1) // PAGE
            pagemap.seek(first * 8)
            data = pagemap.read((last - first) * 8)
            for number, (entry,) in enumerate(struct.iter_unpack("<Q", data), first):
                address = number * PAGE
                resident = bool(entry & Pm.PRESENT)
                yield PageState(
                    address,
                    _part(load.flags, address - link.base, relro),
                    resident,
                    resident and not entry & Pm.FILE,
                )


def _part(flags: int, offset: int, relro: ProgramHeader | None) -> str:
    if flags & SegmentFlags.X:
        return "text"
    if not flags & SegmentFlags.W:
        return "rodata"
    if relro is not None and relro.vaddr // PAGE * PAGE <= offset < relro.vaddr + relro.memsz:
        return "relro"
    return "data"
