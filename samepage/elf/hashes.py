"""The two symbol hash tables: DT_GNU_HASH, and DT_HASH of the System V ABI.

DT_GNU_HASH: a Bloom filter of machine words (two bits per symbol) rejects most names
that an object does not define, without touching anything else. Then come buckets: the
index of the first symbol of each; and chains: for each symbol from `symoffset` on, its
hash with the lowest bit replaced by "last of the bucket". Symbols are sorted by bucket.
DT_HASH: buckets and chains of symbol indices, linked lists.

A hostile table may have indices out of bounds and chains that never end. The bounds are
checked here, once for the whole table; a chain's walk is limited by the number of
symbols by whoever walks it. DT_GNU_HASH does not record how many symbols there are: the
last chain ends at the last symbol. Source: `_dl_setup_hash`, `do_lookup_x` of glibc.
"""

import struct

import numpy as np

from samepage.elf.file import ElfFile
from samepage.elf.layout import U32, U64, Bools, Table
from samepage.records import record

_U32 = np.dtype("<u4")
_HEADER = struct.Struct("<IIII")


@record(frozen=True)
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
    offset, rest = elf.file_offset(what, address, _HEADER.size)
    nbuckets, symoffset, bloom_size, shift = _HEADER.unpack_from(elf.buffer, offset)
    word = elf.layout.word
    # A table without buckets is no table to glibc, whatever else it has: what is left of one
    # whose section has been removed are zeros.
    if nbuckets == 0:
        nothing = np.empty(0, _U32)
        return GnuHash(symoffset, shift & 31, np.zeros(1, word), nothing, nothing, elf.layout.bits)
    # glibc asserts the first of these; a shift of 32 or more is undefined there.
    if bloom_size == 0 or bloom_size & (bloom_size - 1) or shift >= 32:
        raise elf.error(
            f"{what} at {address:#x}: Bloom filter of {bloom_size} words, shift {shift}"
        )
    bloom_at = offset + _HEADER.size
    buckets_at = bloom_at + bloom_size * word.itemsize
    chains_at = buckets_at + nbuckets * 4
    if chains_at > offset + rest:
        raise elf.error(
            f"{what} at offset {offset:#x}: {bloom_size} words of Bloom filter and {nbuckets} "
            "buckets are not in the file"
        )
    bloom = elf.table(what, bloom_at, word, bloom_size)
    buckets = elf.table(what, buckets_at, _U32, nbuckets)
    last = int(np.maximum.reduce(buckets, initial=0))
    chains: Table = np.empty(0, _U32)
    if last:
        # 0, an empty bucket, becomes the largest number.
        lowest = int(np.minimum.reduce(buckets - np.uint32(1))) + 1
        if lowest < symoffset:
            raise elf.error(f"{what} buckets: symbol {lowest} is below the first, {symoffset}")
        available = (offset + rest - chains_at) // 4
        count = _end_of_chain(elf, chains_at, last - symoffset, available)
        chains = elf.table(what, chains_at, _U32, count)
    return GnuHash(symoffset, shift, bloom, buckets, chains, elf.layout.bits)


def _end_of_chain(elf: ElfFile, chains_at: int, entry: int, available: int) -> int:
    """The number of entries of the chains up to the end of the chain that has `entry`."""
    what, begin, step = "DT_GNU_HASH chains", entry, 8
    while begin < available:
        part = elf.table(what, chains_at + 4 * begin, _U32, min(step, available - begin)).tolist()
        for number, word in enumerate(part, begin + 1):
            if word & 1:
                return number
        begin += step
        step *= 2
    raise elf.error(f"{what}: the chain of entry {entry} does not end in the file")


@record(frozen=True)
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
