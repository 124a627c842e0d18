"""Symbol references as columns: what is looked up, for many symbols at once.

A reference is a symbol of an object that some relocation uses, together with the class
of the relocation: the class decides which definitions are acceptable (a PLT entry of
another object is no definition for a PLT; the program's own copy is none for a COPY
relocation). Each column of a `Query` has one element per reference. Versions are
compared as numbers: `VersionNumbers` gives each (name, hash) one number per link.

Source: `elf_machine_type_class`, `resolve_map`, `_dl_check_map_versions` of glibc 2.36.
"""

import enum
from dataclasses import dataclass

import numpy as np

from samepage.elf.layout import I64, U8, U32, Bools
from samepage.elf.strings import NamePool, join
from samepage.elf.versions import INDEX_MASK
from samepage.linker.maps import LinkMap


class TypeClass(enum.IntFlag):
    """`ELF_RTYPE_CLASS_*`. DATA is the class of all other relocations."""

    DATA = 0
    PLT = 1
    COPY = 2


class VersionNumbers:
    """Numbers for versions, from 1; 0 stands for "no version" (`hash == 0`)."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}
        self._tables: dict[LinkMap, VersionTable] = {}
        self.names: list[str] = [""]

    def of(self, link: LinkMap) -> "VersionTable":
        """The version table of an object (`l_versions`), by version index."""
        table = self._tables.get(link)
        if table is None:
            table = self._tables[link] = self._build(link)
        return table

    def number(self, version: tuple[str, int]) -> int:
        """The number of the version with this name and hash."""
        number = self._numbers.get(version)
        if number is None:
            number = self._numbers[version] = len(self.names)
            self.names.append(version[0])
        return number

    def _build(self, link: LinkMap) -> "VersionTable":
        versions = link.object.versions
        entries = [*versions.defined, *versions.needed]
        size = max((version.index for version in entries), default=0) + 1
        if versions.symbols is not None and len(versions.symbols):
            size = max(size, int((versions.symbols & INDEX_MASK).max()) + 1)
        numbers = np.zeros(max(size, 2), np.int32)
        hidden = np.zeros(max(size, 2), np.bool_)
        for version in entries:
            if version.hash == 0:
                continue
            numbers[version.index] = self.number((version.name, version.hash))
            hidden[version.index] = version.hidden
        return VersionTable(numbers, hidden)


@dataclass(frozen=True, slots=True)
class VersionTable:
    """By version index: the version's number, and whether a reference needs exactly it."""

    numbers: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    hidden: Bools


@dataclass(slots=True)
class Query:
    """References to look up.

    `link` and `symbol` say whose symbol it is, `classes` the class, `names` and `hashes`
    the name; `version` is a number of `VersionNumbers`, and `exact` forbids the base
    definition in its stead.
    """

    link: I64
    symbol: I64
    classes: U8
    names: NamePool
    hashes: U32
    version: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    exact: Bools

    _sysv: U32 | None = None

    def __len__(self) -> int:
        return len(self.symbol)

    def sysv_hashes(self) -> U32:
        """The names' hashes for objects that have only DT_HASH; computed when needed."""
        if self._sysv is None:
            self._sysv = self.names.sysv_hashes()
        return self._sysv


def make_query(link: LinkMap, symbols: I64, classes: U8, versions: VersionNumbers) -> Query:
    """The references of one object. `symbols` are indices into its symbol table."""
    records = link.object.symbols[symbols]
    names = link.object.strings.pool(records["st_name"])
    versym = link.object.versions.symbols
    if versym is None:
        number = np.zeros(len(symbols), np.int32)
        exact = np.zeros(len(symbols), np.bool_)
    else:
        table = versions.of(link)
        index = versym[symbols] & INDEX_MASK
        number = table.numbers[index]
        exact = table.hidden[index]
    return Query(
        link=np.full(len(symbols), link.index),
        symbol=symbols,
        classes=classes,
        names=names,
        hashes=names.gnu_hashes(),
        version=number,
        exact=exact,
    )


def join_queries(queries: list[Query]) -> Query:
    """One query with the references of all, in order."""
    if len(queries) == 1:
        return queries[0]
    return Query(
        link=np.concatenate([query.link for query in queries]),
        symbol=np.concatenate([query.symbol for query in queries]),
        classes=np.concatenate([query.classes for query in queries]),
        names=join([query.names for query in queries]),
        hashes=np.concatenate([query.hashes for query in queries]),
        version=np.concatenate([query.version for query in queries]),
        exact=np.concatenate([query.exact for query in queries]),
    )


def distinct(query: Query) -> tuple[Query, I64]:
    """The query without repeated questions, and for each reference its question's index.

    All objects of a program refer to the same few functions of libc: the answer to the
    same name, version and class in the same scopes is the same. Two names with one hash
    are rare but possible, so names are compared: a reference whose name is not that of
    its hash's first reference stays a question of its own.
    """
    key = query.hashes.astype(np.uint64) << np.uint64(32)
    key |= query.version.astype(np.uint64) << np.uint64(3)
    key |= query.classes.astype(np.uint64) << np.uint64(1)
    key |= query.exact
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    representative = first[inverse]
    counts = np.diff(query.names.starts)
    same = counts == counts[representative]
    which = np.flatnonzero(same)
    lengths = counts[which]
    begins = np.cumsum(lengths) - lengths
    step = np.arange(int(lengths.sum()))
    words = query.names.words
    mine = words[np.repeat(query.names.starts[which] - begins, lengths) + step]
    theirs = words[np.repeat(query.names.starts[representative[which]] - begins, lengths) + step]
    if len(which):
        same[which] = np.logical_and.reduceat(mine == theirs, begins)
    representative[~same] = np.flatnonzero(~same)
    chosen, answers = np.unique(representative, return_inverse=True)
    return take(query, chosen), answers


def take(query: Query, chosen: I64) -> Query:
    """The query with only some of its references."""
    return Query(
        link=query.link[chosen],
        symbol=query.symbol[chosen],
        classes=query.classes[chosen],
        names=query.names.take(chosen),
        hashes=query.hashes[chosen],
        version=query.version[chosen],
        exact=query.exact[chosen],
    )
