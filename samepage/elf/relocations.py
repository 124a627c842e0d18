"""Relocation tables: DT_RELA, DT_REL, DT_JMPREL and DT_RELR.

The first three are arrays of records (place, symbol, type and, for RELA, the addend).
DT_RELR packs the places of relative relocations whose addends are in place: an even
entry is an address; an odd one is a bitmap of the 63 (or 31) words that follow the last
address or bitmap. Expanded here in one go: every bitmap's own base is that of the run's
address entry plus its position in the run. Source: generic ABI proposal "Relative
Relocations (RELR)", `ELF_DYNAMIC_DO_RELR` of glibc.

DT_JMPREL may be the tail of DT_RELA in old files, or directly follow it; glibc counts
such entries once (`ELF_DYNAMIC_DO`), and so does `read_relocations`.
"""

import numpy as np

from samepage.elf.dynamic import Dynamic, Tag
from samepage.elf.file import ElfFile
from samepage.elf.layout import I64, U64, Table
from samepage.records import record


@record
class Relocations:
    """The relocation tables of one file.

    `rela` and `rel` are DT_RELA and DT_REL without what belongs to `plt`, which is
    DT_JMPREL and has addends if `plt_has_addends`. `relative_count` of the first
    entries of `rela` (or of `rel`) are relative ones. `relr` has the places of the
    packed relative relocations, in order.
    """

    rela: Table
    rel: Table
    plt: Table
    plt_has_addends: bool
    relative_count: int
    relr: U64

    @property
    def count(self) -> int:
        """The number of all relocations."""
        return len(self.rela) + len(self.rel) + len(self.plt) + len(self.relr)


def read_relocations(elf: ElfFile, dynamic: Dynamic) -> Relocations:
    """Read the relocation tables. Raises `ElfError` if they cannot be right."""
    layout = elf.layout
    rela = _table(elf, dynamic, "DT_RELA", (Tag.RELA, Tag.RELASZ, Tag.RELAENT), layout.rela)
    rel = _table(elf, dynamic, "DT_REL", (Tag.REL, Tag.RELSZ, Tag.RELENT), layout.rel)
    kind = dynamic.value(Tag.PLTREL, Tag.RELA)
    if kind not in (Tag.RELA, Tag.REL):
        raise elf.error(f"DT_PLTREL: {kind:#x} is neither DT_RELA nor DT_REL")
    has_addends = kind == Tag.RELA
    record = elf.layout.rela if has_addends else elf.layout.rel
    plt: Table = np.empty(0, record)
    start, size = dynamic.get(Tag.JMPREL), dynamic.value(Tag.PLTRELSZ)
    if start is not None:
        if size % record.itemsize:
            raise elf.error(f"DT_PLTRELSZ: {size} bytes are not whole entries")
        plt = elf.table_at("DT_JMPREL", start, record, size // record.itemsize)
        main_start = dynamic.value(Tag.RELA if has_addends else Tag.REL)
        main = rela if has_addends else rel
        if main_start <= start < main_start + len(main) * record.itemsize:
            main = main[: (start - main_start) // record.itemsize]
            rela, rel = (main, rel) if has_addends else (rela, main)
    relative = dynamic.value(Tag.RELACOUNT if len(rela) else Tag.RELCOUNT)
    relative = min(relative, len(rela) or len(rel))
    return Relocations(rela, rel, plt, has_addends, relative, _expand_relr(elf, dynamic))


def _table(
    elf: ElfFile, dynamic: Dynamic, name: str, tags: tuple[Tag, Tag, Tag], record: np.dtype[np.void]
) -> Table:
    """The table that three tags give: its address, its length, and that of an entry."""
    start, size, entry = tags
    address = dynamic.get(start)
    length = dynamic.value(size)
    if address is None or not length:
        return np.empty(0, record)
    if dynamic.value(entry, record.itemsize) != record.itemsize:
        raise elf.error(f"{name}: entries of {dynamic.value(entry)} bytes")
    if length % record.itemsize:
        raise elf.error(f"{name}: {length} bytes are not whole entries")
    return elf.table_at(name, address, record, length // record.itemsize)


def _expand_relr(elf: ElfFile, dynamic: Dynamic) -> U64:
    address = dynamic.get(Tag.RELR)
    length = dynamic.value(Tag.RELRSZ)
    word = elf.layout.word
    if address is None or not length:
        return np.empty(0, np.uint64)
    if length % word.itemsize or dynamic.value(Tag.RELRENT, word.itemsize) != word.itemsize:
        raise elf.error(f"DT_RELR: {length} bytes are not whole entries of {word.itemsize}")
    entries = elf.table_at("DT_RELR", address, word, length // word.itemsize).astype(np.uint64)
    return expand_relr(elf, entries)


def expand_relr(elf: ElfFile, entries: U64) -> U64:
    """The addresses that the entries of a DT_RELR table encode, in order."""
    size = elf.layout.word_size
    is_address = (entries & np.uint64(1)) == 0
    if not is_address[0]:
        raise elf.error("DT_RELR: the first entry is a bitmap, not an address")
    heads = np.flatnonzero(is_address)
    run = np.cumsum(is_address) - 1  # which address entry each entry follows
    position: I64 = np.arange(len(entries)) - heads[run]
    per_bitmap = elf.layout.bits - 1
    # An address entry is one word at its place; bitmap k of its run covers the words
    # from 1 + (k - 1) * 63 on.
    base = entries[heads[run]] + (
        np.where(is_address, 0, size * (1 + (position - 1) * per_bitmap)).astype(np.uint64)
    )
    bitmaps = np.where(is_address, np.uint64(1), entries >> np.uint64(1))
    bits = np.unpackbits(
        np.ascontiguousarray(bitmaps).view(np.uint8).reshape(-1, 8), axis=1, bitorder="little"
    )
    which, bit = np.nonzero(bits)
    places: U64 = base[which] + bit.astype(np.uint64) * np.uint64(size)
    return places
