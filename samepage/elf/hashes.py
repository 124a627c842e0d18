"""The two symbol hash tables: DT_GNU_HASH, and DT_HASH of the System V ABI.

DT_GNU_HASH: a Bloom filter of machine words (two bits per symbol) rejects most names
that an object does not define, without touching anything else. Then come buckets: the
index of the first symbol of each; and chains: for each symbol from `symoffset` on, its
hash with the lowest bit replaced by "last of the bucket". Symbols are sorted by bucket.
DT_HASH: buckets and chains of symbol indices, linked lists.

A hostile table may have indices out of bounds and chains that never end. The bounds are
checked here, once for the whole table; a chain's walk is limited by the number of
symbols by whoever walks it. DT_GNU_HASH does not say how many symbols there are: the
last chain ends at the last symbol. Source: `_dl_setup_hash`, `do_lookup_x` of glibc.
"""

from dataclasses import dataclass

import numpy as np

from samepage.elf.file import ElfFile
from samepage.elf.layout import U32, U64, Bools, Table

_U32 = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class GnuHash:
    """DT_GNU_HASH. `chains[i]` is for the symbol `symoffset + i`.

    Invariants: every bucket is 0 or the index of a symbol that has a chain entry; the
    last entry of `chains` has its lowest bit set, so every walk ends.
    """

    symoffset: int
    bloom_shift: int
    bloom: U64 | U32
    buckets: U32
    chains: U32
    word_bits: int

    @property
    def symbol_count(self) -> int:
        """The number of symbols that the table implies, or `symoffset` if it has none."""
        return self.symoffset + len(self.chains)

    def may_define(self, hashes: U32) -> Bools:
        """The Bloom filter: False where the table certainly lacks a name of this hash."""
        bits = np.uint32(self.word_bits)
        index = (hashes // bits) & np.uint32(len(self.bloom) - 1)
        word = self.bloom[index]
        first = word >> (hashes & (bits - np.uint32(1)))
        second = word >> ((hashes >> np.uint32(self.bloom_shift)) & (bits - np.uint32(1)))
        bits_set: Bools = (first & second & word.dtype.type(1)).astype(np.bool_)
        return bits_set


def read_gnu_hash(elf: ElfFile, address: int) -> GnuHash:
    """Read DT_GNU_HASH at a virtual address. Raises `ElfError` if it cannot be right."""
    what = "DT_GNU_HASH"
    header = elf.table_at(what, address, _U32, 4)
    nbuckets, symoffset, bloom_size, shift = (int(word) for word in header)
    # glibc asserts the first of these; a shift of 32 or more is undefined there.
    if bloom_size == 0 or bloom_size & (bloom_size - 1) or shift >= 32:
        raise elf.error(
            f"{what} at {address:#x}: Bloom filter of {bloom_size} words, shift {shift}"
        )
    word = elf.layout.word
    bloom_at = address + 16
    bloom = elf.table_at(f"{what} Bloom filter", bloom_at, word, bloom_size)
    buckets_at = bloom_at + bloom_size * word.itemsize
    buckets = elf.table_at(f"{what} buckets", buckets_at, _U32, nbuckets)
    first_free = int(buckets.max(initial=0))
    chains_at = buckets_at + nbuckets * 4
    if first_free == 0:
        chains: Table = np.empty(0, _U32)
        return GnuHash(symoffset, shift, bloom, buckets, chains, elf.layout.bits)
    lowest = int(buckets[buckets != 0].min())
    if lowest < symoffset:
        raise elf.error(f"{what} buckets: symbol {lowest} is below the first, {symoffset}")
    offset, rest = elf.file_offset(f"{what} chains", chains_at, 4)
    available = elf.table(f"{what} chains", offset, _U32, rest // 4)
    tail = available[first_free - symoffset :]
    step = 4096
    for begin in range(0, len(tail), step):
        ends = np.flatnonzero(tail[begin : begin + step] & 1)
        if len(ends):
            chains = available[: first_free - symoffset + begin + int(ends[0]) + 1]
            return GnuHash(symoffset, shift, bloom, buckets, chains, elf.layout.bits)
    raise elf.error(f"{what} chains: the chain of symbol {first_free} does not end in the file")


@dataclass(frozen=True, slots=True)
class SysvHash:
    """DT_HASH. Invariant: all entries of `buckets` and `chains` are below `len(chains)`."""

    buckets: U32
    chains: U32


def read_sysv_hash(elf: ElfFile, address: int) -> SysvHash:
    """Read DT_HASH at a virtual address. Raises `ElfError` if it cannot be right."""
    header = elf.table_at("DT_HASH", address, _U32, 2)
    nbuckets, nchains = int(header[0]), int(header[1])
    buckets = elf.table_at("DT_HASH buckets", address + 8, _U32, nbuckets)
    chains = elf.table_at("DT_HASH chains", address + 8 + nbuckets * 4, _U32, nchains)
    for name, table in (("buckets", buckets), ("chains", chains)):
        if int(table.max(initial=0)) >= max(nchains, 1):
            raise elf.error(f"DT_HASH {name}: symbol {int(table.max())} of only {nchains} symbols")
    return SysvHash(buckets, chains)
