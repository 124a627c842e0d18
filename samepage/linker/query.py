"""Symbol references as columns: what is looked up, for many symbols at once.

A reference is a symbol of an object that some relocation uses, together with the class
of the relocation: the class decides which definitions are acceptable (a PLT entry of
another object is no definition for a PLT; the program's own copy is none for a COPY
relocation). Each column of a `Query` has one element per reference.

Source: `elf_machine_type_class`, `resolve_map` of glibc 2.36.
"""

import enum

import numpy as np

from samepage.elf.layout import I64, U8, U32, Bools
from samepage.elf.strings import NamePool
from samepage.linker.tables import I32, SymbolTables
from samepage.records import record, replace


class TypeClass(enum.IntFlag):
    """`ELF_RTYPE_CLASS_*`. DATA is the class of all other relocations."""

    DATA = 0
    PLT = 1
    COPY = 2


@record
class Query:
    """References to look up.

    `rows` are the symbols that refer, rows of the `SymbolTables`, -1 for a name that is
    no object's; `owners` the objects that they are of. `version` is a number of
    `VersionNumbers`, and `exact` forbids the base definition in its stead. With
    `own_first` the object that refers is searched before all others (-Bsymbolic). For a
    reference without version, `newest` takes the default version of a symbol before the
    first one that the object defines: dlsym's DL_LOOKUP_RETURN_NEWEST.
    """

    rows: I64
    owners: I64
    classes: U8
    names: NamePool
    hashes: U32
    version: I32
    exact: Bools
    own_first: Bools
    newest: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: I64) -> "Query":
        """The query with only some of its references."""
        return Query(
            rows=self.rows[chosen],
            owners=self.owners[chosen],
            classes=self.classes[chosen],
            names=self.names.take(chosen),
            hashes=self.hashes[chosen],
            version=self.version[chosen],
            exact=self.exact[chosen],
            own_first=self.own_first[chosen],
            newest=self.newest,
        )

    def without_versions(self) -> "Query":
        """The same references, which want no version."""
        nothing = np.zeros(len(self), np.int32)
        return replace(self, version=nothing, exact=np.zeros(len(self), np.bool_), newest=True)

    def as_class(self, kind: TypeClass) -> "Query":
        """The same references in another class."""
        return replace(self, classes=np.full(len(self), kind, np.uint8))


def make_query(
    tables: SymbolTables, rows: I64, owners: I64, classes: U8, own_first: Bools
) -> Query:
    """The references of symbols, given by their rows, in the classes of their relocations.

    Raises `ElfError` for a name that is not in its string table.
    """
    names = tables.names(rows, owners)
    versions = tables.version_places(rows, owners)
    return Query(
        rows=rows,
        owners=owners,
        classes=classes,
        names=names,
        hashes=names.gnu_hashes(),
        version=tables.version_numbers(versions),
        exact=tables.version_exact(versions),
        own_first=own_first,
    )
