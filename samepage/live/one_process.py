"""The maps and pagemap of one process that is held, a few pages of it at a time.

`samepage.live.capture` reads whole systems into columns. Who holds one program and asks after
a library of it, again and again, wants less, and wants it at once.
"""

import os
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from samepage.abi.page import HOST_PAGE_SIZE


class MapsLine(NamedTuple):
    """One VMA: addresses and offset in bytes, rights and name as the kernel prints them."""

    start: int
    end: int
    perms: str
    offset: int
    name: str


def read_vmas(pid: int) -> Iterator[MapsLine]:
    """The VMAs of a process in ascending order. Raises `OSError`."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            span, perms, offset, _, _, *name = line.rstrip("\n").split(None, 5)
            start, end = (int(number, 16) for number in span.split("-"))
            yield MapsLine(start, end, perms, int(offset, 16), name[0] if name else "")


def read_entries(pid: int | str, address: int, pages: int) -> "array[int]":
    """The pagemap entries of so many pages from an address on; `pid` may be "self".

    Raises `OSError`.
    """
    entries: array[int] = array("Q")
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries.frombytes(os.pread(fd, pages * 8, address // HOST_PAGE_SIZE * 8))
    finally:
        os.close(fd)
    return entries
