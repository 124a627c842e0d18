"""What a process pays for loading a library: the pages that cannot stay shared.

A library's pages begin as pages of its file, shared by everyone. Loading makes private
copies of some: wherever ld.so stores a word, the kernel copies the page. This module
knows every store that glibc makes before any code of the library runs, from the file
alone:

- the places of all relocations, lazily bound slots included (the base is added to them);
- the pointers of the dynamic section, which ld.so makes absolute;
- the two words before the PLT's slots, unless everything is bound at load time;
- the zeros between the end of the data and the end of its last page of the file.

What is writable but not stored to is shared until the program writes to it. Anonymous
pages for .bss do not exist until they are touched. So a page has one of the states of
`PageState`, and `Cost.copied` is what each process pays at least.

The base address matters only where it is 0 (prelinked to its place); architectures
differ only in what their relocation types are called.
"""

import enum
from dataclasses import dataclass

import numpy as np

from samepage.elf.dynamic import DynamicFlags, Tag
from samepage.elf.header import SegmentType
from samepage.elf.layout import I64, PF_W, PF_X, U8, U64, Bools, Table
from samepage.elf.machines import Kind
from samepage.elf.object import SHN_UNDEF, STT_FUNC, STT_GNU_IFUNC, DynamicObject
from samepage.elf.sections import Section, read_sections
from samepage.elf.strings import StringTable
from samepage.linker.pages import places_and_kinds
from samepage.linker.relocate import ADJUSTED_TAGS

SHT_SYMTAB = 2


class PageState(enum.Enum):
    """What becomes of a page in each process."""

    SHARED = "shared"
    """Never written: one copy for all processes."""
    UNTIL_WRITTEN = "shared until written"
    """Writable, but nothing is stored to it at load time."""
    COPIED = "copied at load"
    """ld.so stores to it, so every process has its own copy."""
    ANONYMOUS = "zero, until written"
    """.bss beyond the file's pages."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Some relocations on a page that belong together: their kind, and the symbol that
    they refer to, or (for those without) the object whose words they are.
    """

    kind: Kind
    symbol: str
    count: int


