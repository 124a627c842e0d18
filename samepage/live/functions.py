"""The functions of a live process's instructions, by the files that it has mapped.

Files are opened as the process sees them (`/proc/PID/root`), so that containers have their
own. A file whose name leads to another inode by now (an upgrade) has no symbols here: wrong
names would be worse than none.
"""

import os
from dataclasses import dataclass

from samepage.elf.eh_frame import CodeRanges
from samepage.elf.file import ElfFile
from samepage.elf.functions import SymbolsByAddress
from samepage.elf.header import ElfError
from samepage.snapshot.writes import Function

_UNKNOWN = Function("", "")


@dataclass(frozen=True, slots=True)
class CodeArea:
    """One mapping: addresses and `offset` in bytes, rights, the inode that maps shows, the
    name."""

    start: int
    end: int
    perms: str
    offset: int
    inode: int
    name: str

    @property
    def private(self) -> bool:
        """Whether a write gives the process a copy."""
        return self.perms[3] == "p"


class Functions:
    """Names of instructions. Each file's tables are read once."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, str], _Code] = {}

    def areas(self, pid: int) -> list[CodeArea]:
        """The mappings of a process, ascending; none if it is gone."""
        found = []
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
                for line in file:
                    span, perms, offset, _, inode, *name = line.rstrip("\n").split(None, 5)
                    start, end = (int(number, 16) for number in span.split("-"))
                    path = name[0] if name else ""
                    found.append(CodeArea(start, end, perms, int(offset, 16), int(inode), path))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return found
        return found

    def at(self, pid: int, area: CodeArea | None, address: int) -> Function:
        """The function of an instruction of a process, which lies in `area`."""
        if area is None:
            return _UNKNOWN
        if not area.inode:
            return Function("", area.name)
        key = (area.inode, area.name)
        code = self._files.get(key)
        if code is None:
            # The second is for a process that has ended.
            for path in (f"/proc/{pid}/root{area.name}", area.name):
                code = code or _open(path, area.inode)
            if code is not None:
                self._files[key] = code
        name = code.name(address - area.start + area.offset) if code else ""
        return Function(name, area.name)


class _Code:
    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf
        self._symbols = SymbolsByAddress(elf)
        try:
            self._ranges: CodeRanges | None = CodeRanges(elf)
        except ElfError:
            self._ranges = None

    def name(self, offset: int) -> str:
        """The function at an offset in the file, or its first address where it has no name."""
        for load in self._elf.loads:
            if 0 <= offset - load.offset < load.filesz:
                address = offset - load.offset + load.vaddr
                place = self._symbols.at(address)
                return place.name if place else self._bounds(address)
        return ""

    def _bounds(self, address: int) -> str:
        try:
            found = self._ranges.at(address) if self._ranges else None
        except ElfError:
            found = None
        return f"+{found[0]:#x}" if found else ""


def _open(path: str, inode: int) -> _Code | None:
    try:
        if os.stat(path).st_ino != inode:
            return None
        return _Code(ElfFile.open(path))
    except (OSError, ElfError):
        return None
