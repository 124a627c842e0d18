"""What would lower a library's cost, each computed by making the change on the tables.

A change that takes words out of a GOT, or moves them, moves what lies around it, too:
`Layout` computes where everything would be then, so that pages can be counted as before. A
linker may still place a section a few bytes elsewhere, which can be a page more or less.
"""

from dataclasses import dataclass

import numpy as np

from samepage.abi.elf import SHN_UNDEF, STT_FUNC, STT_GNU_IFUNC, DynamicFlags, SegmentFlags
from samepage.analysis.cost_tables import DYNAMIC_SECTION, CostTables
from samepage.analysis.got_layout import Layout
from samepage.elf.dynamic import Tag
from samepage.elf.layout import U64
from samepage.elf.machines import Kind

PLT_ENTRY = 16
"""Bytes of code for each slot, on all architectures that are known here."""


@dataclass(frozen=True, slots=True)
class Saving:
    """Something that would lower the cost: what to do, and what it saves.

    `pages` are copied pages per process, `file_bytes` bytes of the file (negative: more).
    The latter are those of relocations, GOT and PLT; symbols and hashes come on top.
    """

    change: str
    pages: int
    file_bytes: int = 0
    note: str = ""


def savings_of(tables: CostTables) -> list[Saving]:
    """All changes that would lower the cost, or seem so."""
    others = [address for address, _ in tables.others]
    now = tables.copied(tables.places, tables.widths, others)
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


def _bound_inside(tables: CostTables, now: int, *, functions_only: bool) -> Saving | None:
    """References of the library to itself that need no GOT entry any more.

    An IFUNC keeps its entry, which its resolver fills in.
    """
    layout = Layout(tables)
    table = tables.symbol_table
    kind = table["st_info"][tables.symbols] & 15
    inside = (tables.symbols > 0) & (table["st_shndx"][tables.symbols] != SHN_UNDEF)
    inside &= layout.in_got & (kind != STT_GNU_IFUNC)
    # RISC-V has no GLOB_DAT.
    inside &= np.isin(tables.kinds, [Kind.JUMP_SLOT, Kind.GLOB_DAT, Kind.ABSOLUTE])
    if functions_only:
        inside &= kind == STT_FUNC
    number = int(inside.sum())
    if not number:
        return None
    pages = now - layout.without(inside)
    change = "-Wl,-Bsymbolic-functions" if functions_only else "hidden visibility for own symbols"
    relocations = tables.library.relocations
    record = (relocations.plt if len(relocations.plt) else relocations.rela).dtype.itemsize
    size = number * (record + tables.library.elf.layout.word_size)
    size += PLT_ENTRY * int((inside & (tables.kinds == Kind.JUMP_SLOT)).sum())
    go = "entry" if number == 1 else "entries"
    note = f"{number} GOT {go} for the library's own symbols would not be needed"
    return Saving(change, pages, size, note)


def _prelinked(tables: CostTables, now: int) -> Saving | None:
    """At its own base address a library needs no relative relocation, but ld.so applies them
    all the same: it only leaves the dynamic section alone, and the words of DT_REL.
    """
    relative = tables.kinds == Kind.RELATIVE
    if not relative.any():
        return None
    relocations = tables.library.relocations
    widths = tables.widths.copy()
    if len(relocations.rel):
        start = len(relocations.relr) + len(relocations.rela)
        widths[start : start + relocations.relative_count] = 0
        note = "ld.so skips the leading relative relocations then"
    else:
        note = (
            "ld.so stores relative relocations at any address; it only spares the dynamic section"
        )
    others = [address for address, why in tables.others if why != DYNAMIC_SECTION]
    pages = now - tables.copied(tables.places, widths, others)
    return Saving("prelinking to a fixed base address", pages, 0, note)


def _bind_now(tables: CostTables, now: int) -> Saving | None:
    """Without lazy binding the PLT's slots are part of the GOT, in RELRO."""
    slots = tables.kinds == Kind.JUMP_SLOT
    lazy = not tables.library.dynamic.flags & DynamicFlags.BIND_NOW
    layout = Layout(tables)
    if not lazy or not slots.any() or not layout.has_both:
        return None
    note = "the PLT's slots become read-only after relocation; calls are bound at load time"
    return Saving("-Wl,-z,now", now - layout.bound_now(), 0, note)


def _const_data(tables: CostTables) -> Saving | None:
    """Data that no relocation touches could be read-only: pages that a write would copy."""
    touched = set(tables.stores(tables.places, tables.widths)[0].tolist())
    touched |= {address // tables.page_size for address, _ in tables.others}
    free: set[int] = set()
    for section in tables.sections:
        if section.name.startswith(".data") and section.writable and section.in_file:
            first = section.address // tables.page_size
            last = (section.address + section.size - 1) // tables.page_size
            free |= set(range(first, last + 1)) - touched
    if not free:
        return None
    pages, have = ("page", "has") if len(free) == 1 else ("pages", "have")
    note = f"{len(free)} {pages} of writable data {have} no pointers: const, no write copies them"
    return Saving("const for data that is never written", 0, 0, note)


def _packed(tables: CostTables) -> Saving | None:
    """RELR: the same pages are written, but the file is smaller.

    Linkers pack what lies at even addresses of sections that are aligned themselves.
    """
    elf = tables.library.elf
    relocations = tables.library.relocations
    entries = relocations.rela if len(relocations.rela) else relocations.rel
    places = np.sort(entries["r_offset"][: relocations.relative_count].astype(np.uint64))
    places = places[places % np.uint64(elf.layout.word_size) == 0]
    for section in tables.sections:
        if section.alignment < 2:
            start, end = np.uint64(section.address), np.uint64(section.address + section.size)
            places = places[(places < start) | (places >= end)]
    saved = len(places) * entries.dtype.itemsize - relr_size(places, elf.layout.word_size)
    if Tag.RELR not in tables.library.dynamic.places:
        saved -= 3 * elf.layout.dyn.itemsize + elf.layout.shdr.itemsize
    if saved <= 0:
        return None
    return Saving("-Wl,-z,pack-relative-relocs", 0, saved, "the file is smaller, no page is saved")


def relr_size(places: U64, word: int) -> int:
    """The bytes that a DT_RELR table for these places takes, which are aligned words."""
    entries, at, places_left = 0, 0, places
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


def _separate_code(tables: CostTables) -> Saving | None:
    """Without separate code, read-only data is mapped executable, in pages with code."""
    names = {".rodata", ".eh_frame", ".dynsym", ".rela.dyn"}
    for load in tables.library.elf.loads:
        inside = {
            section.name
            for section in tables.sections
            if load.vaddr <= section.address < load.vaddr + load.memsz
        }
        if load.flags & SegmentFlags.X and names & inside:
            note = f"{', '.join(sorted(names & inside))} are executable; no page is saved"
            return Saving("-Wl,-z,separate-code", 0, 0, note)
    return None
