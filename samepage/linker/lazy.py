"""What a lazily bound PLT entry leads to: the answer of ld.so's `_dl_fixup`.

A PLT entry that has not been used pushes its number and jumps, by way of `GOT[1]` and
`GOT[2]`, into ld.so, which looks the symbol up, stores the function's address into the
entry's slot, and jumps there. Our linker has bound all symbols before it relocates
anything, so all that is left is to fetch the answer. It has to be there early: an IFUNC
resolver may call through the PLT of its own object, while that is being relocated.
"""

import numpy as np

from samepage.abi.elf import STB_WEAK, STT_GNU_IFUNC
from samepage.elf.machines import KIND_TABLES, Kind, kinds_of
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.references import symbol_and_version
from samepage.records import record


@record(frozen=True)
class LazySlot:
    """One entry of DT_JMPREL that waits for its first call.

    `function` is 0 where there is none; then `undefined` has the symbol's name, unless it
    is weak. `resolver` is set if the address is that of the function's IFUNC resolver.
    """

    place: int
    function: int
    resolver: bool = False
    undefined: str | None = None


def lazy_slots(result: LinkResult, link: LinkMap) -> list[LazySlot | None]:
    """The slots of an object by the number that its PLT entries push: the entry's index in
    DT_JMPREL. None for an entry of another kind.
    """
    entries, references = result.entries[link], result.references[link]
    plt = link.object.relocations.plt
    types = (plt["r_info"].astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    kinds = kinds_of(KIND_TABLES[link.object.elf.machine], types)
    # Entries that store nothing have been left out of `entries`.
    own = iter(range(entries.plt_start, len(entries.places)))
    slots: list[LazySlot | None] = []
    for kind in kinds.tolist():
        entry = next(own) if kind != Kind.NONE else -1
        if kind != Kind.JUMP_SLOT:
            slots.append(None)
            continue
        place = link.base + int(entries.places[entry])
        reference = int(entries.reference[entry])
        definer = int(references.definer[reference])
        if definer >= 0:
            owner = result.maps[definer]
            symbol = int(references.definition[reference])
            is_resolver = int(owner.object.symbols[symbol]["st_info"]) & 15 == STT_GNU_IFUNC
            slots.append(LazySlot(place, owner.address_of(symbol), is_resolver))
        else:
            own_symbol = int(references.symbols[reference])
            weak = int(link.object.symbols["st_info"][own_symbol]) >> 4 == STB_WEAK
            name = None if weak else symbol_and_version(link, own_symbol)
            slots.append(LazySlot(place, 0, undefined=name))
    return slots
