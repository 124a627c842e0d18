"""Symbol lookup: all references at once through the objects of a scope.

The entries of `Scope.candidates` have the hash of a reference's name; which of them are
definitions is `check_match`'s business in glibc, and `Lookup._examine` here: an entry
must be reachable, have the name, and a value; it must not merely be another object's PLT
entry; its type must be one that code or data has; and its version must fit. A reference
without version takes the base version, or the only version that an object has.

Of the definitions in an object the first one in the chain counts. If it is hidden or
local it is passed over, and the search continues with the next object. So for nearly every
reference the first candidate is the answer, which is one step for all of them
(`_first`). What is left takes all candidates, sorted by reference and object (`_all`).

Sources: `do_lookup_x`, `check_match`, `_dl_lookup_symbol_x` of glibc 2.36.
"""

import numpy as np

from samepage.abi.elf import (
    SHN_ABS,
    STB_GLOBAL,
    STB_GNU_UNIQUE,
    STB_WEAK,
    STT_COMMON,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_OBJECT,
    STT_TLS,
    STV_DEFAULT,
    STV_PROTECTED,
)
from samepage.elf.layout import I64, U32, Bools
from samepage.elf.versions import HIDDEN
from samepage.linker.maps import MapKind
from samepage.linker.query import Query, TypeClass
from samepage.linker.scope import Scope, walk_sysv
from samepage.linker.tables import SymbolTables
from samepage.records import record


def _mask(*numbers: int) -> np.uint32:
    """A bit for each number: whether a number is one of them is a shift, not a search."""
    return np.uint32(sum(1 << number for number in numbers))


_DEFINING_TYPES = _mask(STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_COMMON, STT_TLS, STT_GNU_IFUNC)
_BINDING_KINDS = _mask(STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE)
_VISIBLE = _mask(STV_DEFAULT, STV_PROTECTED)

_AT_ONCE = 1 << 20
"""Candidates that are looked at together where all are: it bounds the memory for them."""


@record
class _Examined:
    """What candidates are worth.

    `fits`: a definition for its reference. `lone`: a definition of some version, for a
    reference without one; it counts if the object has no other definition of the name.
    `usable`: neither hidden nor local.
    """

    fits: Bools
    lone: Bools
    usable: Bools


