"""The relocations that name a symbol, and the few others outside of the leading run.

One `SymbolicRelocation` relocates one object whose references are bound: each method
handles some kinds, as arrays. An undefined weak symbol has the address 0; its TLS words
stay as they are. COPY relocations copy what a library has after its own relocation,
which is why the program is relocated last.

Source: `elf_machine_rela` of glibc 2.36 (sysdeps/x86_64/dl-machine.h).
"""

from collections.abc import Callable

import numpy as np

from samepage.elf.layout import I64, U64, Bools
from samepage.elf.machines import Kind
from samepage.elf.object import SHN_ABS, SHN_UNDEF, STT_GNU_IFUNC
from samepage.linker.binding import Entries, References
from samepage.linker.errors import LinkError
from samepage.linker.maps import LinkMap
from samepage.linker.memory import Memory
from samepage.linker.relocate import Foreign, Relocated, offsets_of

IfuncResolver = Callable[[int], int]
"""Runs the IFUNC resolver at an address; returns the address that it chose."""


class MapTable:
    """The objects of a link as columns, by `LinkMap.index`: base, TLS module and offset.

    The last element of `bases` is 0: index -1 finds it.
    """

    def __init__(self, maps: list[LinkMap]) -> None:
        self.maps = maps
        self.bases = np.array([*(link.base for link in maps), 0], np.uint64)
        self.modules = np.array([link.tls_module for link in maps], np.uint64)
        self.offsets = np.array([link.tls_offset for link in maps], np.uint64)


