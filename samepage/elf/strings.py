"""Symbol names as whole columns: lengths, hashes and comparison without Python strings.

A dynamic linker hashes the name of each symbol that it looks up, and compares the name
with that of each candidate. Byte by byte in Python that alone would take seconds. Here
the names that a table of symbols refers to are gathered once into a `NamePool`: a dense
array of 8-byte words, in which each name starts at a word boundary and is padded with
zeros. Loads of 8 bytes at unaligned offsets (a NumPy view with a stride of one byte)
make that gathering one operation per table, and names are compared word by word.

The GNU hash of a name c[0..n) is h = 5381 * 33^n + sum c[i] * 33^(n-1-i) modulo 2^32.
Over the padded words it is computed for all names at once: eight multiply-adds give
each word's own polynomial; the words of a name are summed, weighted with powers of 33;
and the zeros that pad the last word multiply the sum by a power of 33, which is undone
by multiplying with its inverse (33 is odd, so it has one modulo 2^32). The SysV hash
folds its upper bits at each character, so it runs over the characters by position.
"""

import os
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike

from samepage.elf.file import MAX_STRING, ElfFile
from samepage.elf.layout import I64, U8, U32, U64, Bools

_INVERSE_33 = pow(33, -1, 1 << 32)
_INVERSES = np.array([pow(_INVERSE_33, k, 1 << 32) for k in range(9)], np.uint32)
_TAIL_MASKS = np.array([(1 << 8 * k) - 1 for k in range(8)], np.uint64)
_WORD_POWER = pow(33, 8, 1 << 32)
_BYTE = np.dtype(np.uint8)


@dataclass(slots=True)
class NamePool:
    """Names gathered from one or several string tables.

    Name i has `lengths[i]` bytes and occupies the words `starts[i]` to `starts[i + 1]`
    of `words`. Invariant: there is at least one zero byte after each name, so equal
    words mean equal names.
    """

    words: U64
    starts: I64
    lengths: I64

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, chosen: I64) -> "NamePool":
        """A pool of some of the names, in the order of `chosen`."""
        counts = self.starts[chosen + 1] - self.starts[chosen]
        starts = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        source = np.repeat(self.starts[chosen] - starts[:-1], counts)
        source += np.arange(int(starts[-1]))
        return NamePool(self.words[source], starts, self.lengths[chosen])

    def name(self, index: int) -> str:
        """Name `index` as a Python string, for messages."""
        start = int(self.starts[index])
        raw = self.words[start : int(self.starts[index + 1])].tobytes()
        return os.fsdecode(raw[: int(self.lengths[index])])

    def names(self) -> list[str]:
        """All names as Python strings."""
        raw = self.words.tobytes()
        starts = (self.starts[:-1] * 8).tolist()
        lengths = self.lengths.tolist()
        return [
            os.fsdecode(raw[start : start + length])
            for start, length in zip(starts, lengths, strict=True)
        ]

    def gnu_hashes(self) -> U32:
        """The hash of each name as DT_GNU_HASH has it (`dl_new_hash`)."""
        if not len(self):
            return np.empty(0, np.uint32)
        characters = self.words.view(np.uint8).reshape(-1, 8)
        polynomial = characters[:, 0].astype(np.uint32)
        for column in range(1, 8):
            polynomial *= np.uint32(33)
            polynomial += characters[:, column]
        counts = np.diff(self.starts)
        powers = np.ones(int(counts.max()), np.uint32)
        powers[1:] = _WORD_POWER
        np.multiply.accumulate(powers, dtype=np.uint32, out=powers)
        position = np.repeat(self.starts[1:], counts)
        position -= np.arange(1, len(self.words) + 1)
        polynomial *= powers[position]
        sums: U32 = np.add.reduceat(polynomial, self.starts[:-1], dtype=np.uint32)
        sums *= _INVERSES[counts * 8 - self.lengths]
        seeds = np.full(int(self.lengths.max()) + 1, 33, np.uint32)
        seeds[0] = 5381
        np.multiply.accumulate(seeds, dtype=np.uint32, out=seeds)
        return sums + seeds[self.lengths]

    def sysv_hashes(self) -> U32:
        """The hash of each name as DT_HASH has it (`_dl_elf_hash`)."""
        hashes = np.zeros(len(self), np.uint32)
        characters = self.words.view(np.uint8)
        first = self.starts[:-1] * 8
        active = np.flatnonzero(self.lengths)
        for position in range(int(self.lengths.max(initial=0))):
            active = active[self.lengths[active] > position]
            h = (hashes[active] << np.uint32(4)) + characters[first[active] + position]
            high = h & np.uint32(0xF0000000)
            hashes[active] = (h ^ (high >> np.uint32(24))) & ~high
        return hashes


