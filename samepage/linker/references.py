"""What relocations refer to: the entries of several objects, and their distinct symbols.

The relocations that name a symbol are reduced to distinct (symbol, class) pairs, the
references of their object. A pair is a number, its symbol's row in `SymbolTables` times
four plus the class, so which ones occur is a column of marks, and nothing is sorted.

`Bindings` has all objects' entries and references end to end; `Entries` and `References`
are one object's, cut out for whoever looks at a single object.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from samepage.abi.elf import STB_WEAK
from samepage.elf.layout import I64, U8, U64, Bools
from samepage.elf.machines import KIND_TABLES, Kind, kinds_of
from samepage.linker.errors import LinkError
from samepage.linker.maps import LinkMap
from samepage.linker.query import TypeClass
from samepage.linker.tables import SymbolTables, starts_of
from samepage.records import record

_CLASS_OF_KIND = np.zeros(max(Kind) + 1, np.uint8)
_CLASS_OF_KIND[[Kind.JUMP_SLOT, Kind.DTPMOD, Kind.DTPOFF, Kind.TPOFF, Kind.TLSDESC]] = TypeClass.PLT
_CLASS_OF_KIND[Kind.COPY] = TypeClass.COPY

_SYMBOLLESS = np.zeros(max(Kind) + 1, np.bool_)
_SYMBOLLESS[[Kind.RELATIVE, Kind.IRELATIVE]] = True

T = TypeVar("T")


@record
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


@record
class References:
    """The distinct references of an object, and what each is bound to.

    `definer` is the index of the defining object in the load order, or -1; `definition`
    the symbol's index there. `lazy` marks those only used by entries of DT_JMPREL,
    so that lazy binding leaves them for later.
    """

    symbols: I64
    classes: U8
    lazy: Bools
    definer: I64
    definition: I64
    looked_up: Bools


class Bindings:
    """The entries and references of `links`, which are the first objects of `tables`.

    By entry: `places`, `kinds`, `addends`, `owner` (the number of its object), `slots`
    (whether it is one of DT_JMPREL's) and `reference`, -1 where it names no symbol. By
    reference: `rows` (its symbol), `classes`, `lazy`, `looked_up`, and `definitions`, the
    row of the symbol that it is bound to, or -1. Those of object k are
    `entry_starts[k]` to `[k + 1]`, and `reference_starts[k]` to `[k + 1]`.
    """

    def __init__(self, tables: SymbolTables, links: list[LinkMap]) -> None:
        """Read the entries; nothing is bound yet.

        Raises `LinkError` for a relocation type that ld.so does not know either.
        """
        self.tables = tables
        self.links = links
        self._read_entries()
        self._find_references()

    def _read_entries(self) -> None:
        parts, counts, slots = [], [], []
        for link in self.links:
            found = link.object.relocations
            if len(found.rel) or (len(found.plt) and not found.plt_has_addends):
                raise LinkError(f"{link.name}: DT_REL is not used on x86-64", 2)
            rest = found.rela[found.relative_count :]
            parts += [rest.view(np.uint64), found.plt.view(np.uint64)]
            counts.append(len(rest) + len(found.plt))
            slots += [len(rest), len(found.plt)]
        records = np.concatenate([np.empty(0, np.uint64), *parts]).reshape(-1, 3)
        self.entry_starts = starts_of(counts)
        self.owner = np.repeat(np.arange(len(counts)), counts)
        self.slots = np.repeat(np.arange(2 * len(counts)) % 2 == 1, slots)
        self.places: U64 = records[:, 0].copy()
        self.addends: I64 = records[:, 2].copy().view(np.int64)
        info = records[:, 1]
        types = (info & np.uint64(0xFFFFFFFF)).view(np.int64)
        symbols = (info >> np.uint64(32)).view(np.int64)
        machine = self.links[0].object.elf.machine if self.links else min(KIND_TABLES)
        self.kinds = kinds_of(KIND_TABLES[machine], types)
        kinds = self.kinds.astype(np.int64)  # as indices, twice as fast
        present = np.bincount(self.kinds, minlength=len(_SYMBOLLESS))
        if present[Kind.UNKNOWN]:
            bad = int((self.kinds == Kind.UNKNOWN).argmax())
            name = self.links[int(self.owner[bad])].name
            raise LinkError(f"{name}: unexpected reloc type 0x{int(types[bad]):02x}")
        self._keys = (symbols + self.tables.first[self.owner]) << 2
        self._keys |= _CLASS_OF_KIND[kinds]
        self._keys[_SYMBOLLESS[kinds]] = -1  # the last mark of `_find_references`
        if present[Kind.NONE]:
            self._drop(self.kinds == Kind.NONE)

    def _drop(self, unused: Bools) -> None:
        """Leave out entries that a linker found unnecessary after it had made room."""
        used = (~unused).nonzero()[0]
        self.entry_starts = np.searchsorted(used, self.entry_starts)
        for name in ("places", "addends", "kinds", "owner", "slots", "_keys"):
            setattr(self, name, getattr(self, name)[used])

    def _find_references(self) -> None:
        first = self.tables.first[: len(self.links) + 1]
        marks = np.zeros(4 * int(first[-1]) + 1, np.int32)
        marks[self._keys] = 1
        marks[-1] = 0
        pairs = marks.nonzero()[0]
        marks[pairs] = np.arange(len(pairs))
        marks[-1] = -1
        self.reference: I64 = marks[self._keys].astype(np.int64)
        self.rows = pairs >> 2
        self.classes = (pairs & 3).astype(np.uint8)
        self.reference_starts = np.searchsorted(pairs, first << 2)
        self.lazy = np.ones(len(pairs) + 1, np.bool_)
        self.lazy[self.reference[~self.slots]] = False
        self.lazy = self.lazy[: len(pairs)]
        self.definitions = np.full(len(pairs), -1)
        self.looked_up = np.zeros(len(pairs), np.bool_)
        del self._keys

    def undefined(self, is_lazy: list[bool]) -> list[tuple[LinkMap, str]]:
        """The references without definition that end the link, in the order of the entries: who
        refers to which name, and version, in ld.so's words.

        The weak ones do not, and with lazy binding (`is_lazy`, by object) those of
        DT_JMPREL do not yet.
        """
        missing = (self.definitions < 0).nonzero()[0]
        if not len(missing):
            return []
        first = np.full(len(self.definitions) + 1, len(self.reference))
        np.minimum.at(first, self.reference, np.arange(len(self.reference)))
        missing = missing[np.argsort(first[missing], kind="stable")]
        rows = self.rows[missing]
        owners = self.tables.owners(rows)
        symbols = self.tables.symbols(rows)
        ends = symbols.binds != STB_WEAK
        ends &= ~(self.lazy[missing] & np.array(is_lazy)[owners])
        owners, own = owners[ends], rows[ends] - self.tables.first[owners[ends]]
        return [
            (self.links[owner], symbol_and_version(self.links[owner], symbol))
            for owner, symbol in zip(owners.tolist(), own.tolist(), strict=True)
        ]

    @property
    def entries(self) -> "Mapping[LinkMap, Entries]":
        """The entries of each object."""
        return _ByObject(self.links, self._entries_of)

    @property
    def references(self) -> "Mapping[LinkMap, References]":
        """The references of each object."""
        return _ByObject(self.links, self._references_of)

    def _entries_of(self, number: int) -> Entries:
        own = slice(*self.entry_starts[number : number + 2].tolist())
        reference = self.reference[own] - self.reference_starts[number]
        slots = self.slots[own]
        return Entries(
            places=self.places[own],
            kinds=self.kinds[own],
            addends=self.addends[own],
            reference=np.maximum(reference, -1),
            plt_start=len(slots) - int(slots.sum()),
        )

    def _references_of(self, number: int) -> References:
        own = slice(*self.reference_starts[number : number + 2].tolist())
        rows = self.definitions[own]
        owners = self.tables.owners(rows)
        return References(
            symbols=self.rows[own] - self.tables.first[number],
            classes=self.classes[own],
            lazy=self.lazy[own],
            definer=self.tables.index[owners],
            definition=np.where(rows < 0, -1, rows - self.tables.first[owners]),
            looked_up=self.looked_up[own],
        )


def symbol_and_version(link: LinkMap, symbol: int) -> str:
    """How ld.so calls an undefined symbol of an object: with the version that it wants."""
    found = link.object
    name = found.strings.get(int(found.symbols["st_name"][symbol]))
    version = found.versions.name_of(symbol)
    return f"{name}, version {version}" if version else name


class _ByObject(Mapping[LinkMap, T]):
    """One value for each object, made when it is asked for."""

    def __init__(self, links: list[LinkMap], make: Callable[[int], T]) -> None:
        self._numbers = {link: number for number, link in enumerate(links)}
        self._make = make

    def __getitem__(self, link: LinkMap) -> T:
        return self._make(self._numbers[link])

    def __iter__(self) -> Iterator[LinkMap]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
