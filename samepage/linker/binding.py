"""Binding: which definition each symbol reference of each object gets.

A local, hidden or internal symbol is its own definition. All other references of all
objects that search the same scopes are looked up together. A reference to a protected
symbol of the object itself stays there, unless the program has taken over the symbol's
address (a canonical PLT entry for a function), which is searched once more in class PLT.

STB_GNU_UNIQUE definitions are unique in the process: the first one that any lookup
found counts for all later lookups of the name, whatever their scope. "First" is in the
order of relocation, so this is settled after all lookups (`UniqueSymbols`).

Sources: `resolve_map`, `_dl_lookup_symbol_x`, `do_lookup_unique` of glibc 2.36.
"""

import os
from collections.abc import Iterable, Iterator

import numpy as np

from samepage.abi.elf import (
    STB_GNU_UNIQUE,
    STB_LOCAL,
    STB_WEAK,
    STV_HIDDEN,
    STV_INTERNAL,
    STV_PROTECTED,
)
from samepage.elf.layout import I64, U8, Bools
from samepage.elf.strings import NamePool
from samepage.linker.lookup import Lookup
from samepage.linker.maps import LinkMap
from samepage.linker.query import Query, TypeClass, make_query
from samepage.linker.references import Bindings, References
from samepage.linker.scope import Scope
from samepage.linker.tables import SymbolTables
from samepage.linker.versions import VersionNumbers
from samepage.records import field, record

Scopes = list[list[LinkMap]]
"""Search lists, in the order in which they are searched."""


@record(frozen=True)
class Binding:
    """One reference with its definition, for people. `definer` is None if it has none."""

    symbol: str
    version: str
    user: LinkMap
    definer: LinkMap | None
    kind: str
    """"normal" or "protected", as LD_DEBUG=bindings prints."""
    weak: bool
    relocation: TypeClass
    reason: str
    """Why this definition and not another."""
    interposed: tuple[LinkMap, ...] = ()
    """Objects further down the search list that define the symbol, too."""


@record
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


