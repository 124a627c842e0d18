"""Binding: which definition each symbol reference of each object gets.

The relocations of an object that name a symbol are reduced to distinct (symbol, class)
pairs, its references. A local, hidden or internal symbol is its own definition. All
others of all objects that search the same scopes are looked up together. A reference to
a protected symbol of the object itself stays there, unless the program has taken over
the symbol's address (a canonical PLT entry for a function), which is searched once more
in class PLT. Sources: `resolve_map`, `_dl_lookup_symbol_x` of glibc 2.36.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from samepage.elf.layout import I64, U8, U64, Bools, Table
from samepage.elf.machines import KIND_TABLES, Kind, kinds_of
from samepage.elf.object import STB_LOCAL, STB_WEAK, STV_HIDDEN, STV_INTERNAL, STV_PROTECTED
from samepage.elf.strings import NamePool
from samepage.linker.errors import LinkError
from samepage.linker.lookup import Definitions, ScopeTable, UniqueSymbols, look_up
from samepage.linker.maps import LinkMap
from samepage.linker.query import (
    Query,
    TypeClass,
    VersionNumbers,
    distinct,
    join_queries,
    make_query,
)

_CLASS_OF_KIND = np.zeros(max(Kind) + 1, np.uint8)
_CLASS_OF_KIND[[Kind.JUMP_SLOT, Kind.DTPMOD, Kind.DTPOFF, Kind.TPOFF, Kind.TLSDESC]] = TypeClass.PLT
_CLASS_OF_KIND[Kind.COPY] = TypeClass.COPY

_SYMBOLLESS = np.zeros(max(Kind) + 1, np.bool_)
_SYMBOLLESS[[Kind.RELATIVE, Kind.IRELATIVE]] = True


@dataclass(slots=True)
class Entries:
    """The relocations of an object that are not in its leading run of relative ones, and
    that store something (those of kind NONE do not).

    Columns in table order, DT_RELA before DT_JMPREL. `reference[i]` is the index of
    entry i's reference in the object's `References`, -1 where it names no symbol.
    The entries from `plt_start` on are DT_JMPREL's.
    """

    places: U64
    kinds: U8
    addends: I64
    reference: I64
    plt_start: int


@dataclass(slots=True)
class References:
    """The distinct references of an object, and what each is bound to.

    `definer` is the index of the defining object in the load order, or -1; `definition`
    the symbol's index there. `lazy` tells which are only used by entries of DT_JMPREL,
    so that lazy binding leaves them for later.
    """

    symbols: I64
    classes: U8
    lazy: Bools
    definer: I64
    definition: I64
    record: Table
    """The defining symbol, all zeros if there is none."""
    looked_up: Bools


@dataclass(frozen=True, slots=True)
class Binding:
    """One reference with its definition, for people. `definer` is None if it has none."""

    symbol: str
    version: str
    user: LinkMap
    definer: LinkMap | None
    kind: str
    """"normal" or "protected", as LD_DEBUG=bindings says."""
    weak: bool
    relocation: TypeClass
    reason: str
    """Why this definition and not another."""
    interposed: tuple[LinkMap, ...] = ()
    """Objects further down the search list that define the symbol, too."""


def read_entries(link: LinkMap) -> tuple[Entries, References]:
    """The relocation entries of an object, and its references, not yet bound.

    Raises `LinkError` for a relocation type that ld.so does not know either.
    """
    elf = link.object.elf
    tables = link.object.relocations
    if len(tables.rel) or (len(tables.plt) and not tables.plt_has_addends):
        raise LinkError(f"{link.name}: DT_REL is not used on x86-64", 2)
    rest = tables.rela[tables.relative_count :]
    plt = tables.plt
    places = np.concatenate([rest["r_offset"], plt["r_offset"]])
    info = np.concatenate([rest["r_info"], plt["r_info"]])
    addends = np.concatenate([rest["r_addend"], plt["r_addend"]])
    types = (info & np.uint64(0xFFFFFFFF)).astype(np.int64)
    kinds = kinds_of(KIND_TABLES[elf.machine], types)
    if (kinds == Kind.UNKNOWN).any():
        bad = int(types[int((kinds == Kind.UNKNOWN).argmax())])
        raise LinkError(f"{link.name}: unexpected reloc type 0x{bad:02x}")
    plt_start = len(rest)
    if (kinds == Kind.NONE).any():
        # What a linker found unnecessary after it had made room for it; it has no place.
        used = kinds != Kind.NONE
        plt_start = int(used[:plt_start].sum())
        places, info, addends, kinds = (c[used] for c in (places, info, addends, kinds))
    classes = _CLASS_OF_KIND[kinds]
    symbols = (info >> np.uint64(32)).astype(np.int64)
    keys = symbols * 4 + classes
    keys[_SYMBOLLESS[kinds]] = -1
    pairs, reference = np.unique(keys, return_inverse=True)
    if len(pairs) and pairs[0] == -1:
        pairs = pairs[1:]
        reference = reference - 1
    eager = np.zeros(len(pairs) + 1, np.bool_)
    eager[reference[:plt_start]] = True
    unbound = np.full(len(pairs), -1)
    references = References(
        symbols=pairs >> 2,
        classes=(pairs & 3).astype(np.uint8),
        lazy=~eager[: len(pairs)],
        definer=unbound,
        definition=unbound.copy(),
        record=np.zeros(len(pairs), elf.layout.sym),
        looked_up=np.zeros(len(pairs), np.bool_),
    )
    return Entries(places, kinds, addends, reference, plt_start), references


class Binder:
    """Binds the references of objects. State: version numbers and unique symbols.

    Objects are bound in the order of their relocation: it decides which definition of a
    unique symbol comes first.
    """

    def __init__(self, maps: list[LinkMap]) -> None:
        """`maps` in load order; `LinkMap.index` are indices into it."""
        self._maps = maps
        self.versions = VersionNumbers()
        self._unique = UniqueSymbols()
        self._tables: dict[int, ScopeTable] = {}

    def bind(self, links: list[LinkMap], references: dict[LinkMap, References]) -> None:
        """Bind all references of `links`, in place.

        References without definition keep -1; `undefined` tells which of them matter.
        """
        groups: dict[tuple[int, ...], list[LinkMap]] = {}
        for link in links:
            key = tuple(id(scope) for scope in link.scopes)
            groups.setdefault(key, []).append(link)
        unique: dict[LinkMap, I64] = {}
        for group in groups.values():
            self._bind_group(group, references, unique)
        for link in links:
            if link in unique:
                self._settle_unique(link, references[link], unique[link])

    def _bind_group(
        self,
        group: list[LinkMap],
        references: dict[LinkMap, References],
        unique: dict[LinkMap, I64],
    ) -> None:
        """Bind objects that search the same scopes; note what is bound to unique symbols."""
        queries: list[Query] = []
        places: list[tuple[LinkMap, I64]] = []
        for link in group:
            refs = references[link]
            outside = self._bind_locals(link, refs)
            if len(outside):
                queries.append(
                    make_query(link, refs.symbols[outside], refs.classes[outside], self.versions)
                )
                places.append((link, outside))
        if not queries:
            return
        query = join_queries(queries)
        questions, answers = distinct(query)
        answer = Definitions.none(len(questions))
        self._search(questions, np.arange(len(questions)), group[0].scopes, answer)
        found = Definitions(
            answer.link[answers],
            answer.symbol[answers],
            answer.unique[answers],
            answer.record[answers],
        )
        self._keep_protected(query, group[0].scopes, found)
        start = 0
        for link, outside in places:
            end = start + len(outside)
            references[link].definer[outside] = found.link[start:end]
            references[link].definition[outside] = found.symbol[start:end]
            references[link].record[outside] = found.record[start:end]
            hits = outside[found.unique[start:end]]
            if len(hits):
                unique[link] = hits
            start = end

    def _settle_unique(self, link: LinkMap, refs: References, which: I64) -> None:
        names = link.object.strings.pool(link.object.symbols["st_name"][refs.symbols[which]])
        for reference, name in zip(which.tolist(), names.names(), strict=True):
            found = (int(refs.definer[reference]), int(refs.definition[reference]))
            copies = refs.classes[reference] & TypeClass.COPY
            own = (link.index, int(refs.symbols[reference])) if copies else None
            definition = self._unique.settle(name, found, own)
            refs.definer[reference], refs.definition[reference] = definition
            refs.record[reference] = self._maps[definition[0]].object.symbols[definition[1]]

    def _bind_locals(self, link: LinkMap, refs: References) -> I64:
        """Bind what needs no lookup; return the other references."""
        table = link.object.symbols
        records = table[refs.symbols]
        visibility = records["st_other"] & 3
        own = (records["st_info"] >> 4) == STB_LOCAL
        own |= (visibility == STV_HIDDEN) | (visibility == STV_INTERNAL)
        refs.definer[own] = link.index
        refs.definition[own] = refs.symbols[own]
        refs.record[own] = records[own]
        refs.looked_up = ~own
        return refs.looked_up.nonzero()[0]

    def _search(
        self, query: Query, which: I64, scopes: list[list[LinkMap]], found: Definitions
    ) -> None:
        for scope in scopes:
            which = look_up(query, which, self._table(scope), self.versions, found)

    def _table(self, scope: list[LinkMap]) -> ScopeTable:
        table = self._tables.get(id(scope))
        if table is None or table.scope != scope:  # a scope may have grown since
            table = self._tables[id(scope)] = ScopeTable(scope)
        return table

    def _keep_protected(
        self, query: Query, scopes: list[list[LinkMap]], found: Definitions
    ) -> None:
        """References to an object's own protected symbols stay in the object."""
        protected = np.zeros(len(query), np.bool_)
        for link, chosen in _by_link(self._maps, query.link):
            others = link.object.symbols["st_other"][query.symbol[chosen]]
            protected[chosen] = (others & 3) == STV_PROTECTED
        strays = np.flatnonzero(protected & (found.link >= 0) & (found.link != query.link))
        if not len(strays):
            return
        plt = query.classes[strays] == TypeClass.PLT
        again = strays[~plt]
        classes = query.classes[again]
        query.classes[again] = TypeClass.PLT
        second = Definitions.none(len(query))
        self._search(query, again, scopes, second)
        query.classes[again] = classes
        stay = np.concatenate(
            [
                strays[plt],
                again[(second.link[again] >= 0) & (second.link[again] != query.link[again])],
            ]
        )
        found.link[stay] = query.link[stay]
        found.symbol[stay] = query.symbol[stay]
        for index in stay.tolist():
            table = self._maps[int(query.link[index])].object.symbols
            found.record[index] = table[int(query.symbol[index])]
        found.unique[stay] = False

    def find(
        self, name: str, scopes: list[list[LinkMap]], version: tuple[str, int] | None = None
    ) -> tuple[LinkMap, int] | None:
        """The definition of one name in some scopes, as `dlsym` finds it: object and symbol.

        `version` is a version's name and hash; without one, the default version counts.
        """
        raw = os.fsencode(name)
        words = np.frombuffer(raw.ljust((len(raw) // 8 + 1) * 8, b"\0"), np.uint64)
        names = NamePool(words, np.array([0, len(words)]), np.array([len(raw)]))
        number = self.versions.number(version) if version else 0
        query = Query(
            link=np.array([-1]),
            symbol=np.array([-1]),
            classes=np.zeros(1, np.uint8),
            names=names,
            hashes=names.gnu_hashes(),
            version=np.array([number], np.int32),
            exact=np.zeros(1, np.bool_),
        )
        found = Definitions.none(1)
        self._search(query, np.arange(1), scopes, found)
        link = int(found.link[0])
        return (self._maps[link], int(found.symbol[0])) if link >= 0 else None

    def undefined(self, link: LinkMap, refs: References, lazy: bool) -> list[int]:
        """The references without definition that end the link: the weak ones do not, and
        with lazy binding those of DT_JMPREL do not yet.
        """
        missing = refs.definer < 0
        if lazy:
            missing &= ~refs.lazy
        if not missing.any():
            return []
        which = missing.nonzero()[0]
        bind = link.object.symbols["st_info"][refs.symbols[which]] >> 4
        result: list[int] = which[bind != STB_WEAK].tolist()
        return result

    def explain(self, link: LinkMap, refs: References) -> Iterator[Binding]:
        """The bindings of an object that were looked up, one by one, in table order."""
        which = refs.looked_up.nonzero()[0]
        if not len(which):
            return
        query = make_query(link, refs.symbols[which], refs.classes[which], self.versions)
        records = link.object.symbols[refs.symbols[which]]
        names = query.names.names()
        others = self._all_definers(query, link.scopes)
        for position, reference in enumerate(which.tolist()):
            definer = int(refs.definer[reference])
            found = self._maps[definer] if definer >= 0 else None
            record = records[position]
            protected = bool(record["st_other"] & 3 == STV_PROTECTED)
            weak = bool(record["st_info"] >> 4 == STB_WEAK)
            yield Binding(
                symbol=names[position],
                version=self.versions.names[int(query.version[position])],
                user=link,
                definer=found,
                kind="protected" if protected else "normal",
                weak=weak,
                relocation=TypeClass(int(refs.classes[reference])),
                reason=self._reason(link, found, others[position], protected, weak),
                interposed=tuple(other for other in others[position] if other is not found),
            )

    def _all_definers(self, query: Query, scopes: list[list[LinkMap]]) -> list[list[LinkMap]]:
        """For each reference, all objects whose definition it would accept, in order."""
        result: list[list[LinkMap]] = [[] for _ in range(len(query))]
        for link in dict.fromkeys(link for scope in scopes for link in scope):
            found = Definitions.none(len(query))
            look_up(query, np.arange(len(query)), ScopeTable([link]), self.versions, found)
            for position in np.flatnonzero(found.link >= 0).tolist():
                result[position].append(link)
        return result

    def _reason(
        self,
        link: LinkMap,
        found: LinkMap | None,
        definers: list[LinkMap],
        protected: bool,
        weak: bool,
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


def _by_link(maps: list[LinkMap], indices: I64) -> Iterator[tuple[LinkMap, I64]]:
    """Each object that occurs in a column of indices, with the places where it does."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-2))
    for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
        index = int(ordered[start])
        if index >= 0:
            yield maps[index], order[start:end]
