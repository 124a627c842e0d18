"""Symbol lookup: each reference through the objects of a scope, all references at once.

The outer loop goes over the objects of the scope, in order; the references that have
found no definition yet are looked up in one object together. That is the same result as
ld.so's, which goes through the scope for each reference, and its cost is that of the
tables: per object a Bloom filter over an array, and short walks for the few that pass.

What makes a symbol of the right name a definition is `check_match`'s business in glibc
and `_matches` here: it has a value, it is not merely another object's PLT entry, its type
is one that code or data has, and its version fits. A reference without version takes
the base version, or the only version that there is. A definition that is hidden, or
local, is passed over; the search goes on with the next object.

STB_GNU_UNIQUE definitions are unique in the process: the first one that any lookup
found counts for all later lookups of the name, whatever their scope. "First" is in the
order of relocation, so this is settled after all lookups (`UniqueSymbols`).

Sources: `do_lookup_x`, `check_match`, `do_lookup_unique`, `_dl_lookup_symbol_x`.
"""

from dataclasses import dataclass, field

import numpy as np

from samepage.elf.layout import I64, U32, Bools
from samepage.elf.object import (
    SHN_ABS,
    SHN_UNDEF,
    STB_GLOBAL,
    STB_GNU_UNIQUE,
    STB_WEAK,
    STT_TLS,
    STV_HIDDEN,
    STV_INTERNAL,
)
from samepage.elf.versions import HIDDEN, INDEX_MASK
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.query import Query, TypeClass, VersionNumbers

_DEFINING_TYPES = np.zeros(16, np.bool_)
_DEFINING_TYPES[[0, 1, 2, 5, 6, 10]] = True  # NOTYPE OBJECT FUNC COMMON TLS GNU_IFUNC

MAX_CHAIN = 1 << 16
"""Entries of one hash chain that are looked at; real tables have a handful."""


@dataclass(slots=True)
class Definitions:
    """What was found for each reference of a query.

    `link` is the index of the defining object in the load order, -1 if there is none;
    `symbol` is the index in that object's symbol table; `unique` tells whether it is
    STB_GNU_UNIQUE there.
    """

    link: I64
    symbol: I64
    unique: Bools

    @classmethod
    def none(cls, count: int) -> "Definitions":
        return cls(np.full(count, -1), np.zeros(count, np.int64), np.zeros(count, np.bool_))


@dataclass(slots=True)
class UniqueSymbols:
    """The process-wide table of STB_GNU_UNIQUE definitions, by name."""

    table: dict[str, tuple[int, int]] = field(default_factory=dict)

    def settle(
        self, name: str, found: tuple[int, int], copy_into: tuple[int, int] | None
    ) -> tuple[int, int]:
        """The definition for a reference whose lookup ended at a unique definition.

        Definitions are (object, symbol). A COPY relocation (`copy_into` is the program's
        own symbol) copies from what it found, and if it is the first to come, makes the
        program's copy the unique object from then on.
        """
        entry = self.table.get(name)
        if copy_into is not None:
            self.table.setdefault(name, copy_into)
            return found
        if entry is None:
            self.table[name] = found
            return found
        return entry


def look_up(
    query: Query,
    which: I64,
    scope: list[LinkMap],
    versions: VersionNumbers,
    found: Definitions,
) -> I64:
    """Look up the references `which` of `query` through a scope; fill in `found`.

    Returns the references that have no definition there.
    """
    active = which
    for link in scope:
        if not len(active):
            break
        wanted = active
        if link.kind == MapKind.EXECUTABLE:
            wanted = active[(query.classes[active] & TypeClass.COPY) == 0]
        hits, symbols = _look_up_in(link, query, wanted, versions)
        if not len(hits):
            continue
        records = link.object.symbols[symbols]
        bind = records["st_info"] >> 4
        visibility = records["st_other"] & 3
        usable = (bind == STB_GLOBAL) | (bind == STB_WEAK) | (bind == STB_GNU_UNIQUE)
        usable &= (visibility != STV_HIDDEN) & (visibility != STV_INTERNAL)
        if not usable.all():
            hits, symbols, bind = hits[usable], symbols[usable], bind[usable]
        found.link[hits] = link.index
        found.symbol[hits] = symbols
        found.unique[hits] = bind == STB_GNU_UNIQUE
        active = active[found.link[active] < 0]
    return active


def _look_up_in(
    link: LinkMap, query: Query, wanted: I64, versions: VersionNumbers
) -> tuple[I64, I64]:
    """The references that have a definition of their name in one object, and its index."""
    if link.object.gnu_hash is not None:
        return _walk_gnu(link, query, wanted, versions)
    if link.object.sysv_hash is not None:
        return _walk_sysv(link, query, wanted, versions)
    return wanted[:0], wanted[:0]


