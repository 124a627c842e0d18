"""What a process pays for loading a library: the pages that cannot stay shared.

A library's pages begin as pages of its file, shared by everyone. Loading makes private
copies of some: wherever ld.so stores a word, the kernel copies the page. This module
knows every store that glibc makes before any code of the library runs, from the file
alone:

- the places of all relocations, lazily bound slots included (the base is added to them);
- the pointers of the dynamic section, which ld.so makes absolute;
- the two words of the GOT that lead to ld.so, unless everything is bound at load time;
- the zeros between the end of the data and the end of its last page of the file.

What is writable but not stored to is shared until the program writes to it. Anonymous
pages for .bss do not exist until they are touched. So a page has one of the states of
`PageState`, and `Cost.copied` is what each process pays at least.

Where the library lies does not matter: ld.so stores the same words again where they would
stay as they are. Architectures differ in what their relocation types are called, and in a
few of the other stores (`cost_tables.py`).
"""

import enum
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from samepage.abi.elf import SHN_UNDEF, SHT_SYMTAB, DynamicFlags, SegmentFlags
from samepage.analysis.cost_loading import load_problems
from samepage.analysis.cost_tables import CostTables
from samepage.analysis.savings import Saving, savings_of
from samepage.elf.header import ElfError
from samepage.elf.layout import I64, U64, Table
from samepage.elf.machines import Kind
from samepage.elf.object import DynamicObject
from samepage.elf.sections import Section, section_headers
from samepage.elf.strings import StringTable

_END = 1 << 47
"""Where a process's addresses end."""

_MOST_PAGES = 1 << 20
"""Pages of a library's file: more than any real one, and no more than memory has room to show."""


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
    holder: str = ""
    """The object that holds the words, where `symbol` is what they point to."""