class SymbolicRelocation:
    """The relocation of one object.

    Columns by reference have one more element than there are references: index -1, the
    reference of entries without symbol, finds 0 there.
    """

    def __init__(
        self,
        memory: Memory,
        table: MapTable,
        link: LinkMap,
        entries: Entries,
        references: References,
        done: Relocated,
    ) -> None:
        self._memory = memory
        self._table = table
        self._link = link
        self._base = np.uint64(link.base)
        self._entries = entries
        self._references = references
        self._done = done
        self._definer: I64 = np.append(references.definer, -1)
        self._values = np.zeros(len(self._definer), np.uint64)
        self._resolvers = np.zeros(len(self._definer), np.bool_)
        self._sizes = np.zeros(len(self._definer), np.uint64)
        self._tls_values = np.zeros(len(self._definer), np.uint64)
        self._read_definitions()
        self._start, self._offsets = offsets_of(link, entries.places)

    def _read_definitions(self) -> None:
        """Address, size and type of each reference's definition."""
        found, count = self._references, len(self._references.symbols)
        base = self._table.bases[found.definer]
        base[found.record["st_shndx"] == SHN_ABS] = 0
        self._tls_values[:count] = found.record["st_value"]
        self._values[:count] = found.record["st_value"] + base
        self._sizes[:count] = found.record["st_size"]
        self._resolvers[:count] = (found.record["st_info"] & 15) == STT_GNU_IFUNC
        self._resolvers[:count] &= found.record["st_shndx"] != SHN_UNDEF

    def relocate(self, lazy: bool, resolve: IfuncResolver | None) -> None:
        """Store all words. With `lazy`, DT_JMPREL's slots are left for their first call.

        Raises `LinkError` for TLS that has no static place, `ElfError` for bad places.
        """
        kinds = self._entries.kinds
        present = {kind for kind, count in enumerate(np.bincount(kinds).tolist()) if count}
        slots = kinds == Kind.JUMP_SLOT
        if lazy:
            slots = self._lazy_slots(slots)
        if Kind.RELATIVE in present:
            relative = kinds == Kind.RELATIVE
            self._store(Kind.RELATIVE, relative, self._addends(relative) + self._base)
        pointers = slots | (kinds == Kind.ABSOLUTE) | (kinds == Kind.GLOB_DAT)
        direct = ~self._resolvers[self._entries.reference]
        self._store_addresses(pointers & direct)
        for kind in present & {Kind.SIZE, Kind.ABSOLUTE_32, Kind.PC_RELATIVE_32, Kind.SIZE_32}:
            self._narrow(Kind(kind))
        if present & {Kind.DTPMOD, Kind.DTPOFF, Kind.TPOFF, Kind.TLSDESC}:
            self._thread_local()
        if Kind.COPY in present:
            self._copy()
        self._ifuncs((pointers & ~direct) | (kinds == Kind.IRELATIVE), resolve)

    def _addends(self, chosen: Bools | I64) -> U64:
        return self._entries.addends[chosen].view(np.uint64)

    def _store(self, kind: Kind, chosen: Bools | I64, words: U64, offset: int = 0) -> None:
        offsets = self._offsets[chosen]
        self._done.store(self._memory, self._start + offset, offsets, words)
        if len(offsets):
            self._done.count(kind, len(offsets))

    def _lazy_slots(self, slots: Bools) -> Bools:
        """Relocate DT_JMPREL's slots to their PLT entries; return the slots left over."""
        lazy = slots.copy()
        lazy[: self._entries.plt_start] = False
        words = self._memory.read_words(self._start, self._offsets[lazy])
        self._store(Kind.JUMP_SLOT, lazy, words + self._base)
        return slots & ~lazy

    def _store_addresses(self, chosen: Bools) -> None:
        """JUMP_SLOT, GLOB_DAT and ABSOLUTE: the symbol's address."""
        which = chosen.nonzero()[0]
        if not len(which):
            return
        words = self._values[self._entries.reference[which]] + self._addends(which)
        self._done.store(self._memory, self._start, self._offsets[which], words)
        for kind, count in enumerate(np.bincount(self._entries.kinds[which]).tolist()):
            if count:
                self._done.count(Kind(kind), count)

    def _narrow(self, kind: Kind) -> None:
        """Rare kinds: sizes, and 4-byte stores in code that is not position-independent."""
        which = np.flatnonzero(self._entries.kinds == kind)
        column = self._sizes if kind in (Kind.SIZE, Kind.SIZE_32) else self._values
        words = column[self._entries.reference[which]] + self._addends(which)
        if kind == Kind.SIZE:
            self._store(kind, which, words)
            return
        addresses = self._entries.places[which] + self._base
        if kind == Kind.PC_RELATIVE_32:
            words = words - addresses
        for address, word in zip(addresses.tolist(), words.tolist(), strict=True):
            self._memory.write(address, (word & 0xFFFFFFFF).to_bytes(4, "little"))
        self._done.stored.append((self._start, self._offsets[which]))
        self._done.count(kind, len(which))

    def _thread_local(self) -> None:
        """DTPMOD, DTPOFF, TPOFF and TLSDESC."""
        kinds, definer = self._entries.kinds, self._definer[self._entries.reference]
        for kind in (Kind.DTPMOD, Kind.DTPOFF, Kind.TPOFF, Kind.TLSDESC):
            which = np.flatnonzero((kinds == kind) & (definer >= 0))
            owner = definer[which]
            words = self._tls_values[self._entries.reference[which]] + self._addends(which)
            if kind == Kind.DTPMOD:
                words = self._table.modules[owner]
            elif kind in (Kind.TPOFF, Kind.TLSDESC):
                self._check_static(owner)
                words = words - self._table.offsets[owner]
            self._store(kind, which, words, 8 if kind == Kind.TLSDESC else 0)
        undefined = np.flatnonzero((kinds == Kind.TLSDESC) & (definer < 0))
        self._store(Kind.TLSDESC, undefined, self._addends(undefined), 8)
        for place in self._entries.places[kinds == Kind.TLSDESC].tolist():
            self._done.foreign[self._link.base + place] = Foreign.TLS_DESCRIPTOR

    def _check_static(self, owners: I64) -> None:
        for index in np.unique(owners).tolist():
            owner = self._table.maps[index]
            if owner.tls_offset == 0:
                raise LinkError(
                    f"{owner.name}: cannot allocate memory in static TLS block "
                    f"(initial-exec TLS or a TLS descriptor, used by {self._link.name})"
                )

    def _copy(self) -> None:
        """The program's own room for a library's variable gets its initial value."""
        own_sizes = self._link.object.symbols["st_size"]
        which = np.flatnonzero(self._entries.kinds == Kind.COPY)
        for entry in which.tolist():
            reference = int(self._entries.reference[entry])
            if self._definer[reference] < 0:
                continue
            own = int(own_sizes[self._references.symbols[reference]])
            size = min(int(self._sizes[reference]), own)
            if not size:
                continue
            place = int(self._entries.places[entry])
            offsets_of(self._link, np.array([place, place + max(size, 8) - 8], np.uint64))
            address = self._link.base + place
            self._memory.write(address, self._memory.read(int(self._values[reference]), size))
            first = address & -8
            self._done.stored.append((first, np.arange(0, address + size - first, 8)))
        self._done.count(Kind.COPY, len(which))

    def _ifuncs(self, chosen: Bools, resolve: IfuncResolver | None) -> None:
        """IRELATIVE, and symbols of type STT_GNU_IFUNC: a resolver chooses the address."""
        which = chosen.nonzero()[0]
        if not len(which):
            return
        irelative = self._entries.kinds[which] == Kind.IRELATIVE
        addends = self._addends(which)
        functions = np.where(
            irelative, addends + self._base, self._values[self._entries.reference[which]]
        )
        self._done.count(Kind.IRELATIVE, int(irelative.sum()))
        if resolve is None:
            for place in self._entries.places[which].tolist():
                self._done.foreign[self._link.base + place] = Foreign.IFUNC
            return
        distinct, inverse = np.unique(functions, return_inverse=True)
        results = np.array([resolve(function) for function in distinct.tolist()], np.uint64)
        words = results[inverse] + np.where(irelative, np.uint64(0), addends)
        self._done.store(self._memory, self._start, self._offsets[which], words)
