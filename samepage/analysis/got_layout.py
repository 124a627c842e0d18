"""Where a library's writable sections would be if its GOT were of another size.

Two layouts are common. GNU ld lets the part that becomes read-only (RELRO) end with a page:
a smaller GOT moves what lies before it up, and .got.plt and the data behind begin at that
page's end, each right after the other. LLD lets RELRO begin where the segment does, and
fills up its last page (.relro_padding).
"""

import numpy as np

from samepage.analysis.cost_tables import LAZY_WORDS, CostTables
from samepage.elf.dynamic import Tag
from samepage.elf.layout import U64, Bools
from samepage.elf.sections import Section

_RESERVED = 3
"""Words at the beginning of .got.plt that are ld.so's."""


class Layout:
    """The writable sections of a library, by address, and which relocations are in a GOT."""

    def __init__(self, tables: CostTables) -> None:
        self._tables = tables
        self._word = tables.library.elf.layout.word_size
        self._sections = sorted(
            (s for s in tables.sections if s.writable and (s.in_file or not s.thread_local)),
            key=lambda section: section.address,
        )
        relro = tables.library.relro
        self._relro_end = relro.vaddr + relro.memsz if relro else 0
        self._grows_down = not any(s.name == ".relro_padding" for s in tables.sections)
        self._gots = {s.name: s for s in self._sections if s.name in (".got", ".got.plt")}
        self.in_got = np.zeros(len(tables.places), np.bool_)
        for section in self._gots.values():
            self.in_got |= self._inside(section)

    @property
    def has_both(self) -> bool:
        """Whether the PLT's slots have a section of their own."""
        return len(self._gots) == 2

    def _inside(self, section: Section) -> Bools:
        places = self._tables.places
        end = np.uint64(section.address + section.size)
        return (places >= np.uint64(section.address)) & (places < end)

    def without(self, entries: Bools) -> int:
        """The copied pages without some entries of the GOTs."""
        changes = {
            name: -self._word * int((entries & self._inside(section)).sum())
            for name, section in self._gots.items()
        }
        return self._count(changes, ~entries, [address for address, _ in self._tables.others])

    def bound_now(self) -> int:
        """The copied pages with .got.plt as a part of .got."""
        slots = self._gots[".got.plt"]
        others = [address for address, why in self._tables.others if why != LAZY_WORDS]
        everything = np.ones(len(self._tables.places), np.bool_)
        dynamic = self._tables.library.dynamic
        flags = sum(tag not in dynamic.places for tag in (Tag.FLAGS, Tag.FLAGS_1))
        changes = {
            ".got": slots.size,
            ".got.plt": -slots.size,
            ".dynamic": flags * self._tables.library.elf.layout.dyn.itemsize,
        }
        return self._count(changes, everything, others)

    def _count(self, changes: dict[str, int], keep: Bools, others: list[int]) -> int:
        """The copied pages with each GOT larger by so many bytes and its entries together."""
        starts = self._starts(changes)
        places = self._tables.places.copy()
        for section, start in zip(self._sections, starts, strict=True):
            if section.name not in self._gots:
                places[self._inside(section)] += np.uint64((start - section.address) % (1 << 64))
        for section, start in zip(self._sections, starts, strict=True):
            if section.name in self._gots:
                self._pack(places, keep & self._inside(section), section, start, starts)
        moved = [self._moved(address, starts) for address in others]
        return self._tables.copied(places[keep], self._tables.widths[keep], moved)

    def _pack(
        self, places: U64, entries: Bools, section: Section, start: int, starts: list[int]
    ) -> None:
        """Move the entries of a GOT together, behind what is not relocated."""
        which = entries.nonzero()[0]
        free = _RESERVED * self._word if section.name == ".got.plt" else 0
        order = which[np.argsort(self._tables.places[which], kind="stable")]
        sizes = np.maximum(self._tables.widths[order], np.uint64(self._word)).astype(np.int64)
        ends = np.cumsum(sizes)
        if section.name == ".got.plt" and start < 0:  # it has become a part of .got
            got = starts[[s.name for s in self._sections].index(".got")]
            start = got + self._gots[".got"].size
        places[order] = (ends - sizes).astype(np.uint64) + np.uint64((start + free) % (1 << 64))

    def _starts(self, changes: dict[str, int]) -> list[int]:
        """Where each section begins; a .got.plt of no size has -1."""
        sections = self._sections
        starts = [section.address for section in sections]
        gone = {s.name for s in sections if changes.get(s.name) == -s.size}
        relro = [i for i, s in enumerate(sections) if s.address + s.size <= self._relro_end]
        if self._grows_down:
            step = max((sections[i].alignment for i in relro), default=1) or 1
            shift = 0
            if ".got.plt" in gone:
                # Its first words were the end of RELRO.
                overlap = self._relro_end - self._gots[".got.plt"].address
                shift = -max(min(overlap, _RESERVED * self._word), 0)
            for i in reversed(relro):
                shift += changes.get(sections[i].name, 0)
                starts[i] -= -(-shift // step) * step
        end = 0
        for i, section in enumerate(sections):
            if i in relro:
                continue
            if section.name in gone:
                starts[i], end = -1, max(self._relro_end, end)
                continue
            if end:
                step = max(section.alignment, 1)
                starts[i] = -(-end // step) * step
            end = starts[i] + section.size + changes.get(section.name, 0)
        return starts

    def _moved(self, address: int, starts: list[int]) -> int:
        """Where an address, or the end of a section, would be."""
        for section, start in zip(self._sections, starts, strict=True):
            if section.address <= address < section.address + section.size and start >= 0:
                return address - section.address + start
        for section, start in zip(self._sections, starts, strict=True):
            if address == section.address + section.size and start >= 0:
                return address - section.address + start
        return address