def _walk_gnu(
    link: LinkMap, query: Query, wanted: I64, versions: VersionNumbers
) -> tuple[I64, I64]:
    table = link.object.gnu_hash
    assert table is not None
    if not len(table.buckets):
        return wanted[:0], wanted[:0]
    hashes = query.hashes[wanted]
    passed = table.may_define(hashes)
    wanted, hashes = wanted[passed], hashes[passed]
    first = table.buckets[hashes % np.uint32(len(table.buckets))]
    filled = first != 0
    wanted, hashes = wanted[filled], hashes[filled]
    position = first[filled].astype(np.int64) - table.symoffset
    walk = _Walk(link, query, versions)
    for _ in range(MAX_CHAIN):
        if not len(wanted):
            break
        chain = table.chains[position]
        same = ((chain ^ hashes) >> np.uint32(1)) == 0
        going = (chain & np.uint32(1)) == 0
        if same.any():
            taken = walk.take(wanted[same], position[same] + table.symoffset)
            going[same] &= ~taken
        wanted, hashes, position = wanted[going], hashes[going], position[going] + 1
    return walk.result()


def _walk_sysv(
    link: LinkMap, query: Query, wanted: I64, versions: VersionNumbers
) -> tuple[I64, I64]:
    table = link.object.sysv_hash
    assert table is not None
    if not len(table.buckets) or not len(wanted):
        return wanted[:0], wanted[:0]
    hashes: U32 = query.sysv_hashes()[wanted]
    symbol = table.buckets[hashes % np.uint32(len(table.buckets))].astype(np.int64)
    walk = _Walk(link, query, versions)
    # A chain longer than the number of symbols is a cycle; it ends here.
    for _ in range(min(len(table.chains), MAX_CHAIN)):
        going = symbol != 0
        wanted, symbol = wanted[going], symbol[going]
        if not len(wanted):
            break
        taken = walk.take(wanted, symbol)
        wanted, symbol = wanted[~taken], table.chains[symbol[~taken]].astype(np.int64)
    return walk.result()


class _Walk:
    """What a walk along one object's hash chains has found so far."""

    def __init__(self, link: LinkMap, query: Query, versions: VersionNumbers) -> None:
        self._link = link
        self._query = query
        self._versions = versions
        self._hits: list[I64] = []
        self._symbols: list[I64] = []
        self._only: dict[int, list[int]] = {}

    def take(self, wanted: I64, symbols: I64) -> Bools:
        """Take those of the candidates that are definitions; tell which."""
        matches, fallback = _matches(self._link, self._query, wanted, symbols, self._versions)
        if matches.any():
            self._hits.append(wanted[matches])
            self._symbols.append(symbols[matches])
        for reference, symbol in zip(
            wanted[fallback].tolist(), symbols[fallback].tolist(), strict=True
        ):
            self._only.setdefault(reference, []).append(symbol)
        return matches

    def result(self) -> tuple[I64, I64]:
        """References and definitions. Of an unversioned reference's candidates that are
        all of some version, one is taken if it is the only one.
        """
        hits, symbols = list(self._hits), list(self._symbols)
        if self._only:
            taken = {index for array in self._hits for index in array.tolist()}
            lone = [
                (reference, candidates[0])
                for reference, candidates in self._only.items()
                if len(candidates) == 1 and reference not in taken
            ]
            hits.append(np.array([reference for reference, _ in lone], np.int64))
            symbols.append(np.array([symbol for _, symbol in lone], np.int64))
        if not hits:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(hits), np.concatenate(symbols)


def _matches(
    link: LinkMap, query: Query, wanted: I64, symbols: I64, versions: VersionNumbers
) -> tuple[Bools, Bools]:
    """`check_match`: which candidates are definitions, and which would be if unversioned
    references could take any version (not a hidden one).
    """
    table = link.object.symbols
    if int(symbols.max(initial=0)) >= len(table):
        raise link.object.elf.error(
            f"hash table: symbol {int(symbols.max())} of only {len(table)} symbols"
        )
    records = table[symbols]
    kind = records["st_info"] & 15
    section = records["st_shndx"]
    good = (records["st_value"] != 0) | (section == SHN_ABS) | (kind == STT_TLS)
    good &= ((query.classes[wanted] & TypeClass.PLT) == 0) | (section != SHN_UNDEF)
    good &= _DEFINING_TYPES[kind]
    good &= link.object.strings.equal(records["st_name"], query.names, wanted)
    versym = link.object.versions.symbols
    if versym is None:
        return good, np.zeros(len(good), np.bool_)
    entry = versym[symbols]
    index = entry & INDEX_MASK
    shown = (entry & HIDDEN) == 0
    number = versions.of(link).numbers[index]
    asked = query.version[wanted]
    base = ~query.exact[wanted] & (number == 0) & shown
    versioned = asked != 0
    unversioned_fits = index < 3
    fits = np.where(versioned, (number == asked) | base, unversioned_fits)
    fallback = good & ~versioned & ~unversioned_fits & shown
    return good & fits, fallback