class Binder:
    """Binds the references of objects. State: version numbers and unique symbols, and the
    tables of the objects that were looked at last.

    Objects are bound in the order of their relocation: it decides which definition of a
    unique symbol comes first.
    """

    def __init__(
        self,
        maps: list[LinkMap],
        by_version: bool = True,
        versions: VersionNumbers | None = None,
    ) -> None:
        """`maps` in load order; `LinkMap.index` are indices into it. Without `by_version`, as
        in musl, a reference takes any definition that is not hidden. `versions` may be those
        of another link.
        """
        self._maps = maps
        self._by_version = by_version
        self.versions = versions or VersionNumbers()
        self._unique = UniqueSymbols()
        self._tables = SymbolTables([], self.versions)
        self._scopes: dict[tuple[int, ...], Scope] = {}

    def bind(self, links: list[LinkMap]) -> Bindings:
        """Find the definitions for all references of `links`, in their order.

        References without definition have -1; `Bindings.undefined` has those that matter.
        """
        definers = [self._maps[index] for index, _ in self._unique.table.values()]
        searched = [link for scope in _distinct_scopes(links) for link in scope]
        self._use_tables(dict.fromkeys([*links, *searched, *definers]))
        found = Bindings(self._tables, links)
        outside = self._bind_locals(found)
        owners = self._tables.owners(found.rows[outside])
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, link in enumerate(links):
            key = tuple(id(scope) for scope in _shared(link))
            groups.setdefault(key, []).append(number)
        unique = []
        for members in groups.values():
            of_group = np.zeros(len(links), np.bool_)
            of_group[members] = True
            chosen = outside[of_group[owners]]
            if len(chosen):
                unique.append(self._bind_group(found, chosen, _shared(links[members[0]])))
        if unique:
            self._settle_unique(found, np.sort(np.concatenate(unique)))
        return found

    def _bind_locals(self, found: Bindings) -> I64:
        """Bind what needs no lookup; return the other references."""
        symbols = self._tables.symbols(found.rows)
        visibility = symbols.visibilities
        own = (symbols.binds == STB_LOCAL) | (visibility == STV_HIDDEN)
        own |= visibility == STV_INTERNAL
        found.definitions[own] = found.rows[own]
        found.looked_up = ~own
        outside: I64 = found.looked_up.nonzero()[0]
        return outside

    def _bind_group(self, found: Bindings, chosen: I64, scopes: Scopes) -> I64:
        """Bind references of objects that search the same scopes, but for their own.

        Returns those that are bound to unique symbols.
        """
        tables = self._tables
        rows = found.rows[chosen]
        owners = tables.owners(rows)
        first = np.array([_shared(link) is not link.scopes for link in found.links])
        query = self._query(tables, rows, owners, found.classes[chosen], first[owners])
        scope = self._scope(scopes)
        definitions = Lookup(tables, scope, query).definitions()
        unique = tables.symbols(definitions).binds == STB_GNU_UNIQUE
        stay = self._protected(query, scope, definitions)
        definitions[stay] = rows[stay]
        unique[stay] = False
        found.definitions[chosen] = definitions
        bound_to_unique: I64 = chosen[unique]
        return bound_to_unique

    def _query(
        self, tables: SymbolTables, rows: I64, owners: I64, classes: U8, own_first: Bools
    ) -> Query:
        query = make_query(tables, rows, owners, classes, own_first)
        return query if self._by_version else query.without_versions()

    def _protected(self, query: Query, scope: Scope, definitions: I64) -> I64:
        """References to an object's own protected symbols, which stay in the object."""
        strays = self._tables.symbols(query.rows).visibilities == STV_PROTECTED
        strays &= (definitions >= 0) & (self._tables.owners(definitions) != query.owners)
        which: I64 = strays.nonzero()[0]
        if not len(which):
            return which
        stray = query.take(which)
        again = Lookup(self._tables, scope, stray.as_class(TypeClass.PLT)).definitions()
        stays = stray.classes == TypeClass.PLT
        stays |= (again >= 0) & (self._tables.owners(again) != stray.owners)
        staying: I64 = which[stays]
        return staying

    def _settle_unique(self, found: Bindings, references: I64) -> None:
        """Settle the references that are bound to unique symbols, in their order."""
        tables = self._tables
        rows, copies = found.rows[references], found.classes[references] & TypeClass.COPY
        columns = (
            tables.names(rows, tables.owners(rows)).names(),
            zip(*tables.places(found.definitions[references]), strict=True),
            zip(*tables.places(rows), strict=True),
            copies.tolist(),
            references.tolist(),
        )
        for name, definition, own, copy, reference in zip(*columns, strict=True):
            index, symbol = self._unique.settle(name, definition, own if copy else None)
            found.definitions[reference] = tables.first[tables.at[index]] + symbol

    def unique_definers(self) -> set[LinkMap]:
        """The objects that define unique symbols, for all that will refer to them."""
        return {self._maps[index] for index, _ in self._unique.table.values()}

    def forget(self, links: Iterable[LinkMap]) -> None:
        """Let go of objects that are unmapped, and of all views of their tables."""
        gone = {link.index for link in links}
        table = self._unique.table
        self._unique.table = {name: found for name, found in table.items() if found[0] not in gone}
        self.versions.forget(links)
        self._use_tables([])

    def find(
        self, name: str, scopes: Scopes, version: tuple[str, int] | None = None
    ) -> tuple[LinkMap, int] | None:
        """The definition of one name in some scopes, as `dlsym` finds it: object and symbol.

        `version` is a version's name and hash; without one, the default version counts.
        """
        raw = os.fsencode(name)
        words = np.frombuffer(raw.ljust((len(raw) // 8 + 1) * 8, b"\0"), np.uint64)
        names = NamePool(words, np.array([0, len(words)]), np.array([len(raw)]))
        query = Query(
            rows=np.array([-1]),
            owners=np.array([-1]),
            classes=np.zeros(1, np.uint8),
            names=names,
            hashes=names.gnu_hashes(),
            version=np.array([self.versions.number(version) if version else 0], np.int32),
            exact=np.zeros(1, np.bool_),
            own_first=np.zeros(1, np.bool_),
            newest=version is None,
        )
        tables = self._tables_with([link for scope in scopes for link in scope])
        row = Lookup(tables, self._scope(scopes), query).definitions()
        if row[0] < 0:
            return None
        owner = int(tables.owners(row)[0])
        return tables.links[owner], int(row[0] - tables.first[owner])

    def explain(self, link: LinkMap, references: References) -> Iterator[Binding]:
        """The bindings of an object that were looked up, one by one, in table order."""
        which = references.looked_up.nonzero()[0]
        if not len(which):
            return
        tables = self._tables_with([link, *(other for scope in link.scopes for other in scope)])
        own = tables.at[link.index]
        rows, owners = references.symbols[which] + tables.first[own], np.full(len(which), own)
        first = np.full(len(which), _shared(link) is not link.scopes)
        query = self._query(tables, rows, owners, references.classes[which], first)
        lookup = Lookup(tables, self._scope(_shared(link)), query)
        definers: list[list[LinkMap]] = [[] for _ in which]
        for reference, row in zip(*(column.tolist() for column in lookup.definers()), strict=True):
            definers[reference].append(tables.links[int(tables.owners(np.array([row]))[0])])
        symbols, names = tables.symbols(rows), query.names.names()
        for position, reference in enumerate(which.tolist()):
            definer = int(references.definer[reference])
            found = self._maps[definer] if definer >= 0 else None
            protected = bool(symbols.visibilities[position] == STV_PROTECTED)
            weak = bool(symbols.binds[position] == STB_WEAK)
            yield Binding(
                symbol=names[position],
                version=self.versions.names[int(query.version[position])],
                user=link,
                definer=found,
                kind="protected" if protected else "normal",
                weak=weak,
                relocation=TypeClass(int(references.classes[reference])),
                reason=_reason(link, found, definers[position], protected, weak),
                interposed=tuple(other for other in definers[position] if other is not found),
            )

    def _tables_with(self, links: Iterable[LinkMap]) -> SymbolTables:
        """The tables of some objects, among others."""
        wanted = dict.fromkeys(links)
        if any(link.index not in self._tables.at for link in wanted):
            self._use_tables(wanted)
        return self._tables

    def _use_tables(self, links: Iterable[LinkMap]) -> None:
        self._tables = SymbolTables(list(links), self.versions)
        self._scopes.clear()

    def _scope(self, scopes: Scopes) -> Scope:
        order = [self._tables.at[link.index] for scope in scopes for link in scope]
        key = tuple(dict.fromkeys(order))
        scope = self._scopes.get(key)
        if scope is None:
            scope = self._scopes[key] = Scope(self._tables, list(key))
        return scope


def _reason(
    link: LinkMap, found: LinkMap | None, definers: list[LinkMap], protected: bool, weak: bool
) -> str:
    if found is None:
        return "undefined, and weak: 0" if weak else "undefined"
    if protected and found is link:
        return "protected: stays in its object"
    if definers and found is not definers[0]:
        return "unique: the first definition that any object was bound to"
    if found is link and len(link.scopes) > 1:
        return "symbolic: the object searches itself first"
    if len(definers) > 1:
        return f"first of {len(definers)} definitions in the search list"
    return "the only definition in the search list"


def _shared(link: LinkMap) -> Scopes:
    """An object's scopes; without the one that only has the object itself (-Bsymbolic), if
    it is in another one: that is `Query.own_first`, and lets it share the others.
    """
    scopes = link.scopes
    if len(scopes) > 1 and scopes[0] == [link] and any(link in scope for scope in scopes[1:]):
        return scopes[1:]
    return scopes


def _distinct_scopes(links: list[LinkMap]) -> Scopes:
    return list({id(scope): scope for link in links for scope in link.scopes}.values())