class Lookup:
    """A query in a scope."""

    def __init__(self, tables: SymbolTables, scope: Scope, query: Query) -> None:
        self._tables = tables
        self._scope = scope
        self._query = query
        self._candidates = scope.candidates(query.hashes)
        kinds = [link.kind for link in tables.links]
        self._is_program = np.array([kind == MapKind.EXECUTABLE for kind in kinds])

    def definitions(self) -> I64:
        """The row of each reference's definition, -1 where there is none."""
        result = np.full(len(self._query), -1)
        left = np.arange(len(self._query)) if self._scope.sysv else self._first(result)
        candidates = self._candidates
        counts = candidates.end[left] - candidates.begin[left]
        parts = np.cumsum(counts) // _AT_ONCE
        for part in range(int(parts[-1]) + 1 if len(parts) else 0):
            names, rows = self._all(left[parts == part])
            # Assigned in reverse order, so that the first object in the scope wins.
            result[names[::-1]] = rows[::-1]
        return result

    def definers(self) -> tuple[I64, I64]:
        """All objects' definitions of each reference: which reference, and the row.

        In the order in which the scope is searched.
        """
        return self._all(np.arange(len(self._query)))

    def _first(self, result: I64) -> I64:
        """Settle the references whose first candidate is their definition.

        Returns those that are left, and have candidates.
        """
        begin = self._candidates.begin
        names = (begin < self._candidates.end).nonzero()[0]
        entries = self._candidates.entries[begin[names]]
        owners = self._scope.owners(entries)
        rows = self._scope.rows(entries, owners)
        reachable = self._scope.reachable(entries, owners, self._query.hashes[names])
        found = self._examine(names, rows, owners, reachable)
        good = found.fits & found.usable
        good &= ~self._query.own_first[names] | (owners == self._query.owners[names])
        result[names[good]] = rows[good]
        return names[~good]

    def _all(self, wanted: I64) -> tuple[I64, I64]:
        """Of each object, the definition of each reference that it has one for."""
        candidates = self._candidates
        begin = candidates.begin[wanted]
        counts = candidates.end[wanted] - begin
        ends = np.cumsum(counts)
        step = np.arange(int(counts.sum()))
        entries = candidates.entries[np.repeat(begin - ends + counts, counts) + step]
        names = np.repeat(wanted, counts)
        owners = self._scope.owners(entries)
        rows = self._scope.rows(entries, owners)
        reachable = self._scope.reachable(entries, owners, self._query.hashes[names])
        names, rows, owners = (column[reachable] for column in (names, rows, owners))
        names, rows, owners = self._with_sysv(wanted, names, rows, owners)
        rank = self._scope.rank[owners] + 1
        rank[self._query.own_first[names] & (owners == self._query.owners[names])] = 0
        order = np.lexsort((rank, names))
        names, rows, owners = names[order], rows[order], owners[order]
        found = self._examine(names, rows, owners, np.ones(len(names), np.bool_))
        chosen = _one_of_each(names, owners, found)
        chosen = chosen[found.usable[chosen]]
        return names[chosen], rows[chosen]

    def _with_sysv(self, wanted: I64, names: I64, rows: I64, owners: I64) -> tuple[I64, I64, I64]:
        """The candidates, with those of the objects that only have DT_HASH."""
        if not self._scope.sysv or not len(wanted):
            return names, rows, owners
        hashes = self._query.names.take(wanted).sysv_hashes()
        columns = [(names, rows, owners)]
        for number, table in self._scope.sysv:
            which, symbols = walk_sysv(table, hashes)
            first = self._tables.first[number]
            columns.append((wanted[which], symbols + first, np.full(len(which), number)))
        names, rows, owners = (np.concatenate(column) for column in zip(*columns, strict=True))
        return names, rows, owners

    def _examine(self, names: I64, rows: I64, owners: I64, good: Bools) -> _Examined:
        """`check_match` for each candidate, as far as `good`."""
        tables, query = self._tables, self._query
        symbols = tables.symbols(rows)
        types, sections, classes = symbols.types, symbols.sections, query.classes[names]
        defined = (tables.values(rows) != 0) | (sections == SHN_ABS) | (types == STT_TLS)
        good = good & defined & _is_in(_DEFINING_TYPES, types)
        good &= ((classes & TypeClass.PLT) == 0) | (sections != 0)
        good &= ((classes & TypeClass.COPY) == 0) | ~self._is_program[owners]
        usable = _is_in(_BINDING_KINDS, symbols.binds) & _is_in(_VISIBLE, symbols.visibilities)
        # A symbol has its own name; of the others, the names are compared.
        others = (good & (rows != query.rows[names])).nonzero()[0]
        places = tables.name_places(symbols.names[others], owners[others])
        good[others] = tables.text.equal(places, query.names, names[others])
        entry = tables.version_entries(rows)
        number = tables.version_numbers(tables.version_places(rows, owners))
        shown = (entry & HIDDEN) == 0
        asked = query.version[names]
        base = ~query.exact[names] & (number == 0) & shown
        unversioned_fits = (entry & ~np.uint16(HIDDEN)) < (2 if query.newest else 3)
        fits = np.where(asked != 0, (number == asked) | base, unversioned_fits)
        plain = ~tables.has_versions[owners]
        lone = good & (asked == 0) & ~unversioned_fits & shown & ~plain
        return _Examined(good & (fits | plain), lone, usable)


def _is_in(mask: np.uint32, numbers: U32) -> Bools:
    return ((mask >> numbers) & np.uint32(1)).astype(np.bool_)


def _one_of_each(names: I64, owners: I64, found: _Examined) -> I64:
    """The candidate that each object offers for each reference, if it offers one.

    Candidates are sorted by reference and object, those of one pair in chain order.
    """
    new = np.ones(len(names), np.bool_)
    new[1:] = (names[1:] != names[:-1]) | (owners[1:] != owners[:-1])
    pair = np.cumsum(new) - 1
    count = int(pair[-1]) + 1 if len(pair) else 0
    chosen = np.full(count, -1)
    lone = found.lone.nonzero()[0]
    alone = np.bincount(pair[lone], minlength=count)[pair[lone]] == 1
    chosen[pair[lone[alone]]] = lone[alone]
    fits = found.fits.nonzero()[0][::-1]
    chosen[pair[fits]] = fits  # in reverse order: the first one wins
    return chosen[chosen >= 0]
