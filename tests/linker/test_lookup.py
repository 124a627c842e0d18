"""Looking up all references at once gives what looking up one after the other gives."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.elf.dynamic import Tag
from samepage.elf.hashes import GnuHash
from samepage.linker.arena import Arena
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.lookup import Lookup
from samepage.linker.maps import LinkMap
from samepage.linker.query import make_query
from samepage.linker.scope import Scope
from samepage.linker.search import LinkerConfig
from samepage.linker.tables import SymbolTables
from samepage.linker.versions import VersionNumbers
from samepage.records import replace
from tests.linker.test_system_programs import PROGRAMS
from tests.linker.workshop import Workshop


def bound(path: str) -> LinkResult:
    linker = Linker(ImageMemory(), replace(LinkerConfig(), bind_now=True))
    result = linker.load(path)
    linker.bind(result)
    return result


def walk(table: GnuHash, hash_: int) -> list[int]:
    """The symbols that `do_lookup_x` comes to in one object, one step after the other."""
    word = int(table.bloom[(hash_ // 64) & (len(table.bloom) - 1)])
    if not (word >> (hash_ % 64)) & (word >> ((hash_ >> table.bloom_shift) % 64)) & 1:
        return []
    symbol, found = int(table.buckets[hash_ % len(table.buckets)]), []
    while symbol:
        entry = int(table.chains[symbol - table.symoffset])
        if entry | 1 == hash_ | 1:
            found.append(symbol)
        if entry & 1:
            break
        symbol += 1
    return found


@pytest.mark.parametrize("path", PROGRAMS)
def test_candidates_are_those_that_a_walk_comes_to(path: str) -> None:
    result = bound(path)
    numbers = VersionNumbers()
    tables = SymbolTables(result.search_list, numbers)
    scope = Scope(tables, list(range(len(result.search_list))))
    program = result.maps[0].object
    names = program.strings.pool(program.symbols["st_name"])
    hashes = names.gnu_hashes()
    found = scope.candidates(hashes)
    for number, hash_ in enumerate(hashes.tolist()):
        entries = found.entries[found.begin[number] : found.end[number]]
        owners = scope.owners(entries)
        reached = scope.reachable(entries, owners, np.repeat(hashes[number], len(entries)))
        rows = scope.rows(entries, owners)[reached].tolist()
        expected = [
            int(tables.first[position]) + symbol
            for position, link in enumerate(result.search_list)
            if link.object.gnu_hash is not None
            for symbol in walk(link.object.gnu_hash, hash_)
        ]
        assert rows == expected


@pytest.mark.parametrize("path", PROGRAMS)
def test_the_definition_is_the_first_definer(path: str) -> None:
    result = bound(path)
    assert result.bindings is not None
    numbers = VersionNumbers()
    tables = SymbolTables(result.search_list, numbers)
    scope = Scope(tables, list(range(len(result.search_list))))
    used = np.unique(result.references[result.maps[0]].symbols)
    rows = used + tables.first[0]
    owners = np.zeros(len(rows), np.int64)
    nothing = np.zeros(len(rows), np.bool_)
    query = make_query(tables, rows, owners, np.zeros(len(rows), np.uint8), nothing)
    lookup = Lookup(tables, scope, query)
    first: dict[int, int] = {}
    for reference, row in zip(*(column.tolist() for column in lookup.definers()), strict=True):
        first.setdefault(reference, row)
    expected = [first.get(reference, -1) for reference in range(len(rows))]
    assert lookup.definitions().tolist() == expected


HASHES = st.integers(0, 40).map(lambda number: number * 0x2000_0400 & 0xFFFFFFFF)


@settings(deadline=None)
@given(st.lists(st.lists(HASHES, max_size=12), min_size=1, max_size=4), st.lists(HASHES))
def test_candidates_have_the_hash_but_for_its_lowest_bit(
    objects: list[list[int]], names: list[int]
) -> None:
    one, filter_ = np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    links = [
        SimpleNamespace(
            object=SimpleNamespace(
                gnu_hash=GnuHash(1, 0, filter_, one, np.array(chain, np.uint32), 64)
            )
        )
        for chain in objects
    ]
    tables = SimpleNamespace(links=links, first=np.zeros(len(objects) + 1, np.int64))
    scope = Scope(cast(SymbolTables, tables), list(range(len(objects))))
    found = scope.candidates(np.array(names, np.uint32))
    entries = [hash_ for chain in objects for hash_ in chain]
    for number, name in enumerate(names):
        expected = [place for place, entry in enumerate(entries) if entry | 1 == name | 1]
        begin, end = int(found.begin[number]), int(found.end[number])
        assert found.entries[begin:end].tolist() == expected


def test_objects_with_only_the_old_hash_table_take_their_place(workshop: Workshop) -> None:
    """Old, new, old hash table: the first in the search order defines, whatever it has."""
    for name, style in (("liba.so", "sysv"), ("libb.so", "gnu"), ("libc1.so", "sysv")):
        only = {"liba.so": "a", "libb.so": "b", "libc1.so": "c"}[name]
        source = f"int {only}(void){{return 1;}} int all(void){{return 1;}}"
        if name != "liba.so":
            source += " int late(void){return 1;}"
        workshop.library(name, source, f"-Wl,--hash-style={style}")
    program = workshop.program(
        "int a(void),b(void),c(void),all(void),late(void);"
        "int main(){return a()+b()+c()+all()+late();}",
        "-la",
        "-lb",
        "-lc1",
    )
    result = bound(program)
    assert result.maps[2].object.dynamic.get(Tag.GNU_HASH) is None
    link: LinkMap = result.maps[0]
    references = result.references[link]
    names = link.object.strings.pool(link.object.symbols["st_name"][references.symbols]).names()
    definers = {
        name: result.maps[index].object.soname or result.maps[index].name.rsplit("/", 1)[-1]
        for name, index in zip(names, references.definer.tolist(), strict=True)
        if index >= 0
    }
    wanted = {"a": "liba.so", "b": "libb.so", "c": "libc1.so", "all": "liba.so", "late": "libb.so"}
    assert {name: definers[name] for name in wanted} == wanted


def test_memory_of_an_arena_is_zero_and_given_once() -> None:
    arena = Arena()
    taken = [arena.take(length) for length in (10, 100 << 20, 7, 64)]
    for buffer, at in taken:
        assert buffer[at : at + 7] == bytes(7)
        buffer[at : at + 7] = b"samples"
    spans = {(id(buffer), at) for buffer, at in taken}
    assert len(spans) == len(taken)