def join(pools: list[NamePool]) -> NamePool:
    """One pool with the names of all, in order."""
    if len(pools) == 1:
        return pools[0]
    offsets = np.cumsum([0] + [len(pool.words) for pool in pools])
    starts = [pool.starts[:-1] + offset for pool, offset in zip(pools, offsets, strict=False)]
    return NamePool(
        np.concatenate([pool.words for pool in pools]),
        np.concatenate([*starts, offsets[-1:]]),
        np.concatenate([pool.lengths for pool in pools]),
    )


def words_at_each_byte(data: U8) -> U64:
    """The 8 bytes at each place of `data` but the last 8, as little-endian words."""
    words: U64 = as_strided(
        data[:8].view(np.uint64), shape=(len(data) - 8,), strides=(1,), writeable=False
    )
    return words


class StringTable:
    """DT_STRTAB of one file: `size` bytes at the file offset `offset`."""

    __slots__ = ("_elf", "_ends", "_words", "data", "offset", "size")

    def __init__(self, elf: ElfFile, offset: int, size: int) -> None:
        """Raises `ElfError` if the table is not in the file."""
        self._elf = elf
        self.offset = offset
        self.size = size
        self.data: U8 = elf.table("string table", offset, _BYTE, size)
        self._ends: I64 | None = None
        self._words: U64 | None = None

    def get(self, index: int, what: str = "string table") -> str:
        """The string at an index. Raises `ElfError` if it is not in the table."""
        return self._elf.string(what, self.offset + index, self.offset + self.size)

    @property
    def words(self) -> U64:
        """The 8 bytes at each index, as a little-endian word (zeros follow the table)."""
        if self._words is None:
            if self.offset + self.size + 8 > self._elf.size:
                data = np.concatenate([self.data, np.zeros(8, np.uint8)])
            else:
                data = self._elf.table("string table", self.offset, _BYTE, self.size + 8)
            self._words = words_at_each_byte(data)
        return self._words

    def lengths(self, indices: ArrayLike) -> I64:
        """The length of the string at each index.

        Raises `ElfError` for an index outside of the table, a string that does not end
        in it, or one longer than `MAX_STRING`.
        """
        indices = np.asarray(indices, np.int64)
        if not len(indices):
            return np.empty(0, np.int64)
        if self._ends is None:
            self._ends = np.flatnonzero(self.data == 0)
        positions = np.searchsorted(self._ends, indices)
        last = int(positions.max())
        if last >= len(self._ends):
            bad = int(indices[int(positions.argmax())])
            raise self._elf.error(f"string table: the name at index {bad:#x} does not end")
        lengths: I64 = self._ends[positions] - indices
        if int(lengths.max()) > MAX_STRING:
            bad = int(indices[int(lengths.argmax())])
            raise self._elf.error(
                f"string table: the name at index {bad:#x} has more than {MAX_STRING} bytes"
            )
        return lengths

    def pool(self, indices: ArrayLike) -> NamePool:
        """Gather the names at `indices`."""
        indices = np.asarray(indices, np.int64)
        lengths = self.lengths(indices)
        counts = lengths // 8 + 1
        starts = np.zeros(len(indices) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        source = np.repeat(indices - starts[:-1] * 8, counts)
        source += np.arange(0, int(starts[-1]) * 8, 8)
        words = self.words[source]
        words[starts[1:] - 1] &= _TAIL_MASKS[lengths & 7]
        return NamePool(words, starts, lengths)

    def equal(self, indices: ArrayLike, pool: NamePool, which: ArrayLike) -> Bools:
        """Whether the string at indices[k] is name which[k] of `pool`, for each k.

        A string longer than the name differs at the name's terminating zero, so the
        lengths of this table's strings are not needed. Raises `ElfError` for an index
        outside of the table.
        """
        indices = np.asarray(indices, np.int64)
        which = np.asarray(which, np.int64)
        if not len(indices):
            return np.empty(0, np.bool_)
        if int(indices.max()) >= self.size:
            raise self._elf.error(
                f"string table: index {int(indices.max()):#x} is beyond its {self.size} bytes"
            )
        counts = pool.starts[which + 1] - pool.starts[which]
        ends = np.cumsum(counts)
        begins = ends - counts
        step = np.arange(int(ends[-1]))
        theirs = pool.words[np.repeat(pool.starts[which] - begins, counts) + step]
        source = np.repeat(indices - begins * 8, counts) + step * 8
        ours = self.words[np.minimum(source, self.size - 1)]
        last = ends - 1
        # Up to and including the terminating zero; what follows belongs to other strings.
        ours[last] &= _TAIL_MASKS_WITH_NUL[pool.lengths[which] & 7]
        same: Bools = np.logical_and.reduceat(ours == theirs, begins)
        return same


_TAIL_MASKS_WITH_NUL = np.array([(1 << 8 * (k + 1)) - 1 for k in range(8)], np.uint64)
