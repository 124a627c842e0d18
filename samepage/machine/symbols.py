"""The function of an instruction: from a place in a mapped file to a name.

The file's bytes are those that a guest would see (it may have written the file it runs),
read past the page cache: looking for a name takes no frame. Each file's symbol tables are
read once.
"""

from samepage.elf.file import ElfFile
from samepage.elf.functions import Place, SymbolsByAddress
from samepage.elf.header import ElfError
from samepage.kernel.boot import Kernel
from samepage.kernel.errors import SysError
from samepage.kernel.mm.mapped_file import MappedFile
from samepage.kernel.process.timeline import CodePlace
from samepage.machine.content import Contents


class Symbols:
    """Finds functions by (content, offset in the file)."""

    def __init__(self, kernel: Kernel) -> None:
        self._contents = Contents(kernel)
        self._files: dict[MappedFile, tuple[ElfFile, SymbolsByAddress] | None] = {}

    def function(self, place: CodePlace) -> Place | None:
        """The function at a place, or None if the file names none there."""
        if place.file not in self._files:
            self._files[place.file] = self._read(place)
        found = self._files[place.file]
        if found is None:
            return None
        elf, symbols = found
        for load in elf.loads:
            if 0 <= place.offset - load.offset < load.filesz:
                return symbols.at(place.offset - load.offset + load.vaddr)
        return None

    def _read(self, place: CodePlace) -> tuple[ElfFile, SymbolsByAddress] | None:
        try:
            elf = ElfFile(self._contents.of(place.file), place.path)
            return elf, SymbolsByAddress(elf)
        except (ElfError, SysError):
            return None
