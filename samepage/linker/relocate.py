"""Relocation: the words that ld.so stores into an object, computed as arrays.

An object's relocations become two arrays, addresses and words, for each kind, and each
is stored by one call. The order is ld.so's where it shows: the packed and the leading
relative relocations, then what names symbols (`symbolic.py`); results of IFUNC resolvers
come last, since a resolver may use the object's own data.

With lazy binding a JUMP_SLOT's word, which addresses the PLT entry's second half in the
file, only has the base added, and the two words before the first slot get ld.so's own
pointers. Those, like the TLS descriptors' functions, are addresses inside of ld.so's
code and heap: `Relocated.foreign` names the words that have such a value.

Besides, ld.so adds the base to some pointers of the dynamic section itself, unless the
section is read-only. Sources: `_dl_relocate_object`, `elf_dynamic_do_Rela`,
`elf_machine_lazy_rel`, `elf_machine_runtime_setup`, `elf_get_dynamic_info`,
`_dl_protect_relro` of glibc 2.36.
"""

import enum
from collections.abc import Iterator

import numpy as np

from samepage.abi.elf import SegmentFlags, SegmentType
from samepage.abi.mman import Prot
from samepage.elf.dynamic import Tag
from samepage.elf.layout import I64, U64, Table
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE, Memory
from samepage.linker.segments import PROTECTIONS
from samepage.records import field, record

ADJUSTED_TAGS = (
    Tag.HASH,
    Tag.PLTGOT,
    Tag.STRTAB,
    Tag.SYMTAB,
    Tag.RELA,
    Tag.RELR,
    Tag.JMPREL,
    Tag.VERSYM,
    Tag.GNU_HASH,
)
"""The pointers of a dynamic section that ld.so makes absolute, in the section itself."""
_WORD = (1 << 64) - 1

_PART = 15 << 10
"""Relative relocations at a time: a column of this many words has 120 KiB, for which no
allocator asks the kernel."""


class Foreign(enum.Enum):
    """Words that ld.so fills with what only ld.so can know."""

    LINK_MAP = "GOT[1]: the object's link_map in ld.so's heap"
    RESOLVER = "GOT[2]: ld.so's lazy binding entry, _dl_runtime_resolve_*"
    TLS_DESCRIPTOR = "TLS descriptor: ld.so's function _dl_tlsdesc_*"
    DEBUG = "DT_DEBUG: the address of ld.so's _r_debug"
    IFUNC = "IFUNC: chosen by the symbol's resolver, which has not been run"


@record
class Relocated:
    """What relocation did to one object.

    `stored` has for each store of words an address and their distances from it; `foreign`
    maps the address of a word to why its value is not known.
    """

    lazy: bool = False
    stored: list[tuple[int, I64 | U64]] = field(default_factory=list)
    foreign: dict[int, Foreign] = field(default_factory=dict)

    def addresses(self) -> U64:
        """The addresses of all words stored, sorted, without duplicates."""
        parts = [np.uint64(start) + places.astype(np.uint64) for start, places in self.stored]
        return np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))


def adjust_dynamic(memory: Memory, link: LinkMap, done: Relocated) -> None:
    """Add the base to the dynamic section's pointers, as ld.so does when it maps an object.

    Raises `ElfError` if the section claims to be writable and is not.
    """
    elf = link.object.elf
    segment = elf.segment(SegmentType.DYNAMIC)
    if segment is None or not segment.flags & SegmentFlags.W:
        return
    end = segment.vaddr + segment.filesz
    if not any(
        load.flags & SegmentFlags.W
        and load.vaddr <= segment.vaddr
        and end <= load.vaddr + load.memsz
        for load in elf.loads
    ):
        raise elf.error(f"PT_DYNAMIC at {segment.vaddr:#x} is not in a writable segment")
    dynamic = link.object.dynamic
    values_at = link.base + segment.vaddr + 8
    if link.base:
        base, places = link.base, dynamic.places
        found = [tag for tag in ADJUSTED_TAGS if tag in places]
        words = [(dynamic.value(tag) + base) & _WORD for tag in found]
        offsets = np.array([places[tag] << 4 for tag in found], np.int64)
        memory.write_words(values_at, offsets, np.array(words, np.uint64))
        done.stored.append((values_at, offsets))
    if link.kind == MapKind.EXECUTABLE and Tag.DEBUG in dynamic.places:
        done.foreign[values_at + 16 * dynamic.places[Tag.DEBUG]] = Foreign.DEBUG


def set_up_lazy(link: LinkMap, done: Relocated) -> None:
    """Note the two words of the GOT that lead a PLT's first call into ld.so.

    Raises `ElfError` if there is a PLT but no GOT for it.
    """
    got = link.object.dynamic.get(Tag.PLTGOT)
    if got is None:
        raise link.object.elf.error("DT_JMPREL without DT_PLTGOT")
    StoreRange.of(link).offsets(np.array([got, got + 16], np.uint64))
    done.foreign[link.base + got + 8] = Foreign.LINK_MAP
    done.foreign[link.base + got + 16] = Foreign.RESOLVER


