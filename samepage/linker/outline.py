"""Memory that only has addresses: for what looks at files, and at no memory of a process.

To find libraries and to bind symbols a linker reads the objects' tables, which are in their
files. What it maps, it maps so that the objects get their addresses, and so that those that
cannot be mapped are refused. `OutlineMemory` does that much; relocation needs `ImageMemory`.
"""

from __future__ import annotations

from samepage.abi.mman import MapFlags
from samepage.elf.object import DynamicObject
from samepage.linker.image import Placer, TopDownPlacer
from samepage.linker.memory import PAGE, HostFiles, OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from samepage.elf.layout import I64, U64


class OutlineMemory(HostFiles):
    """A `Memory` of which nothing can be read; what is stored is forgotten."""

    def __init__(
        self,
        place: Placer | None = None,
        parsed: dict[tuple[int, int], DynamicObject] | None = None,
    ) -> None:
        super().__init__(parsed)
        self._place = place or TopDownPlacer()

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        length = (length + PAGE - 1) & -PAGE
        if not flags & MapFlags.FIXED:
            return self._place(file, length, offset, bool(flags & MapFlags.ANONYMOUS))
        self._place.taken(address, address + length)
        return address

    def munmap(self, address: int, length: int) -> None:
        pass

    def mprotect(self, address: int, length: int, prot: int) -> None:
        pass

    def write(self, address: int, data: bytes) -> None:
        pass

    def zero(self, address: int, length: int) -> None:
        pass

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        pass

    def read(self, address: int, length: int) -> NoReturn:
        raise AssertionError(f"{length} bytes at {address:#x} of an outline are read")

    def read_words(self, start: int, offsets: I64) -> NoReturn:
        raise AssertionError(f"words at {start:#x} of an outline are read")
