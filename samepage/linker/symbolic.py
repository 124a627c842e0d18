"""The relocations that name a symbol, and the few others outside of the leading run.

What each entry stores is computed for all objects at once when their references are
bound (`SymbolicRelocation`): it only depends on where objects lie, on definitions and on
addends. Then it is stored object by object, in ld.so's order (`relocate`), since what
COPY relocations copy is what a library has after its own relocation, and an IFUNC
resolver may use the data of objects that are relocated before its own.

An undefined weak symbol has the address 0; its TLS words stay as they are.

Source: `elf_machine_rela` of glibc 2.36 (sysdeps/x86_64/dl-machine.h).
"""

from collections.abc import Callable

import numpy as np

from samepage.abi.elf import SHN_ABS, SHN_UNDEF, STT_GNU_IFUNC
from samepage.elf.dynamic import Tag
from samepage.elf.layout import I64, U64, Bools
from samepage.elf.machines import Kind
from samepage.linker.errors import LinkError
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import Memory
from samepage.linker.references import Bindings
from samepage.linker.relocate import Foreign, Relocated, StoreRange

IfuncResolver = Callable[[int], int]
"""Runs the IFUNC resolver at an address; returns the address that it chose."""

_WORD = (1 << 64) - 1

_POINTERS = np.zeros(max(Kind) + 1, np.bool_)
_POINTERS[[Kind.JUMP_SLOT, Kind.GLOB_DAT, Kind.ABSOLUTE]] = True
_NARROW = (Kind.ABSOLUTE_32, Kind.PC_RELATIVE_32, Kind.SIZE_32)
_RARE = (*_NARROW, Kind.COPY, Kind.TLSDESC)
_TLS = (Kind.DTPMOD, Kind.DTPOFF, Kind.TPOFF, Kind.TLSDESC)


