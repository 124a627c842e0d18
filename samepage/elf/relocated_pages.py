"""Which pages relocation writes to, and with what: the cost that a process pays.

A page of a private file mapping is shared until something stores into it; relocation is
what stores into most of them. A store to a page that lies in two (an unaligned word)
counts for the page where it begins.
"""

from collections import Counter

import numpy as np

from samepage.abi.elf import SegmentFlags
from samepage.elf.layout import U8, U64
from samepage.elf.machines import KIND_TABLES, Kind, kinds_of
from samepage.elf.object import DynamicObject
from samepage.records import record

PAGE_SHIFT = 12


@record(frozen=True)
class RelocatedPage:
    """One page that relocation stores into; `address` is in the file's terms."""

    address: int
    counts: dict[Kind, int]


def places_and_kinds(dynamic_object: DynamicObject) -> tuple[U64, U8]:
    """The place and the kind of every relocation of an object, of any architecture."""
    elf = dynamic_object.elf
    tables = dynamic_object.relocations
    table = KIND_TABLES.get(elf.machine)
    if table is None:
        raise elf.error(f"the relocations of machine {elf.machine} are not known")
    mask = np.uint64((1 << elf.layout.symbol_shift) - 1)
    places = [tables.relr]
    kinds = [np.full(len(tables.relr), Kind.RELATIVE, np.uint8)]
    for entries in (tables.rela, tables.rel, tables.plt):
        places.append(entries["r_offset"].astype(np.uint64))
        types = (entries["r_info"].astype(np.uint64) & mask).astype(np.int64)
        kinds.append(kinds_of(table, types))
    # The type of the leading relative entries is not looked at.
    kinds[1 if len(tables.rela) else 2][: tables.relative_count] = Kind.RELATIVE
    return np.concatenate(places), np.concatenate(kinds)


def count_kinds(dynamic_object: DynamicObject) -> dict[Kind, int]:
    """The number of relocations of each kind."""
    _, kinds = places_and_kinds(dynamic_object)
    return {Kind(kind): count for kind, count in enumerate(np.bincount(kinds).tolist()) if count}


def relocated_pages(dynamic_object: DynamicObject) -> list[RelocatedPage]:
    """The pages that relocation stores into, by address.

    Lazily bound slots count too: ld.so adds the base to them at load time.
    """
    places, kinds = places_and_kinds(dynamic_object)
    stores = kinds != Kind.NONE
    keys = (places[stores] >> np.uint64(PAGE_SHIFT)) * np.uint64(32) + kinds[stores]
    found, counts = np.unique(keys, return_counts=True)
    pages: dict[int, Counter[Kind]] = {}
    for key, count in zip(found.tolist(), counts.tolist(), strict=True):
        pages.setdefault((key >> 5) << PAGE_SHIFT, Counter())[Kind(key & 31)] = count
    return [RelocatedPage(address, dict(kinds_)) for address, kinds_ in pages.items()]


def text_relocations(dynamic_object: DynamicObject) -> U64:
    """The places of relocations that store into segments that are not writable (DT_TEXTREL).

    Such code was compiled without -fPIC: ld.so makes its segment writable, and each page that
    a relocation stores to is copied in each process.
    """
    places, kinds = places_and_kinds(dynamic_object)
    outside = kinds != Kind.NONE
    for load in dynamic_object.elf.loads:
        if load.flags & SegmentFlags.W:
            end = load.vaddr + max(load.memsz, load.filesz)
            outside &= (places < np.uint64(load.vaddr)) | (places >= np.uint64(end))
    found: U64 = places[outside]
    return found
