"""A program that uses a protected symbol of a library as if the library would not.

STV_PROTECTED lets a library use its own symbol directly. A program that was linked without
-fPIE may have taken the symbol over: a COPY relocation gives it the variable, an undefined
function symbol with a value makes its own PLT entry the function's address. Then both have
a variable, or an address, of their own. ld.so warns; and if the library has the property
NEEDED_INDIRECT_EXTERN_ACCESS, which promises that its users never do so, it is an error.

Source: `_dl_check_protected_symbol` of glibc 2.35 (errors) and 2.36 (and warnings).
"""

import struct
from collections.abc import Iterator

from samepage.abi.elf import SHN_UNDEF, STV_PROTECTED
from samepage.elf.notes import gnu_properties
from samepage.linker.errors import LinkError
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.query import TypeClass
from samepage.linker.references import Bindings
from samepage.linker.rules import LdsoRules

_NEEDED_1 = 0xB0008000
"""GNU_PROPERTY_1_NEEDED."""
_INDIRECT_EXTERN_ACCESS = 1
_OLD = {
    TypeClass.COPY: "copy relocation against non-copyable protected symbol",
    TypeClass.PLT: "non-canonical reference to canonical protected function",
}
"""The errors of glibc 2.35."""


def check_protected(
    bindings: Bindings, is_lazy: list[bool], rules: LdsoRules, warnings: list[str]
) -> Iterator[LinkError]:
    """The errors of a program's references to protected symbols, in the order of relocation.

    `is_lazy` is by object: a call that waits is looked at when it comes. What does not end
    the link is added to `warnings`.
    """
    if not rules.refuses_indirect_access:
        return
    tables = bindings.tables
    for number, link in enumerate(bindings.links):
        if link.kind != MapKind.EXECUTABLE:
            continue
        own = slice(*bindings.reference_starts[number : number + 2].tolist())
        found = bindings.definitions[own]
        strays = bindings.looked_up[own] & (found >= 0)
        strays &= tables.symbols(found).visibilities == STV_PROTECTED
        strays &= tables.owners(found) != number
        strays &= bindings.classes[own] != TypeClass.DATA
        if is_lazy[number]:
            strays &= ~bindings.lazy[own]
        for reference in strays.nonzero()[0].tolist():
            symbol = int(bindings.rows[own][reference] - tables.first[number])
            kind = TypeClass(int(bindings.classes[own][reference]))
            record = link.object.symbols[symbol]
            takes_address = int(record["st_shndx"]) == SHN_UNDEF and int(record["st_value"]) != 0
            if kind & TypeClass.COPY or takes_address:
                name = link.object.strings.get(int(record["st_name"]))
                definer = tables.links[int(tables.owners(found[reference : reference + 1])[0])]
                yield from _complain(kind, name, link, definer, rules, warnings)


def _complain(
    kind: TypeClass,
    name: str,
    program: LinkMap,
    definer: LinkMap,
    rules: LdsoRules,
    warnings: list[str],
) -> Iterator[LinkError]:
    indirect = needs_indirect_access(definer)
    if not rules.warns_of_protected:
        if indirect and not needs_indirect_access(program):
            yield LinkError(f"{definer.name}: {name}: {_OLD[kind & TypeClass.COPY or kind]}")
        return
    if kind & TypeClass.COPY:
        warnings.append(
            "warning: copy relocation against non-copyable protected symbol "
            f"`{name}' in `{definer.name}'"
        )
    else:
        warnings.append(
            f"warning: direct reference to protected function `{name}' in "
            f"`{definer.name}' may break pointer equality"
        )
    if indirect:
        yield LinkError(
            f"{definer.name}: error due to GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS "
            f"(symbol {name})"
        )


def needs_indirect_access(link: LinkMap) -> bool:
    """Whether an object's properties forbid direct access to its symbols."""
    data = gnu_properties(link.object.elf).get(_NEEDED_1, b"")
    return len(data) == 4 and bool(struct.unpack("<I", data)[0] & _INDIRECT_EXTERN_ACCESS)