class SymbolicRelocation:
    """What is stored for each entry of `bindings`, and where.

    By entry: `_words`, `_offsets` (from the start of its object's `StoreRange`), and
    `_plain`, whether that is all there is to do. Columns by reference have one more
    element than there are references: index -1, the reference of entries without symbol,
    finds 0 there.
    """

    def __init__(
        self, memory: Memory, bindings: Bindings, lazy: list[bool], warnings: list[str]
    ) -> None:
        """`lazy` states for each object whether the slots of DT_JMPREL wait for their first
        call; `warnings` takes what ld.so would write to stderr. Raises `LinkError` for TLS that
        has no static place, `ElfError` for places where nothing may be stored.
        """
        self._memory = memory
        self._bindings = bindings
        self._warnings = warnings
        self._links = bindings.links
        self._all = bindings.tables.links
        self._ranges = [StoreRange.of(link) for link in self._links]
        self._bases = np.array([*(link.base for link in self._all), 0], np.uint64)
        kinds = bindings.kinds
        self._count = np.bincount(kinds, minlength=max(Kind) + 1).tolist()
        self._has_rare_kinds = any(self._count[kind] for kind in _RARE)
        self._read_definitions()
        self._words: U64 = self._values[bindings.reference] + bindings.addends.view(np.uint64)
        self._plain = _POINTERS[kinds]
        if self._resolvers.any():
            self._plain &= ~self._resolvers[bindings.reference]
        self._waits = np.zeros(len(kinds), np.bool_)
        if any(lazy):
            self._waits = bindings.slots & (kinds == Kind.JUMP_SLOT)
            self._waits &= np.array(lazy)[bindings.owner]
            self._plain &= ~self._waits
        self._places = bindings.places
        self._relative()
        self._sizes_of_symbols()
        if any(self._count[kind] for kind in _TLS):
            self._places = self._places.copy()
            self._thread_local()
        self._find_offsets()
        plain = self._to_store = self._plain.nonzero()[0]
        self._words_to_store, self._offsets_to_store = self._words[plain], self._offsets[plain]
        self._store_starts = np.searchsorted(plain, bindings.entry_starts).tolist()
        self._waiting = _ByObject(bindings, self._waits)
        chosen = (_POINTERS[kinds] & ~self._plain & ~self._waits) | (kinds == Kind.IRELATIVE)
        self._to_resolve = _ByObject(bindings, chosen)

    def _read_definitions(self) -> None:
        """Address, size and type of each reference's definition; 0 if it has none."""
        bindings, tables = self._bindings, self._bindings.tables
        rows = np.append(bindings.definitions, -1)
        self._definer = tables.owners(rows)
        symbols = tables.symbols(rows)
        sections = symbols.sections
        base = self._bases[self._definer]
        base[sections == SHN_ABS] = 0
        self._symbol_values = tables.values(rows)
        self._values: U64 = self._symbol_values + base
        self._sizes = tables.sizes(rows)
        self._resolvers: Bools = (symbols.types == STT_GNU_IFUNC) & (sections != SHN_UNDEF)

    def _of_kind(self, *kinds: Kind) -> I64:
        """The entries of some kinds."""
        if not any(self._count[kind] for kind in kinds):
            return np.empty(0, np.int64)
        found = self._bindings.kinds == kinds[0]
        for kind in kinds[1:]:
            found |= self._bindings.kinds == kind
        entries: I64 = found.nonzero()[0]
        return entries

    def _relative(self) -> None:
        which = self._of_kind(Kind.RELATIVE)
        self._words[which] += self._bases[self._bindings.owner[which]]
        self._plain[which] = True

    def _sizes_of_symbols(self) -> None:
        which = self._of_kind(Kind.SIZE, Kind.SIZE_32)
        reference = self._bindings.reference[which]
        self._words[which] += self._sizes[reference] - self._values[reference]
        self._plain[self._of_kind(Kind.SIZE)] = True

    def _thread_local(self) -> None:
        """DTPMOD, DTPOFF, TPOFF and TLSDESC, whose second word is stored."""
        bindings = self._bindings
        modules = np.array([link.tls_module for link in self._all], np.uint64)
        offsets = np.array([link.tls_offset for link in self._all], np.uint64)
        for kind in _TLS:
            which = self._of_kind(kind)
            reference = bindings.reference[which]
            defined = self._definer[reference] >= 0
            words = bindings.addends[which].view(np.uint64)
            owners = self._definer[reference[defined]]
            words[defined] += self._symbol_values[reference[defined]]
            if kind == Kind.DTPMOD:
                words[defined] = modules[owners]
            elif kind in (Kind.TPOFF, Kind.TLSDESC):
                self._check_static(which[defined], owners)
                words[defined] -= offsets[owners]
            self._words[which] = words
            self._plain[which] = defined | (kind == Kind.TLSDESC)
        self._places[self._of_kind(Kind.TLSDESC)] += np.uint64(8)

    def _check_static(self, entries: I64, owners: I64) -> None:
        for owner, entry in dict(zip(owners.tolist(), entries.tolist(), strict=True)).items():
            link = self._all[owner]
            if link.tls_offset == 0:
                user = self._links[int(self._bindings.owner[entry])]
                raise LinkError(
                    f"{link.name}: cannot allocate memory in static TLS block "
                    f"(initial-exec TLS or a TLS descriptor, used by {user.name})"
                )

    def _find_offsets(self) -> None:
        """Where entries store, and whether they may: for nearly all objects that is a
        comparison with the one segment that is writable.
        """
        owner = self._bindings.owner
        firsts = np.array([found.first for found in self._ranges], np.uint64)
        lasts = np.array([found.last for found in self._ranges], np.int64)
        self._offsets: I64 = (self._places - firsts[owner]).view(np.int64)
        outside = (self._offsets < 0) | (self._offsets > lasts[owner])
        for number in dict.fromkeys(owner[outside.nonzero()[0]].tolist()):
            self._ranges[number].check(self._places[self._own(number)])

    def _own(self, number: int) -> slice:
        return slice(*self._bindings.entry_starts[number : number + 2].tolist())

    def has_slots(self, number: int) -> bool:
        """Whether an object has entries in DT_JMPREL."""
        return bool(self._bindings.slots[self._own(number)].any())

    def relocate(self, number: int, done: Relocated, resolve: IfuncResolver | None) -> None:
        """Store all words of an object.

        Where resolvers are called, the order is ld.so's, since they may use what has been
        stored and nothing else: DT_RELA entry by entry, then its IRELATIVE entries; then
        DT_JMPREL, of which a lazy slot gets the base only now. A resolver that is called from
        DT_RELA and uses a lazy PLT of its own object jumps to an address of the file.
        """
        own = self._own(number)
        unresolved = self._to_resolve.of(number)
        if not len(unresolved):
            self._store_plain(number, own.start, own.stop, done)
            self._store_waiting(number, done)
            if self._has_rare_kinds:
                self._store_rare(number, done)
            return
        bindings = self._bindings
        irelative = bindings.kinds[unresolved] == Kind.IRELATIVE
        slots = bindings.slots[unresolved]
        split = own.stop - int(bindings.slots[own].sum())
        merged = not done.lazy and _are_one_range(self._links[number])
        first_last = np.zeros_like(slots) if merged else irelative & ~slots
        self._in_order(number, (own.start, split), unresolved[~slots & ~irelative], done, resolve)
        if self._has_rare_kinds:
            self._store_rare(number, done)
        self._call(number, unresolved[first_last], done, resolve)
        self._in_order(number, (split, own.stop), unresolved[slots & ~irelative], done, resolve)
        self._store_waiting(number, done)
        self._call(number, unresolved[irelative & ~first_last], done, resolve)

    def _in_order(
        self,
        number: int,
        span: tuple[int, int],
        unresolved: I64,
        done: Relocated,
        resolve: IfuncResolver | None,
    ) -> None:
        """Store the words of a range of entries, calling resolvers where they come."""
        at, end = span
        for entry in unresolved.tolist():
            self._store_plain(number, at, entry, done)
            self._resolve(number, entry, done, resolve)
            at = entry
        self._store_plain(number, at, end, done)

    def _call(
        self, number: int, unresolved: I64, done: Relocated, resolve: IfuncResolver | None
    ) -> None:
        for entry in unresolved.tolist():
            self._resolve(number, entry, done, resolve)

    def _store_plain(self, number: int, first: int, end: int, done: Relocated) -> None:
        """Store the words of the entries [first, end) that need nothing else."""
        own = slice(self._store_starts[number], self._store_starts[number + 1])
        low, high = np.searchsorted(self._to_store[own], (first, end)).tolist()
        part = slice(own.start + low, own.start + high)
        self._store(number, self._offsets_to_store[part], self._words_to_store[part], done)

    def _store_waiting(self, number: int, done: Relocated) -> None:
        """Add the base to the slots that wait for their first call."""
        waiting = self._waiting.of(number)
        if len(waiting):
            offsets, base = self._offsets[waiting], np.uint64(self._links[number].base)
            slots = self._memory.read_words(self._ranges[number].start, offsets)
            self._store(number, offsets, slots + base, done)

    def _store(self, number: int, offsets: I64, words: U64, done: Relocated) -> None:
        if len(words):
            start = self._ranges[number].start
            self._memory.write_words(start, offsets, words)
            done.stored.append((start, offsets))

    def _store_rare(self, number: int, done: Relocated) -> None:
        own = self._own(number)
        kinds, first = self._bindings.kinds[own], own.start
        for kind in _NARROW:
            if self._count[kind]:
                self._narrow(number, kind, first + (kinds == kind).nonzero()[0], done)
        if self._count[Kind.COPY]:
            self._copy(number, first + (kinds == Kind.COPY).nonzero()[0], done)
        if self._count[Kind.TLSDESC]:
            descriptors = self._bindings.places[own][kinds == Kind.TLSDESC]
            addresses = descriptors + np.uint64(self._links[number].base)
            done.foreign.update(dict.fromkeys(addresses.tolist(), Foreign.TLS_DESCRIPTOR))

    def _narrow(self, number: int, kind: Kind, which: I64, done: Relocated) -> None:
        """4-byte stores, in code that is not position-independent."""
        words = self._words[which]
        addresses = self._bindings.places[which] + np.uint64(self._links[number].base)
        if kind == Kind.PC_RELATIVE_32:
            words = words - addresses
        for address, word in zip(addresses.tolist(), words.tolist(), strict=True):
            self._memory.write(address, (word & 0xFFFFFFFF).to_bytes(4, "little"))
        done.stored.append((self._ranges[number].start, self._offsets[which]))

    def _copy(self, number: int, which: I64, done: Relocated) -> None:
        """The program's own room for a library's variable gets its initial value."""
        link, rows = self._links[number], self._bindings.rows
        own_sizes = self._bindings.tables.sizes(rows[self._bindings.reference[which]])
        for entry, own_size in zip(which.tolist(), own_sizes.tolist(), strict=True):
            reference = int(self._bindings.reference[entry])
            size = min(int(self._sizes[reference]), own_size)
            if not size:
                continue
            place = int(self._bindings.places[entry])
            self._ranges[number].check(np.array([place, place + max(size, 8) - 8], np.uint64))
            address = link.base + place
            self._memory.write(address, self._memory.read(int(self._values[reference]), size))
            first = address & -8
            done.stored.append((first, np.arange(0, address + size - first, 8)))

    def _resolve(
        self, number: int, entry: int, done: Relocated, resolve: IfuncResolver | None
    ) -> None:
        """IRELATIVE, or a symbol of type STT_GNU_IFUNC: a resolver chooses the address."""
        bindings, link = self._bindings, self._links[number]
        is_relative = bindings.kinds[entry] == Kind.IRELATIVE
        addend = int(bindings.addends[entry])
        if is_relative:
            function, extra = (addend + link.base) & _WORD, 0
        else:
            function, extra = int(self._values[bindings.reference[entry]]), addend
            self._check_order(link, int(bindings.reference[entry]))
        if resolve is None:
            done.foreign[int(bindings.places[entry]) + link.base] = Foreign.IFUNC
            return
        word = np.array([(resolve(function) + extra) & _WORD], np.uint64)
        self._store(number, self._offsets[entry : entry + 1], word, done)

    def _check_order(self, link: LinkMap, reference: int) -> None:
        """Warn of a resolver in an object that has not been relocated yet.

        Raises `LinkError` if that is the program, which always comes last.
        """
        definer = self._all[int(self._definer[reference])]
        if definer is link or definer.relocated:
            return
        symbol = int(
            self._bindings.rows[reference] - self._bindings.tables.first[self._links.index(link)]
        )
        name = link.object.strings.get(int(link.object.symbols["st_name"][symbol]))
        if definer.kind == MapKind.EXECUTABLE:
            raise LinkError(
                f"{definer.name}: IFUNC symbol '{name}' referenced in '{link.name}' is defined in "
                "the executable and creates an unsatisfiable circular dependency."
            )
        program = next(one.name for one in self._all if one.kind == MapKind.EXECUTABLE)
        self._warnings.append(
            f"{program}: Relink `{link.name}' with `{definer.name}' for IFUNC symbol `{name}'"
        )


def _are_one_range(link: LinkMap) -> bool:
    """Whether DT_JMPREL follows DT_RELA, so that ld.so takes both at once unless it is lazy."""
    dynamic = link.object.dynamic
    start, size = dynamic.value(Tag.RELA), dynamic.value(Tag.RELASZ)
    slots, slots_size = dynamic.value(Tag.JMPREL), dynamic.value(Tag.PLTRELSZ)
    if start + size == slots + slots_size:
        size -= slots_size
    return start + size == slots


class _ByObject:
    """Some of the entries, which ascend, by object."""

    def __init__(self, bindings: Bindings, chosen: Bools) -> None:
        self._entries: I64 = chosen.nonzero()[0]
        self._starts = np.searchsorted(self._entries, bindings.entry_starts).tolist()

    def of(self, number: int) -> I64:
        """Those of one object."""
        return self._entries[self._starts[number] : self._starts[number + 1]]
