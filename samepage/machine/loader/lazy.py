"""Lazy binding: a PLT entry finds its function when it is first called.

ld.so looks the symbol up then. Our linker has bound every symbol when it linked, so the
code that a PLT's first call comes to only has to fetch the answer: `GOT[1]` addresses a
table with a pair of words for each entry of DT_JMPREL, the slot and the function. Nothing
else differs: the slots lead into the PLT until they are used, and the store that binds one
is the process's own, with the fault that it may cause.

If the function has an IFUNC resolver, that is what the table has, and bit 63 of the slot is
set: the resolver is called then. A table is there before its object is relocated, since
other resolvers may call through the PLT.

A function that does not exist is no error before it is called: its entry leads to code
that ends the process with ld.so's message.
"""

import struct

import numpy as np

from samepage.elf.machines import Kind
from samepage.linker.lazy import lazy_slots
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.relocate import Foreign
from samepage.machine.loader.code import Code

HAS_RESOLVER = 1 << 63
"""In the first word of a pair: the second one addresses an IFUNC resolver."""


def lazy_table(result: LinkResult, link: LinkMap, code: Code, program: str) -> bytes:
    """The table of one object whose PLT is bound lazily."""
    words: list[int] = []
    for slot in lazy_slots(result, link):
        if slot is None:
            words += [0, 0]
            continue
        function = slot.function
        if slot.undefined is not None:
            where = program if link is result.maps[0] else link.name
            text = f"{program}: symbol lookup error: {where}: undefined symbol: {slot.undefined}\n"
            function = code.add_undefined(text.encode(errors="surrogateescape"))
        words += [slot.place | (HAS_RESOLVER if slot.resolver else 0), function]
    return struct.pack(f"<{len(words)}Q", *words)


def lazy_size(result: LinkResult, link: LinkMap) -> int:
    """The size of an object's table in bytes; 0 if its PLT is not bound lazily."""
    if Foreign.LINK_MAP not in result.relocated[link].foreign.values():
        return 0
    return 16 * len(link.object.relocations.plt)


def foreign_words(
    result: LinkResult, link: LinkMap, code: Code, table: int, debug: int
) -> dict[int, int]:
    """The words that relocation leaves to the loader, with their values, by address.

    `table` is the address of the object's lazy table, `debug` that of the `r_debug`.
    """
    values = {
        Foreign.LINK_MAP: table,
        Foreign.RESOLVER: code.resolve,
        Foreign.TLS_DESCRIPTOR: code.tlsdesc,
        Foreign.DEBUG: debug,
    }
    words = {address: values[why] for address, why in result.relocated[link].foreign.items()}
    entries, references = result.entries[link], result.references[link]
    definer = np.append(references.definer, -1)[entries.reference]
    named = entries.reference >= 0
    undefined = (entries.kinds == Kind.TLSDESC) & (definer < 0) & named
    for place in entries.places[undefined].tolist():
        words[link.base + place] = code.tlsdesc_undefined
    return words