@dataclass(frozen=True, slots=True)
class PageCost:
    """One page of the library's memory; `address` is in the file's terms."""

    address: int
    state: PageState
    executable: bool
    relro: bool
    sections: tuple[str, ...]
    causes: tuple[Cause, ...] = ()
    other_stores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Saving:
    """Something that would lower the cost: what to do, and what it saves.

    `pages` are copied pages per process; `file_bytes` bytes of the file (negative: more).
    """

    change: str
    pages: int
    file_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one library. `pages` are all pages of its memory, by address."""

    path: str
    page_size: int
    machine: int
    pages: list[PageCost]
    relocations: dict[Kind, int]
    savings: list[Saving]

    def count(self, state: PageState) -> int:
        """The number of pages in a state."""
        return sum(page.state is state for page in self.pages)

    @property
    def copied(self) -> int:
        """Pages that every process has its own copy of, once the library is loaded."""
        return self.count(PageState.COPIED)

    @property
    def relro(self) -> int:
        """Copied pages that are read-only after relocation."""
        return sum(page.relro and page.state is PageState.COPIED for page in self.pages)


def cost_of(library: DynamicObject, page_size: int = 4096) -> Cost:
    """The cost of loading a library. Raises `ElfError` if the file cannot be read."""
    tables = _Tables(library, page_size)
    return Cost(
        path=library.path,
        page_size=page_size,
        machine=library.elf.machine,
        pages=_pages(tables),
        relocations={
            Kind(kind): count
            for kind, count in enumerate(np.bincount(tables.kinds).tolist())
            if count
        },
        savings=_savings(tables),
    )


class _Tables:
    """A library's stores as columns, and what is needed to name them."""

    def __init__(self, library: DynamicObject, page_size: int) -> None:
        self.library = library
        self.page_size = page_size
        self.places, self.kinds = places_and_kinds(library)
        self.symbols = _symbol_indices(library)
        self.others = _other_stores(library, page_size)
        self.sections = [s for s in read_sections(library.elf) if s.loaded and s.size]

    def pages_of(self, places: U64, kinds: U8) -> I64:
        """The pages that relocations store to, without duplicates."""
        stores = places[kinds != Kind.NONE]
        width = np.uint64(self.library.elf.layout.word_size - 1)
        both = np.concatenate([stores, stores + width])
        return np.unique(both // np.uint64(self.page_size)).astype(np.int64)

    def copied(self, places: U64, kinds: U8, *, dynamic: bool = True) -> int:
        """How many pages are copied with these relocations and all other stores."""
        others = [
            address // self.page_size
            for address, why in self.others
            if dynamic or why != _DYNAMIC_SECTION
        ]
        pages = np.union1d(self.pages_of(places, kinds), np.array(others, np.int64))
        return len(pages)


_DYNAMIC_SECTION = "pointers of the dynamic section"
_LAZY_WORDS = "ld.so's words of the lazy GOT"
_ZEROS = "zeros after the data"


def _symbol_indices(library: DynamicObject) -> I64:
    """The symbol of each relocation, in the order of `places_and_kinds`; 0 for none."""
    tables = library.relocations
    shift = np.uint64(library.elf.layout.symbol_shift)
    columns = [np.zeros(len(tables.relr), np.int64)]
    for entries in (tables.rela, tables.rel, tables.plt):
        columns.append((entries["r_info"].astype(np.uint64) >> shift).astype(np.int64))
    return np.concatenate(columns)


def _other_stores(library: DynamicObject, page_size: int) -> list[tuple[int, str]]:
    """Places that ld.so stores to beside relocations, with the reason."""
    stores = []
    elf, dynamic = library.elf, library.dynamic
    segment = elf.segment(SegmentType.DYNAMIC)
    if segment is not None and segment.flags & PF_W:
        size = elf.layout.dyn.itemsize
        for index, tag in enumerate(dynamic.entries["d_tag"].tolist()):
            if tag in ADJUSTED_TAGS:
                stores.append((segment.vaddr + index * size + size // 2, _DYNAMIC_SECTION))
    got = dynamic.get(Tag.PLTGOT)
    lazy = DynamicFlags.BIND_NOW not in dynamic.flags and len(library.relocations.plt)
    if got is not None and lazy:
        word = elf.layout.word_size
        stores += [(got + word, _LAZY_WORDS), (got + 2 * word, _LAZY_WORDS)]
    for load in elf.loads:
        end = load.vaddr + load.filesz
        if load.flags & PF_W and load.memsz > load.filesz and end % page_size:
            stores.append((end, _ZEROS))
    return stores


def _pages(tables: _Tables) -> list[PageCost]:
    library, size = tables.library, tables.page_size
    causes = _causes(tables)
    others: dict[int, set[str]] = {}
    for address, why in tables.others:
        others.setdefault(address // size, set()).add(why)
    relro = library.relro
    names = _sections_by_page(tables)
    pages: dict[int, PageCost] = {}
    for load in library.elf.loads:
        last_of_file = (load.vaddr + load.filesz + size - 1) // size
        end = (load.vaddr + load.memsz + size - 1) // size
        if end - load.vaddr // size > 1 << 22:
            raise library.elf.error(f"PT_LOAD at address {load.vaddr:#x}: {load.memsz} bytes")
        for number in range(load.vaddr // size, end):
            state = PageState.SHARED
            if number in causes or number in others:
                state = PageState.COPIED
            elif number >= last_of_file:
                state = PageState.ANONYMOUS
            elif load.flags & PF_W:
                state = PageState.UNTIL_WRITTEN
            pages[number] = PageCost(
                address=number * size,
                state=state,
                executable=bool(load.flags & PF_X),
                relro=relro is not None
                and relro.vaddr // size <= number
                and (number + 1) * size <= relro.vaddr + relro.memsz,
                sections=tuple(names.get(number, ())),
                causes=tuple(causes.get(number, ())),
                other_stores=tuple(sorted(others.get(number, ()))),
            )
    return [pages[number] for number in sorted(pages)]


def _sections_by_page(tables: _Tables) -> dict[int, list[str]]:
    result: dict[int, list[str]] = {}
    for section in tables.sections:
        if section.flags & 0x400 and not section.in_file:
            continue  # .tbss has addresses, but no memory of the library's own
        first = section.address // tables.page_size
        last = (section.address + section.size - 1) // tables.page_size
        for number in range(first, min(last, first + (1 << 22)) + 1):
            result.setdefault(number, []).append(section.name)
    return result


def _causes(tables: _Tables) -> dict[int, list[Cause]]:
    """By page: the relocations on it, grouped by kind and symbol, the most frequent first."""
    names = _Names(tables.library, tables.sections)
    stores = tables.kinds != Kind.NONE
    places, kinds, symbols = tables.places[stores], tables.kinds[stores], tables.symbols[stores]
    owners = np.where(symbols > 0, -1 - symbols, names.owner(places))
    pages = (places // np.uint64(tables.page_size)).astype(np.int64)
    order = np.lexsort((owners, kinds, pages))
    columns = np.stack([pages[order], kinds[order].astype(np.int64), owners[order]])
    starts = np.flatnonzero(np.any(np.diff(columns, axis=1, prepend=-(1 << 62)) != 0, axis=0))
    counts = np.diff(np.append(starts, columns.shape[1]))
    result: dict[int, list[Cause]] = {}
    for (page, kind, owner), count in zip(
        columns[:, starts].T.tolist(), counts.tolist(), strict=True
    ):
        result.setdefault(page, []).append(Cause(Kind(kind), names.name(owner), count))
    for causes in result.values():
        causes.sort(key=lambda cause: -cause.count)
    # A word that lies across two pages is stored to both.
    for page in tables.pages_of(tables.places, tables.kinds).tolist():
        result.setdefault(page, [])
    return result


class _Names:
    """Names for places: those of the symbols that cover them, or of their sections."""

    def __init__(self, library: DynamicObject, sections: list[Section]) -> None:
        self._library = library
        self._sections = sections
        table, strings = library.symbols, library.strings
        full = _symbol_table(library)
        if full is not None:
            table, strings = full
        covering = (table["st_size"] > 0) & (table["st_shndx"] != SHN_UNDEF)
        covering &= (table["st_info"] & 15) != 6
        which = np.flatnonzero(covering)
        self._strings = strings
        order = which[np.argsort(table["st_value"][which], kind="stable")]
        self._starts = table["st_value"][order].astype(np.uint64)
        self._ends = self._starts + table["st_size"][order].astype(np.uint64)
        self._names = table["st_name"][order]
        self._section_starts = np.array([s.address for s in sections], np.uint64)

    def owner(self, places: U64) -> I64:
        """For each place: the number of the symbol that covers it, or after all of those,
        the number of its section."""
        at = np.searchsorted(self._starts, places, "right").astype(np.int64) - 1
        inside = at >= 0
        if len(self._ends):
            inside &= places < self._ends[np.maximum(at, 0)]
        section = np.full(len(places), len(self._sections), np.int64)
        for number, found in enumerate(self._sections):
            start, end = np.uint64(found.address), np.uint64(found.address + found.size)
            section[(places >= start) & (places < end)] = number
        return np.where(inside, at, len(self._starts) + section)

    def name(self, owner: int) -> str:
        """The name of an owner, or (below 0) of the relocation's own symbol."""
        if owner < 0:
            record = self._library.symbols[-1 - owner]
            return self._library.strings.get(int(record["st_name"]))
        if owner < len(self._starts):
            return self._strings.get(int(self._names[owner]))
        section = owner - len(self._starts)
        return self._sections[section].name if section < len(self._sections) else "?"


def _symbol_table(library: DynamicObject) -> tuple[Table, StringTable] | None:
    """.symtab with its strings, which has local symbols too, if the file still has it."""
    elf = library.elf
    if not elf.shnum:
        return None
    headers = elf.table("section headers", elf.shoff, elf.layout.shdr, elf.shnum)
    found = headers[headers["sh_type"] == SHT_SYMTAB]
    if not len(found) or int(found[0]["sh_link"]) >= elf.shnum:
        return None
    record, size = elf.layout.sym, int(found[0]["sh_size"])
    strings = headers[int(found[0]["sh_link"])]
    table = elf.table(".symtab", int(found[0]["sh_offset"]), record, size // record.itemsize)
    return table, StringTable(elf, int(strings["sh_offset"]), int(strings["sh_size"]))


def _savings(tables: _Tables) -> list[Saving]:
    """What would lower the cost, each computed by doing it on the tables."""
    now = tables.copied(tables.places, tables.kinds)
    found = [
        _bound_inside(tables, now, functions_only=True),
        _bound_inside(tables, now, functions_only=False),
        _prelinked(tables, now),
        _bind_now(tables, now),
        _const_data(tables),
        _packed(tables),
        _separate_code(tables),
    ]
    return [saving for saving in found if saving is not None]


def _bound_inside(tables: _Tables, now: int, *, functions_only: bool) -> Saving | None:
    """References of the library to itself that need no GOT entry any more."""
    table = tables.library.symbols
    inside = (tables.symbols > 0) & (table["st_shndx"][tables.symbols] != SHN_UNDEF)
    inside &= (tables.kinds == Kind.JUMP_SLOT) | (tables.kinds == Kind.GLOB_DAT)
    if functions_only:
        kind = table["st_info"][tables.symbols] & 15
        inside &= (kind == STT_FUNC) | (kind == STT_GNU_IFUNC)
    count = int(inside.sum())
    if not count:
        return None
    pages = now - tables.copied(*_pack_got(tables, ~inside))
    change = "-Wl,-Bsymbolic-functions" if functions_only else "hidden visibility for own symbols"
    record = tables.library.elf.layout.rela.itemsize
    note = f"{count} GOT entries for the library's own symbols go away"
    return Saving(change, pages, count * record, note)


def _pack_got(tables: _Tables, keep: Bools) -> tuple[U64, U8]:
    """The relocations that are kept, with the entries of each GOT section moved together."""
    places, kinds = tables.places[keep].copy(), tables.kinds[keep]
    word = tables.library.elf.layout.word_size
    for section in tables.sections:
        if section.name not in (".got", ".got.plt"):
            continue
        start, end = section.address, section.address + section.size
        inside = np.flatnonzero((places >= np.uint64(start)) & (places < np.uint64(end)))
        reserved = 3 * word if section.name == ".got.plt" else 0
        order = inside[np.argsort(places[inside], kind="stable")]
        places[order] = (start + reserved + word * np.arange(len(order))).astype(np.uint64)
    return places, kinds


def _prelinked(tables: _Tables, now: int) -> Saving | None:
    """At its own base a library needs no relative relocation at all."""
    relative = tables.kinds == Kind.RELATIVE
    if not relative.any():
        return None
    alone = tables.copied(tables.places[~relative], tables.kinds[~relative], dynamic=False)
    note = f"{int(relative.sum())} relative relocations need no store"
    return Saving("prelinking to a fixed base address", now - alone, 0, note)


def _bind_now(tables: _Tables, now: int) -> Saving | None:
    """Without lazy binding the PLT's slots follow the GOT, in RELRO."""
    slots = tables.kinds == Kind.JUMP_SLOT
    lazy = DynamicFlags.BIND_NOW not in tables.library.dynamic.flags
    got = next((s for s in tables.sections if s.name == ".got"), None)
    if not lazy or not slots.any() or got is None:
        return None
    places = tables.places.copy()
    word = tables.library.elf.layout.word_size
    end = got.address + got.size
    places[slots] = (end + word * np.arange(int(slots.sum()))).astype(np.uint64)
    note = "the PLT's slots become read-only after relocation; calls are bound at load time"
    return Saving("-Wl,-z,now", now - tables.copied(places, tables.kinds), 0, note)


def _const_data(tables: _Tables) -> Saving | None:
    """Data that no relocation touches could be read-only: pages that a write would copy."""
    touched = set(tables.pages_of(tables.places, tables.kinds).tolist())
    touched |= {address // tables.page_size for address, _ in tables.others}
    pages = 0
    for section in tables.sections:
        if section.name.startswith(".data") and section.in_file:
            first = section.address // tables.page_size
            last = (section.address + section.size - 1) // tables.page_size
            pages += len(set(range(first, last + 1)) - touched)
    if not pages:
        return None
    note = f"{pages} pages of writable data have no pointers: const, they could not be copied"
    return Saving("const for data that is never written", 0, 0, note)


def _packed(tables: _Tables) -> Saving | None:
    """RELR: the same pages are written, but the file is smaller."""
    elf = tables.library.elf
    relocations = tables.library.relocations
    count = relocations.relative_count
    if not count:
        return None
    entries = relocations.rela if len(relocations.rela) else relocations.rel
    places = np.sort(entries["r_offset"][:count].astype(np.uint64))
    saved = count * entries.dtype.itemsize - relr_size(places, elf.layout.word_size)
    return Saving("-Wl,-z,pack-relative-relocs", 0, saved, "the file is smaller, no page is saved")


def relr_size(places: U64, word: int) -> int:
    """The bytes that a DT_RELR table for these places takes (odd ones need their RELA)."""
    entries, at, places_left = 0, 0, places[places % np.uint64(word) == 0]
    span = word * 8 - 1
    while at < len(places_left):
        base = int(places_left[at]) + word
        entries, at = entries + 1, at + 1
        while True:
            end = int(np.searchsorted(places_left, np.uint64(base + span * word), "left"))
            if end == at:
                break
            entries, at, base = entries + 1, end, base + span * word
    return entries * word


def _separate_code(tables: _Tables) -> Saving | None:
    """Without separate code, read-only data is mapped executable, in pages with code."""
    names = {".rodata", ".eh_frame", ".dynsym", ".rela.dyn"}
    for load in tables.library.elf.loads:
        inside = {
            section.name
            for section in tables.sections
            if load.vaddr <= section.address < load.vaddr + load.memsz
        }
        if load.flags & PF_X and names & inside:
            note = f"{', '.join(sorted(names & inside))} are executable; no page is saved"
            return Saving("-Wl,-z,separate-code", 0, 0, note)
    return None
