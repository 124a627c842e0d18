"""Symbol lookup: each reference through the objects of a scope, all references at once.

ld.so takes each reference through the scope, object by object: a Bloom filter, a bucket,
a chain of hashes, and for an equal hash the comparison of name and version. Here the
question is turned round. The chains of DT_GNU_HASH are the hashes of all definitions, so
those of all objects of a scope are joined with the hashes of all references in one step
(`ScopeTable`): what comes out are the few pairs of equal hashes. They are looked at
object by object in the order of the scope, and the first definition of a reference wins.
That is the same result, in time that grows with the number of references plus that of
definitions, not with their product; and a chain that never ends has no power.

For it to be the same, a pair counts only if ld.so would come to it: if the Bloom filter
lets the name pass, and the entry lies in the chain of the name's bucket (`_reachable`).

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

from samepage.elf.hashes import GnuHash, SysvHash
from samepage.elf.layout import ELF64, I64, U32, Bools, Table
from samepage.elf.object import (
    SHN_ABS,
    SHN_UNDEF,
    STB_GLOBAL,
    STB_GNU_UNIQUE,
    STB_WEAK,
    STT_TLS,
)
from samepage.elf.versions import HIDDEN, INDEX_MASK
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.query import Query, TypeClass, VersionNumbers

_DEFINING_TYPES = np.zeros(16, np.bool_)
_DEFINING_TYPES[[0, 1, 2, 5, 6, 10]] = True  # NOTYPE OBJECT FUNC COMMON TLS GNU_IFUNC
_BINDING_KINDS = np.zeros(16, np.bool_)
_BINDING_KINDS[[STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE]] = True
_VISIBLE = np.array([True, False, False, True])  # DEFAULT INTERNAL HIDDEN PROTECTED

MAX_CHAIN = 1 << 16
"""Entries of one hash chain that are looked at; real tables have a handful."""


@dataclass(slots=True)
class Definitions:
    """What was found for each reference of a query.

    `link` is the index of the defining object in the load order, -1 if there is none;
    `symbol` is the index in that object's symbol table, `record` the symbol itself (all
    zeros if there is none); `unique` tells whether it is STB_GNU_UNIQUE.
    """

    link: I64
    symbol: I64
    unique: Bools
    record: Table

    @classmethod
    def none(cls, count: int) -> "Definitions":
        return cls(
            np.full(count, -1),
            np.zeros(count, np.int64),
            np.zeros(count, np.bool_),
            np.zeros(count, ELF64.sym),
        )


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


class ScopeTable:
    """The hashes of everything that the objects of a scope define, as one column.

    `keys` has the chain entries of all DT_GNU_HASH tables of the scope with the lowest
    bit set (in a table that bit is "last of the chain"), object after object;
    `starts[i]` is where object i's begin.
    """

    def __init__(self, scope: list[LinkMap]) -> None:
        self.scope = list(scope)
        tables = [link.object.gnu_hash for link in scope]
        chains = [table.chains if table else np.empty(0, np.uint32) for table in tables]
        self.starts = np.cumsum([0] + [len(chain) for chain in chains])
        self.keys: U32 = np.concatenate(chains) | np.uint32(1)
        self._ends: dict[int, I64] = {}

    def ends_before(self, index: int) -> I64:
        """How many chains of object `index` end before each entry of its chains."""
        ends = self._ends.get(index)
        if ends is None:
            table = self.scope[index].object.gnu_hash
            assert table is not None
            ends = np.zeros(len(table.chains) + 1, np.int64)
            np.cumsum(table.chains & np.uint32(1), out=ends[1:])
            self._ends[index] = ends
        return ends

    def candidates(self, hashes: U32) -> tuple[I64, I64]:
        """Pairs (place in `keys`, place in `hashes`) that are equal but for the lowest bit,
        by ascending place in `keys`.
        """
        wanted = hashes | np.uint32(1)
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        # Most definitions are wanted by nobody: a bitmap of 16 hash bits drops them.
        present = np.zeros(1 << 16, np.bool_)
        present[ordered >> np.uint32(16)] = True
        places = np.flatnonzero(present[self.keys >> np.uint32(16)])
        keys = self.keys[places]
        first = np.searchsorted(ordered, keys, "left")
        counts = np.searchsorted(ordered, keys, "right") - first
        places, first, counts = (column[counts > 0] for column in (places, first, counts))
        ends = np.cumsum(counts)
        step = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
        return np.repeat(places, counts), order[np.repeat(first, counts) + step]


def look_up(
    query: Query, which: I64, table: ScopeTable, versions: VersionNumbers, found: Definitions
) -> I64:
    """Look up the references `which` of `query` through a scope; fill in `found`.

    Returns the references that have no definition there.
    """
    if not len(which):
        return which
    places, references = table.candidates(query.hashes[which])
    references = which[references]
    bounds = np.searchsorted(places, table.starts)
    for index, link in enumerate(table.scope):
        if link.object.gnu_hash is not None:
            start, end = bounds[index], bounds[index + 1]
            if start == end:
                continue
            wanted = references[start:end]
            positions = places[start:end] - table.starts[index]
            open_ = found.link[wanted] < 0
            wanted, positions = wanted[open_], positions[open_]
            ends = table.ends_before(index)
            candidates = _reachable(link.object.gnu_hash, ends, query, wanted, positions)
        elif link.object.sysv_hash is not None:
            wanted = which[found.link[which] < 0]
            candidates = _walk(link.object.sysv_hash, query, wanted)
        else:
            continue
        _take(link, query, *candidates, versions, found)
    return which[found.link[which] < 0]


def _reachable(
    table: GnuHash, ends_before: I64, query: Query, wanted: I64, positions: I64
) -> tuple[I64, I64]:
    """Of the entries at `positions` of a table's chains, those that a lookup comes to:
    the Bloom filter lets the name pass, and the entry is in the chain of its bucket.
    """
    hashes = query.hashes[wanted]
    first = table.buckets[hashes % np.uint32(len(table.buckets))].astype(np.int64)
    begin = np.maximum(first - table.symoffset, 0)
    good = table.may_define(hashes) & (first != 0) & (begin <= positions)
    good &= ends_before[begin] == ends_before[positions]
    return wanted[good], positions[good] + table.symoffset


def _walk(table: SysvHash, query: Query, wanted: I64) -> tuple[I64, I64]:
    """All entries of the chains of DT_HASH that lookups of `wanted` come to, in order.

    A chain longer than the number of symbols is a cycle; it ends there.
    """
    if not len(table.buckets) or not len(wanted):
        return wanted[:0], wanted[:0]
    hashes = query.sysv_hashes()[wanted]
    symbol = table.buckets[hashes % np.uint32(len(table.buckets))].astype(np.int64)
    found = [(wanted[:0], wanted[:0])]
    for _ in range(min(len(table.chains), MAX_CHAIN)):
        going = symbol != 0
        wanted, symbol = wanted[going], symbol[going]
        if not len(wanted):
            break
        found.append((wanted, symbol))
        symbol = table.chains[symbol].astype(np.int64)
    references, symbols = (np.concatenate(column) for column in zip(*found, strict=True))
    return references, symbols


def _take(
    link: LinkMap,
    query: Query,
    wanted: I64,
    symbols: I64,
    versions: VersionNumbers,
    found: Definitions,
) -> None:
    """Take the first candidate of each reference that is a definition for it.

    `wanted` and `symbols` are the candidates in one object, those of a reference in the
    order of its chain.
    """
    if link.kind == MapKind.EXECUTABLE:
        others = (query.classes[wanted] & TypeClass.COPY) == 0
        wanted, symbols = wanted[others], symbols[others]
    if not len(wanted):
        return
    matches, versioned_only = _matches(link, query, wanted, symbols, versions)
    hits, chosen = wanted[matches], symbols[matches]
    if versioned_only.any():
        # A reference without version takes a candidate of some version if it is alone.
        rest = versioned_only & ~np.isin(wanted, hits)
        lone, first, counts = np.unique(wanted[rest], return_index=True, return_counts=True)
        hits = np.concatenate([hits, lone[counts == 1]])
        chosen = np.concatenate([chosen, symbols[rest][first][counts == 1]])
    records = link.object.symbols[chosen]
    bind = records["st_info"] >> 4
    # Assigning in reverse order lets the first of a chain win. One that cannot be used
    # ends the search in this object all the same.
    usable = _BINDING_KINDS[bind] & _VISIBLE[records["st_other"] & 3]
    hits, chosen, unique, usable, records = (
        column[::-1] for column in (hits, chosen, bind == STB_GNU_UNIQUE, usable, records)
    )
    found.link[hits] = np.where(usable, link.index, -1)
    found.symbol[hits] = chosen
    found.unique[hits] = unique & usable
    found.record[hits] = np.where(usable, records, np.zeros(1, records.dtype))


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
