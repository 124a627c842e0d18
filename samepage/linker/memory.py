"""The memory that a linker loads into, behind one small protocol.

ld.so knows nothing of its kernel but a few system calls: it opens a library, maps it and
gets a base address back, changes protections, and stores words. `Memory` is exactly
that, so one linker loads into a picture of memory (`image.py`), into the model's
processes, and into the process that it runs in (`process.py`).

Relocation stores many words at scattered places. The protocol takes them as arrays,
because that is where the time goes.
"""

import os
from typing import Protocol

from samepage.arch import PAGE_SIZE
from samepage.elf.file import ElfFile
from samepage.elf.layout import I64, U64
from samepage.elf.object import DynamicObject
from samepage.records import record

PAGE = PAGE_SIZE


@record
class OpenFile:
    """A file that `Memory.open` opened: its tables, and what identifies it."""

    path: str
    fd: int
    identity: tuple[int, int]
    """Device and inode: two paths with the same identity are one object."""
    object: DynamicObject
    mode: int = 0
    """`st_mode`."""


class Memory(Protocol):
    """An address space, as its program sees it through system calls.

    Addresses and lengths are in bytes. Failing calls raise `OSError` with the errno of
    the system call.
    """

    def open(self, path: str) -> OpenFile:
        """Open a file for mapping. Raises `OSError`, and `ElfError` if it is not ELF."""
        ...

    def close(self, file: OpenFile) -> None:
        """Close the descriptor. What is mapped stays mapped."""
        ...

    def is_directory(self, path: str) -> bool:
        """Whether a directory is there, as `stat` sees it."""
        ...

    def read_text(self, path: str) -> bytes | None:
        """The whole of a small configuration file, or None if it cannot be read."""
        ...

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        """Map a file, or anonymous memory. Returns the address.

        With MAP_ANONYMOUS, `file` only names whose memory it will be.
        """
        ...

    def munmap(self, address: int, length: int) -> None:
        """Unmap whole pages."""
        ...

    def mprotect(self, address: int, length: int, prot: int) -> None:
        """Change the protection of whole pages."""
        ...

    def read(self, address: int, length: int) -> bytes:
        """Load bytes."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Store bytes."""
        ...

    def zero(self, address: int, length: int) -> None:
        """Store zeros."""
        ...

    def read_words(self, start: int, offsets: I64) -> U64:
        """Load the 8-byte word at `start` plus each offset. Offsets are not negative."""
        ...

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        """Store each word at `start` plus its offset; of equal places the last one counts."""
        ...


class HostFiles:
    """The calls of a `Memory` that only look at files: here those of the host.

    `parsed` may be one for several links: then what they have in common is read once.
    """

    def __init__(self, parsed: dict[tuple[int, int], DynamicObject] | None = None) -> None:
        self._parsed = parsed

    def open(self, path: str) -> OpenFile:
        """Open a file of the host and map it read-only, for its tables.

        Raises `OSError` if it cannot be opened or mapped, and `ElfError` if it is not ELF.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            identity = status.st_dev, status.st_ino
            found = self._parsed.get(identity) if self._parsed is not None else None
            if found is None:
                found = DynamicObject(ElfFile.from_fd(fd, path))
            if self._parsed is not None:
                self._parsed[identity] = found
        except BaseException:
            os.close(fd)
            raise
        return OpenFile(path, fd, identity, found, status.st_mode)

    def close(self, file: OpenFile) -> None:
        if file.fd >= 0:
            os.close(file.fd)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def read_text(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return None
