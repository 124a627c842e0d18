"""Symbol names as whole columns: lengths, hashes and comparison without Python strings.

A dynamic linker hashes the name of each symbol that it looks up, and compares the name
with that of each candidate. Byte by byte in Python that alone would take seconds. Here
the names that a table of symbols refers to are gathered once into a `NamePool`: a dense
array of 8-byte words, in which each name starts at a word boundary and is padded with
zeros. Loads of 8 bytes at unaligned offsets (a NumPy view with a stride of one byte)
make that gathering one operation per table, and names are compared word by word.

The length of a name comes from a bitmap with a bit for each byte of the text, set where
the byte is zero: 8 bytes of it, shifted to the name's first bit, give for 57 bytes at once
where the first zero is. Longer names are rare, and take another look.

The GNU hash of a name c[0..n) is h = 5381 * 33^n + sum c[i] * 33^(n-1-i) modulo 2^32.
Over the padded words it is computed for all names at once: each word's own polynomial
(in three steps, of two characters, four, and all eight in lanes of one machine word);
the words of a name are summed, weighted with powers of 33; and the zeros that pad the
last word multiply the sum by a power of 33, which is undone by multiplying with its
inverse (33 is odd, so it has one modulo 2^32). The SysV hash folds its upper bits at each
character, so it runs over the characters by position.
"""

import os

import numpy as np
from numpy.typing import ArrayLike

from samepage.elf.file import MAX_STRING, ElfFile
from samepage.elf.layout import I64, U8, U32, U64, Bools
from samepage.records import record

_INVERSE_33 = pow(33, -1, 1 << 32)
_TAIL_MASKS = np.array([(1 << 8 * k) - 1 for k in range(8)], np.uint64)
_MASK = (1 << 32) - 1
_BYTE = np.dtype(np.uint8)


@record
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
        last = self.starts[1:] - 1
        polynomials = _polynomials(self.words).astype(np.uint32)
        # Word k of all is weighted with 33^-8k, and each name's sum with 33^8k of its last
        # word k, which leaves the power that each word's distance from the last one asks for.
        polynomials *= _powers(_INVERSE_33**8, len(self.words))
        # Sums of ranges are differences of running sums, modulo 2^32 too.
        sums: U32 = np.cumsum(polynomials, dtype=np.uint32)[last]
        sums[1:] -= sums[:-1].copy()
        sums *= _powers(33**8, len(self.words))[last]
        # The last word has 1 to 8 zeros, each of which has multiplied the sum by 33.
        sums *= _powers(_INVERSE_33, 9)[8 - (self.lengths & 7)]
        return sums + np.uint32(5381) * _powers(33, int(self.lengths.max()) + 1)[self.lengths]

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


class Text:
    """Bytes with names in them, each of which ends with a zero byte.

    The last 8 bytes of the data are zeros, so every name ends, and can be loaded in words.
    Names are given by the places of their first bytes.
    """

    __slots__ = ("_data", "_nuls", "_words", "_zeros")

    def __init__(self, data: U8, zeros: U8 | None = None) -> None:
        """`data` ends with (at least) 8 zeros, which no name begins in. `zeros` is `bitmap` of
        it, if that is known already.
        """
        self._data = data
        self._words = _words_at_each_byte(data)
        self._zeros = zeros
        self._nuls: U64 | None = None

    def lengths(self, places: I64) -> I64:
        """The length of each name, or `MAX_STRING + 1` if it has more bytes than that."""
        if self._nuls is None:
            bits = bitmap(self._data) if self._zeros is None else self._zeros
            self._nuls = _words_at_each_byte(np.concatenate([bits, np.zeros(16, np.uint8)]))
        lengths = np.zeros(len(places), np.int64)
        going, ahead = np.arange(len(places)), 0
        while len(going) and ahead <= MAX_STRING:
            at = places[going] + ahead
            window = self._nuls[np.minimum(at >> 3, len(self._data) >> 3)]
            window >>= (at & 7).view(np.uint64)
            # The number of zeros below the lowest bit that is set; 64 if none is.
            step = np.bitwise_count((window & -window) - np.uint64(1)).astype(np.int64)
            lengths[going] = ahead + step
            going = going[step == 64]
            ahead += 56  # 57 bits have been seen at least; the shift stays the same
        lengths[going] = MAX_STRING + 1
        return lengths

    def pool(self, places: I64, lengths: I64) -> NamePool:
        """Gather the names at `places`."""
        starts = np.zeros(len(places) + 1, np.int64)
        np.cumsum((lengths >> 3) + 1, out=starts[1:])
        source = np.repeat(places - starts[:-1] * 8, np.diff(starts))
        source += np.arange(0, int(starts[-1]) * 8, 8)
        words = self._words[source]
        words[starts[1:] - 1] &= _TAIL_MASKS[lengths & 7]
        return NamePool(words, starts, lengths)

    def equal(self, places: I64, pool: NamePool, which: I64) -> Bools:
        """Whether the name at places[k] is name which[k] of `pool`, for each k.

        A longer name differs at the other's terminating zero, so that the lengths of this
        text's names are not needed.
        """
        lengths = pool.lengths[which]
        same = places + lengths < len(self._words)
        if not len(which) or not same.all():
            chosen = same.nonzero()[0]
            if len(chosen):
                same[chosen] = self.equal(places[chosen], pool, which[chosen])
            return same
        starts = pool.starts[which]
        counts = (lengths >> 3) + 1
        ends = counts.cumsum()
        begins = ends - counts
        step = np.arange(int(ends[-1]))
        theirs = pool.words[np.repeat(starts - begins, counts) + step]
        step <<= 3
        step += np.repeat(places - begins * 8, counts)
        ours = self._words[step]
        # Up to and including the terminating zero; what follows belongs to other names.
        ours[ends - 1] &= _TAIL_MASKS_WITH_NUL[lengths & 7]
        return np.logical_and.reduceat(ours == theirs, begins)


