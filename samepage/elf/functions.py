"""Which function holds an address: the symbol tables of a file, searched by address.

A linker looks symbols up by name; a person who sees the address of an instruction wants
the name. `.symtab` knows every function, static ones too, but most libraries are stripped
of it, so that only `.dynsym` is left: the functions that others may call. An address
belongs to the function with the nearest start at or below it, if the function's size
reaches that far. Functions written in assembler may have no size; they reach up to the
next symbol. Between two functions of a stripped library there may be others whose names
are gone: there the answer is None rather than a wrong name.

Several names may have one address (`write`, `__write`). The plainest is shown: the one
with the fewest leading underscores, then the shortest.
"""

from typing import Final

import numpy as np

from samepage.abi.elf import (
    SHN_ABS,
    SHN_UNDEF,
    SHT_DYNSYM,
    SHT_SYMTAB,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_OBJECT,
)
from samepage.elf.file import ElfFile
from samepage.elf.layout import Table
from samepage.elf.sections import section_headers
from samepage.records import record

_CODE: Final = (STT_FUNC, STT_GNU_IFUNC)
_DATA: Final = (STT_OBJECT,)


@record(frozen=True)
class Place:
    """A symbol and a distance from its start in bytes."""

    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}" if self.offset else self.name


class SymbolsByAddress:
    """The defined functions (or with `data` the objects) of one file, by their address.

    Addresses are those in the file: what is added to the base it is loaded at. Invariant:
    `_starts` ascends strictly, and `_ends` has the end of each range.
    """

    def __init__(self, elf: ElfFile, *, data: bool = False) -> None:
        """Raises `ElfError` if a symbol table does not lie in the file."""
        found: dict[int, tuple[int, str]] = {}
        limits: set[int] = set()
        self._addresses: dict[str, int] = {}
        for table, strings, size in _tables(elf):
            kinds = table["st_info"] & 15
            defined = (table["st_shndx"] != SHN_UNDEF) & (table["st_shndx"] != SHN_ABS)
            wanted = np.isin(kinds, _DATA if data else _CODE)
            limits.update(table["st_value"][defined & (wanted | (kinds == STT_NOTYPE))].tolist())
            for row in table[defined & wanted]:
                name = elf.string("symbol names", strings + int(row["st_name"]), strings + size)
                start, length = int(row["st_value"]), int(row["st_size"])
                self._addresses[name] = start
                known = found.get(start)
                if known is not None:
                    length = max(length, known[0])
                    name = min(name, known[1], key=_plainness)
                if name:
                    found[start] = length, name
        starts = sorted(found)
        self._names = [found[start][1] for start in starts]
        self._starts = np.array(starts, np.uint64)
        after = np.array([*sorted(limits), 2**64 - 1], np.uint64)
        following = after[np.searchsorted(after, self._starts, "right")]
        sizes = np.array([found[start][0] for start in starts], np.uint64)
        self._ends = np.where(sizes > 0, self._starts + sizes, following)

    def at(self, address: int) -> Place | None:
        """The function that holds an address of the file, or None if none is known to."""
        position = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        if position < 0 or address >= int(self._ends[position]):
            return None
        return Place(self._names[position], address - int(self._starts[position]))

    def address(self, name: str) -> int | None:
        """The address of the symbol with this name, or None."""
        return self._addresses.get(name)


def _plainness(name: str) -> tuple[bool, int, int, str]:
    return not name, len(name) - len(name.lstrip("_")), len(name), name


def _tables(elf: ElfFile) -> list[tuple[Table, int, int]]:
    """Each symbol table of the sections with the offset and the size of its names."""
    tables = []
    for header in section_headers(elf):
        if int(header["sh_type"]) not in (SHT_SYMTAB, SHT_DYNSYM):
            continue
        link = int(header["sh_link"])
        if link >= elf.shnum:
            raise elf.error(f"symbol table: no section {link} with the names")
        names = section_headers(elf)[link]
        strings, size = int(names["sh_offset"]), int(names["sh_size"])
        if strings + size > elf.size:
            raise elf.error("symbol names: they lie beyond the end of the file")
        record = elf.layout.sym
        count = int(header["sh_size"]) // record.itemsize
        table = elf.table("symbol table", int(header["sh_offset"]), record, count)
        tables.append((table, strings, size))
    return tables
