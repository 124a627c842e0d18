"""Symbols that bind to a surprising object: a definition of their own that is not the one used.

An object that defines a symbol and refers to it gets the first definition in the search list,
which may be another object's: that is how a preloaded malloc works, and how two libraries that
export the same name by accident get into each other's way. Left out is what is meant to be so:
the program's copies of variables and its canonical PLT entries, which are the library's own
symbols under another address, and STB_GNU_UNIQUE.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from samepage.abi.elf import SHN_UNDEF, STB_GNU_UNIQUE
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.query import TypeClass
from samepage.linker.references import Bindings
from samepage.records import record

_LIBC = "libc.so.6"


@record(frozen=True)
class Interposition:
    """Symbols that `user` defines itself, and that it is bound to those of `definer` for."""

    user: LinkMap
    definer: LinkMap
    symbols: list[str]


def interpositions(bindings: Bindings) -> Iterator[Interposition]:
    """The interpositions of all objects, in the order of relocation."""
    tables, rows, found = bindings.tables, bindings.rows, bindings.definitions
    own, others = tables.symbols(rows), tables.symbols(found)
    users, definers = tables.owners(rows), tables.owners(found)
    elsewhere = (found >= 0) & (own.sections != SHN_UNDEF) & (users != definers)
    elsewhere &= (others.sections != SHN_UNDEF) & (others.binds != STB_GNU_UNIQUE)
    is_copy = (bindings.classes & TypeClass.COPY) != 0
    elsewhere &= ~is_copy & ~np.isin(found, rows[is_copy])
    # libc takes over what ld.so has for the time before it (`_dl_catch_exception`).
    from_libc = [link.object.soname == _LIBC for link in tables.links]
    ldso = [link.by_kernel and link.kind is MapKind.LIBRARY for link in tables.links]
    elsewhere &= ~(np.array(ldso)[users] & np.array(from_libc)[definers])
    which = elsewhere.nonzero()[0]
    if not len(which):
        return
    names = tables.names(rows[which], users[which]).names()
    groups: dict[tuple[int, int], list[str]] = {}
    for user, definer, name in zip(
        users[which].tolist(), definers[which].tolist(), names, strict=True
    ):
        groups.setdefault((user, definer), []).append(name)
    for (user, definer), symbols in groups.items():
        yield Interposition(tables.links[user], tables.links[definer], sorted(set(symbols)))
