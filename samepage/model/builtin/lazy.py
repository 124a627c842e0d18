"""Lazy binding: a PLT entry finds its function when it is first called.

ld.so looks the symbol up then. Our linker has bound every symbol when it linked, so the
code that a PLT's first call comes to only has to fetch the answer: `GOT[1]` addresses a
table with a pair of words for each entry of DT_JMPREL, the slot and the function. Nothing
else differs: the slots lead into the PLT until they are used, and the store that binds one
is the process's own, with the fault that it may cause.

A function that does not exist is no error before it is called: its entry leads to code
that ends the process with ld.so's message.
"""

import struct

import numpy as np

from samepage.elf.machines import Kind
from samepage.elf.object import SHN_ABS, STB_WEAK, STT_GNU_IFUNC
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.references import symbol_and_version
from samepage.linker.relocate import Foreign
from samepage.model.builtin.code import Code
from samepage.model.builtin.user_side import UserSide


def lazy_table(
    user: UserSide, result: LinkResult, link: LinkMap, code: Code, program: str
) -> bytes:
    """The table of one object whose PLT is bound lazily; empty if it has no such slots."""
    entries, references = result.entries[link], result.references[link]
    words: list[int] = []
    for entry in range(entries.plt_start, len(entries.places)):
        if entries.kinds[entry] != Kind.JUMP_SLOT:
            words += [0, 0]
            continue
        slot = link.base + int(entries.places[entry])
        reference = int(entries.reference[entry])
        definer = int(references.definer[reference])
        if definer >= 0:
            owner = result.maps[definer]
            target = _address(user, owner, int(references.definition[reference]))
        else:
            symbol = int(references.symbols[reference])
            target = 0
            if int(link.object.symbols["st_info"][symbol]) >> 4 != STB_WEAK:
                where = program if link is result.maps[0] else link.name
                name = symbol_and_version(link, symbol)
                text = f"{program}: symbol lookup error: {where}: undefined symbol: {name}\n"
                target = code.add_undefined(text.encode(errors="surrogateescape"))
        words += [slot, target]
    return struct.pack(f"<{len(words)}Q", *words)


def lazy_size(result: LinkResult, link: LinkMap) -> int:
    """The size of an object's table in bytes; 0 if its PLT is not bound lazily."""
    if Foreign.LINK_MAP not in result.relocated[link].foreign.values():
        return 0
    entries = result.entries[link]
    return 16 * (len(entries.places) - entries.plt_start)


def _address(user: UserSide, owner: LinkMap, index: int) -> int:
    symbol = owner.object.symbols[index]
    base = 0 if int(symbol["st_shndx"]) == SHN_ABS else owner.base
    address = base + int(symbol["st_value"])
    if int(symbol["st_info"]) & 15 == STT_GNU_IFUNC:
        return user.call(address)
    return address


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
