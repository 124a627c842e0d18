"""Libraries that a file needs for nothing: none of its symbols is bound to them.

ld.so loads them nevertheless, with all that they need. The linker's `--as-needed` leaves them
out. Only the file's own references count, as `ldd -u` does: a library
may be needed for what its constructors do.
"""

from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap


def unused_libraries(result: LinkResult) -> list[LinkMap]:
    """The direct dependencies of the program that none of its references is bound to.

    The program has to be bound (`Linker.bind`); the order is that of DT_NEEDED.
    """
    program = result.maps[0]
    references = result.references.get(program)
    used = set(references.definer.tolist()) if references is not None else set()
    return [link for link in program.needed if link.index not in used]
