"""The dynamic linker: what ld.so does, in Python, equal to glibc's to the byte.

`link.Linker` takes the steps in ld.so's order: it finds libraries (`search`, `cache`, `hwcaps`),
maps them breadth-first (`load`, `segments`), looks up all symbols at once (`query`, `lookup`,
`binding`), and stores the relocated words (`relocate`, `ifunc`, `tls`). What it loads into is a
`memory.Memory`: a picture of an address space, a process of the model, or this very process, of
which it knows a few system calls only. So the kernel below may be any.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samepage.linker.inprocess.library import Library


def dlopen(name: str, mode: int = 2) -> "Library":
    """Load a library into the running process; see `samepage.linker.inprocess.library.dlopen`."""
    from samepage.linker.inprocess import library

    return library.dlopen(name, mode)
