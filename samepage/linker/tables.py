"""The symbol tables of several objects, end to end: one row per symbol of any of them.

An array operation costs as much for ten elements as for a thousand, and a program has
dozens of libraries of which most are small. So nothing in binding is done object by
object: the tables are laid end to end once, a symbol of any object is one number (its
row), and every question is asked about all symbols of all objects together. What is an
object's own, such as where its names begin or which hash buckets it has, is a column by
object, which is indexed by the owner of each row.

Copying the tables takes a millisecond for a program with dozens of libraries, and saves
dozens of array operations for each of them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from samepage.abi.elf import SHN_ABS
from samepage.elf.file import MAX_STRING
from samepage.elf.layout import I64, U16, U32, U64
from samepage.elf.strings import NamePool, Text
from samepage.elf.versions import INDEX_MASK
from samepage.linker.maps import LinkMap
from samepage.linker.versions import VersionNumbers

I32 = NDArray[np.int32]

# A symbol's first 8 bytes as one word: st_name, st_info, st_other, st_shndx.
_TYPE, _BIND, _VISIBILITY, _SECTION = 0, 4, 8, 16
_ABSOLUTE = np.uint32(SHN_ABS)


class Symbols:
    """Some symbols' fields as columns, one element per symbol."""

    __slots__ = ("_fields", "names")

    def __init__(self, words: U64) -> None:
        """`words` are the first 8 bytes of each symbol."""
        self.names: I64 = (words & np.uint64(0xFFFFFFFF)).view(np.int64)
        """`st_name`: indices into the string table of each symbol's object."""
        self._fields: U32 = (words >> np.uint64(32)).astype(np.uint32)

    @property
    def types(self) -> U32:
        """STT_*."""
        return self._fields & np.uint32(15)

    @property
    def binds(self) -> U32:
        """STB_*."""
        return (self._fields >> np.uint32(_BIND)) & np.uint32(15)

    @property
    def visibilities(self) -> U32:
        """STV_*."""
        return (self._fields >> np.uint32(_VISIBILITY)) & np.uint32(3)

    @property
    def sections(self) -> U32:
        """`st_shndx`."""
        return self._fields >> np.uint32(_SECTION)


class SymbolTables:
    """The tables of `links`, which `at` numbers by `LinkMap.index`.

    Invariant: the rows of object k are `first[k]` to `first[k + 1]`, in the order of its
    own table. One more row, -1, means no symbol: all its fields are 0, and its owner
    is -1, for which `index` has -1.
    """

    def __init__(self, links: Sequence[LinkMap], numbers: VersionNumbers) -> None:
        """Raises `ElfError` if some object's tables cannot be right."""
        self.links = list(links)
        self.at = {link.index: number for number, link in enumerate(links)}
        objects = [link.object for link in links]
        tables = [item.symbols for item in objects]
        self.first = starts_of(len(table) for table in tables)
        none = np.zeros(3, np.uint64)
        words: U64 = np.concatenate([*(table.view(np.uint64) for table in tables), none])
        self._words: U64 = words.reshape(-1, 3)
        self._owner = np.repeat(np.arange(len(links) + 1), [*np.diff(self.first).tolist(), 1])
        self._owner[-1] = -1
        self.index: I64 = np.array([*(link.index for link in links), -1])
        self._strings = [item.strings for item in objects]
        self._string_sizes = np.array([table.size for table in self._strings])
        padded = [table.padded for table in self._strings]
        self._text_starts = starts_of(len(data) for data, _ in padded) + 8
        self.text = Text(
            np.concatenate([np.zeros(8, np.uint8), *(data for data, _ in padded)]),
            np.concatenate([np.full(1, 255, np.uint8), *(zeros for _, zeros in padded)]),
        )
        self._read_versions(numbers)

    def _read_versions(self, numbers: VersionNumbers) -> None:
        versions = [numbers.of(link) for link in self.links]
        self._version_starts = starts_of(len(version.numbers) for version in versions)
        self._version_counts = np.diff(self._version_starts)
        self._numbers: I32 = np.array(
            [number for version in versions for number in version.numbers], np.int32
        )
        self._exact = np.array([exact for version in versions for exact in version.exact], np.bool_)
        columns = [link.object.versions.symbols for link in self.links]
        self.has_versions = np.array([link.object.versions.known for link in self.links], np.bool_)
        lengths = np.diff(self.first).tolist()
        self._version_index: U16 = np.concatenate(
            [
                *(
                    column if column is not None else np.zeros(length, np.uint16)
                    for column, length in zip(columns, lengths, strict=True)
                ),
                np.zeros(1, np.uint16),
            ]
        )

    def owners(self, rows: I64) -> I64:
        """Which object each row is of."""
        owners: I64 = self._owner[rows]
        return owners

    def places(self, rows: I64) -> tuple[list[int], list[int]]:
        """The objects (`LinkMap.index`) that symbols are of, and their indices there."""
        owners = self.owners(rows)
        return self.index[owners].tolist(), (rows - self.first[owners]).tolist()

    def symbols(self, rows: I64) -> Symbols:
        """Names and attributes of symbols."""
        return Symbols(self._words[:, 0][rows])

    def values(self, rows: I64) -> U64:
        """`st_value`."""
        values: U64 = self._words[:, 1][rows]
        return values

    def sizes(self, rows: I64) -> U64:
        """`st_size`."""
        sizes: U64 = self._words[:, 2][rows]
        return sizes

    def version_entries(self, rows: I64) -> U16:
        """The symbols' entries in DT_VERSYM; 0 in objects that have none."""
        entries: U16 = self._version_index[rows]
        return entries

    def version_places(self, rows: I64, owners: I64) -> I64:
        """Where the numbers of these symbols' versions are (`version_numbers`)."""
        index = (self._version_index[rows] & INDEX_MASK).astype(np.int64)
        # A version that the object does not list is none at all, like index 0.
        index[index >= self._version_counts[owners]] = 0
        return index + self._version_starts[owners]

    def version_numbers(self, places: I64) -> I32:
        """The versions, as numbers of `VersionNumbers`; 0 for none."""
        numbers: I32 = self._numbers[places]
        return numbers

    def version_exact(self, places: I64) -> "NDArray[np.bool_]":
        """Whether a reference with this version takes no other (`vna_other` & 0x8000)."""
        exact: NDArray[np.bool_] = self._exact[places]
        return exact

    def name_places(self, names: I64, owners: I64) -> I64:
        """Where in `text` the names at these indices of their string tables are.

        Raises `ElfError` for an index outside of its string table.
        """
        if (names >= self._string_sizes[owners]).any():
            bad = int((names >= self._string_sizes[owners]).argmax())
            self._strings[owners[bad]].check(names[bad : bad + 1], np.zeros(1, np.int64))
        return names + self._text_starts[owners]

    def names(self, rows: I64, owners: I64) -> NamePool:
        """The names of symbols. Raises `ElfError` for one that is not in its table."""
        indices = self.symbols(rows).names
        places = self.name_places(indices, owners)
        lengths = self.text.lengths(places)
        wrong = (indices + lengths >= self._string_sizes[owners]) | (lengths > MAX_STRING)
        if wrong.any():
            bad = int(wrong.argmax())
            self._strings[owners[bad]].check(indices[bad : bad + 1], lengths[bad : bad + 1])
        return self.text.pool(places, lengths)


def starts_of(counts: Iterable[int]) -> I64:
    """Where each of several columns begins when they are laid end to end; and the end."""
    lengths = list(counts)
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
