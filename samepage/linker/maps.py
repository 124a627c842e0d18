"""`LinkMap`: one object in memory, and what the linker knows of it.

Named after glibc's `struct link_map`; fields are named after its fields without the
`l_`. The objects of a link form lists in three orders, and all of them matter: the load
order (the order of mapping, and of TLS modules), the search order (the global scope,
breadth-first), and the initialisation order (dependencies first).
"""

import enum

from samepage.abi.elf import SHN_ABS
from samepage.elf.object import DynamicObject
from samepage.records import field, record


class MapKind(enum.Enum):
    """`l_type`: the program, a library loaded with it, or one loaded by dlopen."""

    EXECUTABLE = "executable"
    LIBRARY = "library"
    LOADED = "loaded"


@record(eq=False)
class LinkMap:
    """One object.

    `base` is what is added to the file's addresses (`l_addr`); the object occupies
    [start, end). `name` is the path that it was found at. Invariant: two
    maps of one namespace never have the same `identity`.
    """

    name: str
    object: DynamicObject
    kind: MapKind
    identity: tuple[int, int] | None
    loader: "LinkMap | None" = None
    base: int = 0
    start: int = 0
    end: int = 0
    index: int = 0
    """Place in the load order."""
    needed: list["LinkMap"] = field(default_factory=list)
    """Direct dependencies in the order of the dynamic section (`l_initfini` + 1)."""
    closure: "list[LinkMap] | None" = None
    """All that it needs, sorted as its constructors were, once it has been opened itself: the
    `l_initfini` that an object has from its own `dlopen` on. Until then it has that of its
    direct dependencies, and keeps it if it stays when others are closed."""
    scopes: list[list["LinkMap"]] = field(default_factory=list)
    """Search lists for this object's symbols, in order (`l_scope`)."""
    tls_module: int = 0
    tls_offset: int = 0
    """Distance from the thread pointer down to the TLS block; 0 if it has none there."""
    relocated: bool = False
    by_kernel: bool = False
    """Whether the kernel maps it, as the program and its interpreter."""
    requested: str = ""
    """The name by which it was asked for when it was mapped."""
    origin: str = ""
    """The file's resolved path, for the program, whose name may be a symbolic link."""

    @property
    def followed(self) -> list["LinkMap"]:
        """What a sort by dependencies follows: `l_initfini`."""
        return self.needed if self.closure is None else self.closure

    def address_of(self, symbol: int) -> int:
        """The address of one of the object's own symbols, by index (`SYMBOL_ADDRESS`)."""
        record = self.object.symbols[symbol]
        base = 0 if int(record["st_shndx"]) == SHN_ABS else self.base
        return base + int(record["st_value"])

    def __repr__(self) -> str:
        return f"<LinkMap {self.name} at {self.base:#x}>"