def relocate_relative(
    memory: Memory, link: LinkMap, done: Relocated, *, packed: bool = True
) -> None:
    """DT_RELR (if it is known: `packed`), and the leading relative entries of DT_RELA.

    The type of the latter is not looked at, as ld.so does not: DT_RELACOUNT vouches.
    """
    tables = link.object.relocations
    target = StoreRange.of(link)
    base = np.uint64(link.base)
    if packed and link.base and len(tables.relr):
        done.stored.append((link.base, tables.relr))
        for part in _parts(tables.relr):
            offsets = target.offsets(part)
            words = memory.read_words(target.start, offsets)
            words += base
            memory.write_words(target.start, offsets, words)
    if tables.relative_count:
        entries = tables.rela[: tables.relative_count]
        done.stored.append((link.base, entries["r_offset"]))
        for part in _parts(entries):
            words = part["r_addend"].view(np.uint64) + base
            memory.write_words(target.start, target.offsets(part["r_offset"]), words)


def _parts(table: Table) -> Iterator[Table]:
    """A table in parts whose columns stay in the CPU's cache from one step to the next."""
    return (table[start : start + _PART] for start in range(0, len(table), _PART))


@record
class StoreRange:
    """Where relocation may store into an object: the pages of its writable segments, or with
    DT_TEXTREL of all of them. What is stored at offsets that are in it cannot hit anything else.

    Offsets count from the first segment, which begins at the address `start`, `first` in
    the file's terms. `last` is the offset of the last word in that segment, or negative.
    """

    link: LinkMap
    start: int
    first: int
    last: int

    @classmethod
    def of(cls, link: LinkMap) -> "StoreRange":
        """The range of a mapped object."""
        for start, end in _writable(link):
            return cls(link, link.base + start, start, end - start - 8)
        return cls(link, 0, 0, -1)

    def offsets(self, places: U64) -> I64:
        """The offsets of places. Raises `ElfError` unless each word is in one segment."""
        # A place below the first segment becomes a large number.
        offsets = places - np.uint64(self.first)
        if len(offsets) and int(np.maximum.reduce(offsets)) > self.last:
            self.check(places)
        return offsets.view(np.int64)

    def check(self, places: U64) -> None:
        """Raise `ElfError` unless the word at each of these places is in one segment."""
        segments, elf = _writable(self.link), self.link.object.elf
        if len(places) and not segments:
            raise elf.error("relocations, but no segment is writable")
        inside = np.zeros(len(places), np.bool_)
        for start, end in segments:
            inside |= (places >= np.uint64(start)) & (places <= np.uint64(end - 8))
        if not inside.all():
            bad = int(places[int((~inside).argmax())])
            raise elf.error(f"relocations: the place {bad:#x} is not in a writable segment")


def _writable(link: LinkMap) -> list[tuple[int, int]]:
    """The pages of writable segments, in the file's terms; with DT_TEXTREL of all."""
    has_text = link.object.dynamic.textrel
    return [
        (s.vaddr & -PAGE, (s.vaddr + max(s.filesz, s.memsz) + PAGE - 1) & -PAGE)
        for s in link.object.elf.loads
        if (s.flags & SegmentFlags.W or has_text) and max(s.filesz, s.memsz)
    ]


class WritableText:
    """DT_TEXTREL: makes read-only segments writable while the object is relocated."""

    def __init__(self, memory: Memory, link: LinkMap) -> None:
        self._memory = memory
        self._link = link
        self._changed: list[tuple[int, int, int]] = []

    def __enter__(self) -> None:
        if not self._link.object.dynamic.textrel:
            return
        for segment in self._link.object.elf.loads:
            if not segment.flags & SegmentFlags.W:
                start = segment.vaddr & -PAGE
                length = ((segment.vaddr + segment.memsz + PAGE - 1) & -PAGE) - start
                start, prot = self._link.base + start, PROTECTIONS[segment.flags & 7]
                self._memory.mprotect(start, length, prot | Prot.WRITE)
                self._changed.append((start, length, prot))

    def __exit__(self, *_: object) -> None:
        for start, length, prot in self._changed:
            self._memory.mprotect(start, length, prot)


def relro_range(link: LinkMap) -> tuple[int, int] | None:
    """The addresses that become read-only after relocation, in whole pages."""
    segment = link.object.relro
    if segment is None or not segment.memsz:
        return None
    start = (link.base + segment.vaddr) & -PAGE
    end = (link.base + segment.vaddr + segment.memsz) & -PAGE
    return (start, end) if end > start else None


def protect_relro(memory: Memory, link: LinkMap) -> None:
    """Make an object's RELRO range read-only."""
    found = relro_range(link)
    if found is not None:
        memory.mprotect(found[0], found[1] - found[0], Prot.READ)
