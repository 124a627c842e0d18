"""The dynamic linker: ld.so in Python, equal to glibc's to the byte."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samepage.linker.inprocess.library import Library


def dlopen(name: str, mode: int = 2) -> "Library":
    """Load a library into the running process; see `samepage.linker.inprocess.library.dlopen`."""
    from samepage.linker.inprocess import library

    return library.dlopen(name, mode)
