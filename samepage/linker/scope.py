"""The hash tables of all objects of a scope as one: which entries a name could be.

ld.so takes each name through the scope, object by object: a Bloom filter, a bucket, and
a chain of hashes. Here the question is turned round. The chains of DT_GNU_HASH are the
hashes of all definitions, so those of all objects of a scope are joined with the hashes
of all names that are looked for, by sorting both together: after that, the entries of a
hash lie side by side, in the order of the scope, right before the names that have it.
Time and memory grow with the number of names plus that of entries, not with their
product; and a chain that never ends has no power.

For the result to be ld.so's, an entry counts only if ld.so would come to it: if its
object's Bloom filter lets the name pass, and it lies in the chain of the name's bucket
(`reachable`).

Objects that have only DT_HASH are walked one by one (`sysv`), since its chains have no
hashes to be joined; they are rare. Sources: `do_lookup_x`, `_dl_setup_hash` of glibc.
"""

import numpy as np

from samepage.elf.hashes import SysvHash
from samepage.elf.layout import I64, U32, U64, Bools
from samepage.linker.tables import SymbolTables, starts_of
from samepage.records import record

MAX_CHAIN = 1 << 16
"""Entries of one chain of DT_HASH that are looked at; real tables have a handful."""

_FILTER_BITS = 18
_FILTER_SHIFT = 32 - _FILTER_BITS
_NAME = 1 << 31


@record
class Candidates:
    """Which entries have the hash of each name.

    Those of name k are `entries[begin[k]:end[k]]`, in the order of the scope.
    """

    begin: I64
    end: I64
    entries: I64