@dataclass(frozen=True, slots=True)
class PageCost:
    """One page of the library's memory, or `count` pages of zeros that are all the same.

    `address` is in the file's terms.
    """

    address: int
    count: int
    state: PageState
    executable: bool
    relro: bool
    sections: tuple[str, ...]
    causes: tuple[Cause, ...] = ()
    other_stores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one library. `pages` are all pages of its memory, by address."""

    path: str
    page_size: int
    machine: int
    pages: list[PageCost]
    relocations: dict[Kind, int]
    savings: list[Saving]
    problems: list[str]
    """What keeps it from being loaded, or is lost: a line each."""
    tls_bytes: int
    """Bytes of each thread."""
    static_tls: bool
    """Whether they have to be in the static block, whose surplus dlopen shares."""

    def count(self, state: PageState) -> int:
        """The number of pages in a state."""
        return sum(page.count for page in self.pages if page.state is state)

    @property
    def copied(self) -> int:
        """Pages that every process has its own copy of, once the library is loaded."""
        return self.count(PageState.COPIED)

    @property
    def relro(self) -> int:
        """Copied pages that are read-only after relocation."""
        return sum(
            page.count for page in self.pages if page.relro and page.state is PageState.COPIED
        )


def cost_of(library: DynamicObject, page_size: int = 4096) -> Cost:
    """The cost of loading a library. Raises `ElfError` if the file cannot be read."""
    tables = CostTables(library, page_size)
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
        savings=savings_of(tables),
        problems=load_problems(library, page_size),
        tls_bytes=library.tls.memsz if library.tls is not None else 0,
        static_tls=bool(library.dynamic.flags & DynamicFlags.STATIC_TLS),
    )


def _pages(tables: CostTables) -> list[PageCost]:
    library, size = tables.library, tables.page_size
    causes = _causes(tables)
    others: dict[int, set[str]] = {}
    for address, why in tables.others:
        others.setdefault(address // size, set()).add(why)
    relro = library.relro
    # Of segments that share a page, the last one maps it.
    loads = sorted(library.elf.loads, key=lambda load: load.vaddr)
    starts = [load.vaddr // size for load in loads]
    states: dict[int, tuple[int, PageState, bool]] = {}
    stored = sorted({*causes, *others})
    # A file may have no PT_LOAD at all: then there is no page either.
    for load, following_start in zip(loads, [*starts[1:], _END][: len(loads)], strict=True):
        last_of_file = (load.vaddr + load.filesz + size - 1) // size
        end = min((load.vaddr + load.memsz + size - 1) // size, following_start)
        if load.vaddr + load.memsz > _END:
            raise library.elf.error(f"PT_LOAD at address {load.vaddr:#x}: {load.memsz} bytes")
        of_file = range(load.vaddr // size, last_of_file)
        if len(states) + len(of_file) > _MOST_PAGES:
            raise library.elf.error(f"PT_LOAD at address {load.vaddr:#x}: {load.filesz} bytes")
        executable = bool(load.flags & SegmentFlags.X)
        written = PageState.UNTIL_WRITTEN if load.flags & SegmentFlags.W else PageState.SHARED
        for number in of_file:
            states[number] = (1, written, executable)
        cuts = _cuts(tables, stored, max(last_of_file, of_file.start), end)
        for number, following in pairwise(cuts):
            states[number] = (following - number, PageState.ANONYMOUS, executable)
    numbers = sorted(states)
    names = _sections_by_run(tables, numbers, states)
    pages = []
    for number in numbers:
        count, state, executable = states[number]
        pages.append(
            PageCost(
                address=number * size,
                count=count,
                state=PageState.COPIED if number in causes or number in others else state,
                executable=executable,
                relro=relro is not None
                and relro.vaddr // size <= number
                and (number + count) * size <= relro.vaddr + relro.memsz,
                sections=tuple(names.get(number, ())),
                causes=tuple(causes.get(number, ())),
                other_stores=tuple(sorted(others.get(number, ()))),
            )
        )
    return pages


def _cuts(tables: CostTables, stored: list[int], start: int, end: int) -> list[int]:
    """Where runs of like pages begin and end in [start, end), pages of zeros: at each page
    that something is stored to, and where a section begins or ends.
    """
    if start >= end:
        return []
    size = tables.page_size
    cuts = {start, end}
    for number in stored[bisect_left(stored, start) : bisect_left(stored, end)]:
        cuts |= {number, number + 1}
    for section in tables.sections:
        last = (section.address + section.size - 1) // size
        for number in (section.address // size, last):
            cuts |= {at for at in (number, number + 1) if start < at < end}
    return sorted(cuts)


def _sections_by_run(
    tables: CostTables, numbers: list[int], states: dict[int, tuple[int, PageState, bool]]
) -> dict[int, list[str]]:
    """The names of the sections on each run of pages, by its first page."""
    result: dict[int, list[str]] = {}
    left = 2 * _MOST_PAGES  # a page may have many sections, but not each so many
    for section in tables.sections:
        if section.thread_local and not section.in_file:
            continue  # .tbss has addresses, but no memory of the library's own
        first = section.address // tables.page_size
        last = (section.address + section.size - 1) // tables.page_size
        low = max(bisect_right(numbers, first) - 1, 0)
        high = bisect_right(numbers, last)
        left -= high - low
        if left < 0:
            raise tables.library.elf.error(f"section {section.name}: {section.size} bytes")
        for number in numbers[low:high]:
            if number + states[number][0] > first:
                result.setdefault(number, []).append(section.name)
    return result


def _causes(tables: CostTables) -> dict[int, list[Cause]]:
    """By page: the relocations on it, grouped by kind and symbol, the most frequent first."""
    names = _Names(tables.library, tables.sections)
    pages, entries = tables.stores(tables.places, tables.widths)
    kinds, symbols = tables.kinds[entries], tables.symbols[entries]
    holders = names.owner(tables.places[entries])
    targets = np.where(symbols > 0, -1 - symbols, holders)
    order = np.lexsort((holders, targets, kinds, pages))
    columns = np.stack(
        [column[order] for column in (pages, kinds.astype(np.int64), targets, holders)]
    )
    starts = np.flatnonzero(np.any(np.diff(columns, axis=1, prepend=-(1 << 62)) != 0, axis=0))
    counts = np.diff(np.append(starts, columns.shape[1]))
    result: dict[int, list[Cause]] = {}
    for (page, kind, target, holder), count in zip(
        columns[:, starts].T.tolist(), counts.tolist(), strict=True
    ):
        held = names.name(holder) if target != holder else ""
        result.setdefault(page, []).append(Cause(Kind(kind), names.name(target), count, held))
    for causes in result.values():
        causes.sort(key=lambda cause: -cause.count)
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
    headers = section_headers(elf)
    found = headers[headers["sh_type"] == SHT_SYMTAB]
    if not len(found) or int(found[0]["sh_link"]) >= elf.shnum:
        return None
    record, size = elf.layout.sym, int(found[0]["sh_size"])
    strings = headers[int(found[0]["sh_link"])]
    try:
        table = elf.table(".symtab", int(found[0]["sh_offset"]), record, size // record.itemsize)
        return table, StringTable(elf, int(strings["sh_offset"]), int(strings["sh_size"]))
    except ElfError:
        return None  # of no use to any loader, and cut off
