"""What is fuzzed: reading a file completely, linking a program with it, and executing it.

A target takes the bytes of a file. It returns "accepted" or the kind of error that a
user would see; every other exception is a finding.
"""

import functools
import os
import tempfile

from samepage.analysis.cost import cost_of
from samepage.elf.header import ElfError
from samepage.elf.notes import build_id, gnu_properties
from samepage.elf.object import DynamicObject
from samepage.elf.relocated_pages import relocated_pages
from samepage.elf.sections import read_sections
from samepage.errors import SamepageError
from samepage.linker.cache import LibraryCache
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker
from samepage.linker.memory import OpenFile
from samepage.linker.search import LinkerConfig
from samepage.machine import Machine
from samepage.records import replace

HOST = "/bin/ls"
"""A program whose first library is replaced by the file under test."""

_INSTRUCTIONS = 20_000
_SECONDS = 5.0
"""How far `execute` lets a program come."""

_REPLACED = "libselinux.so.1"


def read_everything(data: bytes) -> str:
    """Read every table of a file, and tell its cost."""
    try:
        found = DynamicObject.from_bytes(data, "fuzzed")
        found.strings.pool(found.symbols["st_name"]).gnu_hashes()
        _ = (found.soname, found.needed, found.interpreter, found.gnu_hash, found.sysv_hash)
        _ = (found.versions, found.relocations, found.tls, found.relro)
        build_id(found.elf)
        gnu_properties(found.elf)
        read_sections(found.elf)
        relocated_pages(found)
        cost_of(found)
    except ElfError:
        return "ElfError"
    return "accepted"


@functools.cache
def _system_object(path: str) -> tuple[DynamicObject, tuple[int, int]]:
    status = os.stat(path)
    return DynamicObject.open(path), (status.st_dev, status.st_ino)


class _WithReplacement(ImageMemory):
    """Memory in which one library has the fuzzed bytes; the others are read only once."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def open(self, path: str) -> OpenFile:
        if path.endswith("/" + _REPLACED):
            return OpenFile(path, -1, (0, 1), DynamicObject.from_bytes(self._data, path))
        found, identity = _system_object(path)
        return OpenFile(path, -1, identity, found)


_CONFIG = replace(LinkerConfig(capabilities=HardwareCapabilities()), bind_now=True)


def link(data: bytes) -> str:
    """Link a program with the file in place of a library: bind and relocate everything."""
    try:
        Linker(_WithReplacement(data), _CONFIG, lambda address: address).link(HOST)
    except ElfError:
        return "ElfError"
    except LinkError:
        return "LinkError"
    return "accepted"


def cache(data: bytes) -> str:
    """Read an ld.so.cache."""
    found = LibraryCache(data)
    found.lookup("libc.so.6", ("x86-64-v2",))
    return "accepted" if found.entries() else "empty"


def execute(data: bytes) -> str:
    """Start a file as a program on the model, and run its first instructions.

    What the program does there is its own affair: exit status, signals, endless loops.
    """
    machine = Machine("32M", max_instructions=_INSTRUCTIONS, timeout=_SECONDS)
    with tempfile.NamedTemporaryFile(prefix="samepage-fuzz-") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o755)
        try:
            guest = machine.spawn([file.name], env={})
        except SamepageError:
            return "refused"
        try:
            machine.run(guest)
        except SamepageError:
            return "stopped"
    return "ended"


TARGETS = {"read": read_everything, "link": link, "cache": cache, "exec": execute}