class StringTable:
    """DT_STRTAB of one file: `size` bytes at the file offset `offset`."""

    __slots__ = ("_buffer", "_elf", "_end", "_padded", "_start", "_text", "data", "size")

    def __init__(self, elf: ElfFile, offset: int, size: int) -> None:
        """Raises `ElfError` if the table is not in the file."""
        self._elf = elf
        self.size = size
        self._buffer = elf.buffer
        self._start, self._end = offset, offset + size
        self.data: U8 = elf.table("string table", offset, _BYTE, size)
        self._text: Text | None = None
        self._padded: tuple[U8, U8] | None = None

    @property
    def padded(self) -> tuple[U8, U8]:
        """The table with 8 to 15 zeros behind it, up to a multiple of 8 bytes; and `bitmap` of
        that. Many tables become one text by concatenating both.
        """
        if self._padded is None:
            zeros = (-self.size % 8) + 8
            data = np.concatenate([self.data, np.zeros(zeros, np.uint8)])
            self._padded = data, bitmap(data)
        return self._padded

    def get(self, index: int, what: str = "string table") -> str:
        """The string at an index, of any length: run paths of 100 KiB are real.

        Raises `ElfError` if it is not in the table.
        """
        start = self._start + index
        if index >= 0:
            end = self._buffer.find(b"\0", start, self._end)
            if end >= 0:
                return self._buffer[start:end].decode("utf-8", "surrogateescape")
        raise self._elf.error(f"{what}: the string at index {index:#x} does not end")

    def pool(self, indices: ArrayLike) -> NamePool:
        """Gather the names at `indices`.

        Raises `ElfError` for an index outside of the table, a string that does not end
        in it, or one longer than `MAX_STRING`.
        """
        indices = np.asarray(indices, np.int64)
        if self._text is None:
            self._text = Text(np.concatenate([self.data, np.zeros(8, np.uint8)]))
        lengths = self._text.lengths(np.minimum(indices, self.size))
        self.check(indices, lengths)
        return self._text.pool(indices, lengths)

    def check(self, indices: I64, lengths: I64) -> None:
        """Raise `ElfError` unless all names of these lengths at `indices` end in the table."""
        if len(indices) and int((indices + lengths).max()) >= self.size:
            bad = int(indices[int((indices + lengths).argmax())])
            raise self._elf.error(f"string table: the name at index {bad:#x} does not end")
        if len(indices) and int(lengths.max()) > MAX_STRING:
            bad = int(indices[int(lengths.argmax())])
            raise self._elf.error(
                f"string table: the name at index {bad:#x} has more than {MAX_STRING} bytes"
            )


def bitmap(data: U8) -> U8:
    """A bit for each byte, from the lowest bit on: whether it is zero."""
    return np.packbits(data == 0, bitorder="little")


def _words_at_each_byte(data: U8) -> U64:
    """The 8 bytes at each place of `data` but the last 8, as little-endian words."""
    return np.ndarray((len(data) - 8,), np.uint64, data.data, 0, (1,))


def _powers(base: int, count: int) -> U32:
    """base^0, base^1, ..., modulo 2^32: the products of two short lists of powers."""
    step = 1 << 8
    low = np.full(step, base & _MASK, np.uint32)
    high = np.full(count // step + 1, pow(base, step, 1 << 32), np.uint32)
    low[0] = high[0] = 1
    np.multiply.accumulate(low, out=low, dtype=np.uint32)
    np.multiply.accumulate(high, out=high, dtype=np.uint32)
    powers: U32 = np.multiply.outer(high, low).ravel()[:count]
    return powers


def _polynomials(words: U64) -> U64:
    """For the characters c[0..8) of each word, the sum of c[i] * 33^(7-i)."""
    pairs = words & _BYTES
    pairs *= np.uint64(33)
    pairs += (words >> np.uint64(8)) & _BYTES
    fours = pairs & _SHORTS
    fours *= np.uint64(33**2)
    fours += (pairs >> np.uint64(16)) & _SHORTS
    eights = fours & np.uint64(0xFFFFFFFF)
    eights *= np.uint64(33**4)
    eights += fours >> np.uint64(32)
    return eights


_BYTES = np.uint64(0x00FF00FF00FF00FF)
_SHORTS = np.uint64(0x0000FFFF0000FFFF)
_TAIL_MASKS_WITH_NUL = np.array([(1 << 8 * (k + 1)) - 1 for k in range(8)], np.uint64)