class Scope:
    """A search list of objects, numbered as in `tables`. An entry is the place of a chain
    word of DT_GNU_HASH, when the chains of all objects are laid end to end.

    `rank` has each object's place in the search list.
    """

    def __init__(self, tables: SymbolTables, order: list[int]) -> None:
        """`order` has the numbers of the objects in the order of the search."""
        self.rank = np.zeros(len(tables.links), np.int64)
        self.rank[order] = np.arange(len(order))
        hashed: list[int] = []
        self.sysv: list[tuple[int, SysvHash]] = []
        found = []
        for number in order:
            item = tables.links[number].object
            if item.gnu_hash is not None:
                hashed.append(number)
                found.append(item.gnu_hash)
            elif item.sysv_hash is not None:
                self.sysv.append((number, item.sysv_hash))
        lengths = [len(table.chains) for table in found]
        starts = starts_of(lengths)[:-1]
        self._owner = np.repeat(np.array(hashed, np.int64), lengths)
        none: U32 = np.empty(0, np.uint32)
        chains: U32 = np.concatenate([none, *(table.chains for table in found)])
        self._keys: U32 = chains | np.uint32(1)
        self._keys_in_filter = (self._keys >> np.uint32(_FILTER_SHIFT)).astype(np.int64)
        self._ends = np.zeros(len(chains) + 1, np.int32)
        """How many chains end before each entry."""
        np.cumsum(chains & np.uint32(1), out=self._ends[1:])
        # From here on columns by the number of an object in `tables`.
        size = len(tables.links)
        self._shift, self._chains_start = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._chains_start[hashed] = starts
        self._shift[hashed] = [table.symoffset for table in found] - starts
        self._shift += tables.first[:-1]
        self._symoffset = np.zeros(size, np.int64)
        self._symoffset[hashed] = [table.symoffset for table in found]
        self._nbuckets, self._buckets_start = np.ones(size, np.uint32), np.zeros(size, np.int64)
        self._nbuckets[hashed] = [max(len(table.buckets), 1) for table in found]
        self._buckets_start[hashed] = starts_of(len(table.buckets) for table in found)[:-1]
        self._buckets: U32 = np.concatenate([none, *(table.buckets for table in found)])
        self._bloom_mask, self._bloom_start = np.zeros(size, np.uint32), np.zeros(size, np.int64)
        self._bloom_mask[hashed] = [len(table.bloom) - 1 for table in found]
        self._bloom_start[hashed] = starts_of(len(table.bloom) for table in found)[:-1]
        self._bloom_shift = np.zeros(size, np.uint32)
        self._bloom_shift[hashed] = [table.bloom_shift for table in found]
        self._bloom: U64 = np.concatenate(
            [np.empty(0, np.uint64), *(table.bloom for table in found)]
        )

    def candidates(self, hashes: U32) -> Candidates:
        """The entries that have the hash of each name, but for its lowest bit."""
        wanted = (hashes | np.uint32(1)).astype(np.int64)
        # Most definitions have no reference: a bitmap of the upper bits drops them.
        present = np.zeros(1 << _FILTER_BITS, np.bool_)
        present[wanted >> _FILTER_SHIFT] = True
        entries: I64 = present[self._keys_in_filter].nonzero()[0]
        # Sorted together as (hash, is it a name, which): entries of a hash come first.
        count = len(entries)
        both = np.empty(count + len(hashes), np.uint64)
        both[:count] = self._keys[entries]
        both[count:] = wanted
        both <<= np.uint64(32)
        both[:count] |= entries.view(np.uint64)
        both[count:] |= np.arange(_NAME, _NAME + len(hashes), dtype=np.uint64)
        both.sort()
        low = both.astype(np.uint32)
        both >>= np.uint64(32)
        is_entry = low < np.uint32(_NAME)
        new = np.empty(len(both), np.bool_)
        new[:1] = True
        np.not_equal(both[1:], both[:-1], out=new[1:])
        # The number of entries before each place; at the places where a hash begins, that
        # is where its entries begin.
        before = np.cumsum(is_entry, dtype=np.int32)
        heads = new.nonzero()[0]
        starts = before[heads] - is_entry[heads]
        names = (~is_entry).nonzero()[0]
        which = low[names].astype(np.int64) & (_NAME - 1)
        begin, end = np.empty(len(hashes), np.int64), np.empty(len(hashes), np.int64)
        begin[which] = starts[np.cumsum(new, dtype=np.int32)[names] - 1]
        end[which] = before[names]
        ordered = low[is_entry].astype(np.int64)
        return Candidates(begin, end, ordered)

    def owners(self, entries: I64) -> I64:
        """The number of the object that each entry is of."""
        owners: I64 = self._owner[entries]
        return owners

    def rows(self, entries: I64, owners: I64) -> I64:
        """The rows of the entries' symbols. An object has at least as many symbols as its
        hash table implies (`DynamicObject.symbols`).
        """
        return entries + self._shift[owners]

    def reachable(self, entries: I64, owners: I64, hashes: U32) -> Bools:
        """Whether a lookup of a name of this hash comes to the entry."""
        word = self._bloom[
            self._bloom_start[owners] + ((hashes >> np.uint32(6)) & self._bloom_mask[owners])
        ]
        second = hashes >> self._bloom_shift[owners]
        passes = (word >> (hashes & np.uint32(63))) & (word >> (second & np.uint32(63)))
        buckets = self._buckets_start[owners] + hashes % self._nbuckets[owners]
        first = self._buckets[buckets].astype(np.int64)
        begin = np.maximum(first - self._symoffset[owners], 0) + self._chains_start[owners]
        good = (passes & np.uint64(1)).astype(np.bool_)
        good &= (first != 0) & (begin <= entries)
        good[good] = self._ends[begin[good]] == self._ends[entries[good]]
        return good


def walk_sysv(table: SysvHash, hashes: U32) -> tuple[I64, I64]:
    """All entries of the chains of DT_HASH that lookups come to: which name, which symbol.

    Those of a name in order. A chain longer than the number of symbols is a cycle; it
    ends there.
    """
    names = np.arange(len(hashes))
    if not len(table.buckets) or not len(names):
        return names[:0], names[:0]
    symbols = table.buckets[hashes % np.uint32(len(table.buckets))].astype(np.int64)
    found = [(names[:0], names[:0])]
    for _ in range(min(len(table.chains), MAX_CHAIN)):
        going = symbols != 0
        names, symbols = names[going], symbols[going]
        if not len(names):
            break
        found.append((names, symbols))
        symbols = table.chains[symbols].astype(np.int64)
    all_names, all_symbols = (np.concatenate(column) for column in zip(*found, strict=True))
    return all_names, all_symbols
