"""Every store that ld.so makes into one library, as columns.

Source: `elf_dynamic_do_Rela`, `elf_machine_runtime_setup`, `elf_get_dynamic_info`,
`dl_relocate_ld` of glibc, and its `_dl_map_segments` for the zeros.
"""

import numpy as np

from samepage.abi.elf import DynamicFlags, ElfMachine, SegmentFlags, SegmentType
from samepage.elf.dynamic import Tag
from samepage.elf.layout import I64, U8, U64, Table
from samepage.elf.machines import WIDTHS, Kind
from samepage.elf.object import DynamicObject
from samepage.elf.relocated_pages import places_and_kinds
from samepage.elf.sections import read_sections
from samepage.linker.relocate import ADJUSTED_TAGS

DYNAMIC_SECTION = "pointers of the dynamic section"
LAZY_WORDS = "ld.so's words of the lazy GOT"
ZEROS = "zeros after the data"

_END = 1 << 63

_MOST_PAGES = 1 << 24
"""Pages that all stores of a library together may be on: more than any real one."""


class CostTables:
    """A library's stores as columns, and what is needed to name them.

    By relocation: `places`, `kinds`, `symbols` (indices in `symbol_table`, 0 for none) and
    `widths`, the number of bytes that it stores. `others` are the other stores, with their
    reasons.
    """

    def __init__(self, library: DynamicObject, page_size: int) -> None:
        self.library = library
        self.page_size = page_size
        self.places, self.kinds = places_and_kinds(library)
        self.symbols = _symbol_indices(library, self.kinds)
        # A library without any symbol may have a table without its first, empty entry.
        self.symbol_table = library.symbols if len(library.symbols) else _no_symbol(library)
        self.widths = _widths(library, self.kinds, self.symbol_table[self.symbols])
        self.others = _other_stores(library, page_size)
        self.sections = [
            section
            for section in read_sections(library.elf)
            if section.loaded and 0 < section.size <= _END - section.address
        ]

    def stores(self, places: U64, widths: U64) -> tuple[I64, I64]:
        """The pages that relocations store to: each with the index of the relocation, one
        that stores across the end of a page once for each of its pages.
        """
        stored = widths.nonzero()[0]
        size = np.uint64(self.page_size)
        first = (places[stored] // size).astype(np.int64)
        last = ((places[stored] + widths[stored] - np.uint64(1)) // size).astype(np.int64)
        counts = np.maximum(last - first, 0) + 1
        if int(np.minimum(counts, _MOST_PAGES + 1).sum()) > _MOST_PAGES:
            raise self.library.elf.error("relocations: COPY stores to more than 64 GiB")
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        pages = np.repeat(first, counts) + np.arange(len(starts)) - starts
        return pages, np.repeat(stored, counts)

    def copied(self, places: U64, widths: U64, others: list[int]) -> int:
        """How many pages are copied with these stores."""
        pages, _ = self.stores(places, widths)
        return len({*pages.tolist(), *(address // self.page_size for address in others)})


def copied_pages(library: DynamicObject, page_size: int = 4096) -> int:
    """The pages that loading a library copies in each process."""
    tables = CostTables(library, page_size)
    others = [address for address, _ in tables.others]
    return tables.copied(tables.places, tables.widths, others)


def _no_symbol(library: DynamicObject) -> Table:
    return np.zeros(1, library.elf.layout.sym)


def _widths(library: DynamicObject, kinds: U8, symbols: Table) -> U64:
    """The bytes that each relocation stores: a word, but for a few kinds; COPY the symbol."""
    word = library.elf.layout.word_size
    of_kind = np.full(max(Kind) + 1, word, np.uint64)
    for kind, width in WIDTHS.items():
        of_kind[kind] = width
    of_kind[Kind.TLSDESC] = 2 * word
    widths: U64 = of_kind[kinds]
    copies = (kinds == Kind.COPY).nonzero()[0]
    widths[copies] = symbols["st_size"][copies]
    return widths


def _symbol_indices(library: DynamicObject, kinds: U8) -> I64:
    """The symbol of each relocation, in the order of `places_and_kinds`; 0 for none.

    The symbol of a relative one is never looked at, and may be anything.
    """
    tables = library.relocations
    shift = np.uint64(library.elf.layout.symbol_shift)
    columns = [np.zeros(len(tables.relr), np.int64)]
    for entries in (tables.rela, tables.rel, tables.plt):
        columns.append((entries["r_info"].astype(np.uint64) >> shift).astype(np.int64))
    symbols = np.concatenate(columns)
    symbols[kinds == Kind.RELATIVE] = 0
    return symbols


def _other_stores(library: DynamicObject, page_size: int) -> list[tuple[int, str]]:
    """Places that ld.so stores to beside relocations, with the reason."""
    stores = []
    elf, dynamic = library.elf, library.dynamic
    segment = elf.segment(SegmentType.DYNAMIC)
    # On RISC-V ld.so leaves every dynamic section as it is.
    if segment is not None and segment.flags & SegmentFlags.W and elf.machine != ElfMachine.RISCV:
        adjusted = {*ADJUSTED_TAGS, Tag.REL} if elf.machine == ElfMachine.I386 else ADJUSTED_TAGS
        size = elf.layout.dyn.itemsize
        for index, tag in enumerate(dynamic.entries["d_tag"].tolist()):
            if tag in adjusted:
                stores.append((segment.vaddr + index * size + size // 2, DYNAMIC_SECTION))
    got = dynamic.get(Tag.PLTGOT)
    lazy = not dynamic.flags & DynamicFlags.BIND_NOW and len(library.relocations.plt)
    if got is not None and lazy:
        word = elf.layout.word_size
        first = 0 if elf.machine == ElfMachine.RISCV else word
        stores += [(got + first, LAZY_WORDS), (got + first + word, LAZY_WORDS)]
    for load in elf.loads:
        end = load.vaddr + load.filesz
        if load.flags & SegmentFlags.W and load.memsz > load.filesz and end % page_size:
            stores.append((end, ZEROS))
    return stores
