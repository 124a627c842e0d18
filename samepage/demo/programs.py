"""Which programs the story is about: two that this system has, and a library of both.

The pairs are preferences only. Each program's DT_NEEDED and ld.so's cache decide whether a
pair really shares a library here, and the library's and the program's symbol tables which
of its functions the program may call. The first pair is of coreutils, which every Debian
has, and shares more than the C library: GMP, for numbers beyond 64 bits.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from samepage.abi.elf import SHN_UNDEF, STT_FUNC
from samepage.demo.evidence import Library
from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.lab.environment import ENVIRONMENT
from samepage.linker.cache import LibraryCache
from samepage.linker.search import DEFAULT_DIRECTORIES

_PAIRS = (
    (("factor", "8727963568087712425891397479476727340041449"), ("expr", str(10**30), "+", "1")),
    (("ls", "-Z", "/"), ("stat", "-c%C", "/")),
    (("sort", "/dev/null"), ("uname", "-s")),
    (("cat", "/dev/null"), ("echo", "x")),
)


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: `path` for execve, and the words that a reader would type."""

    path: str
    argv: Sequence[str]

    @property
    def command(self) -> list[str]:
        """The words that the program gets: it is called by its path."""
        return [self.path, *self.argv[1:]]


_STARTS = ("__libc_start_main", "__libc_start_call_main")
"""What `_start` calls: of the C library, but before the program's own code."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Two programs, the library, and by address in the library the functions of it that
    the first program may call. `about` is a note for the reader."""

    library: Library
    first: Program
    second: Program
    calls: dict[int, str]
    about: str = ""


def choose() -> Choice:
    """The first pair that this system has. Raises `SamepageError` if it has none."""
    for words in _PAIRS:
        choice = _try(words[0], words[1])
        if choice is not None:
            return choice
    names = ", ".join(f"{first[0]} and {second[0]}" for first, second in _PAIRS)
    raise SamepageError(
        f"found no two dynamically linked programs with a library in common (tried {names}); "
        "run `samepage run PROGRAM ::: PROGRAM` with two of yours"
    )


def describe(path: str) -> Library:
    """The identity of a library's file."""
    status = os.stat(path)
    return Library(path, status.st_dev, status.st_ino, (status.st_size + 4095) // 4096)


def imported_functions(program: str, library: str) -> dict[int, str]:
    """Functions that `library` defines and `program` asks for, by their address in it.

    Raises `ElfError` or `OSError` if one of them cannot be read.
    """
    wanted = {name for name, index, _, _ in _symbols(program) if index == SHN_UNDEF}
    return {
        address: name
        for name, index, kind, address in _symbols(library)
        if index != SHN_UNDEF and kind == STT_FUNC and name in wanted and name not in _STARTS
    }


def _symbols(path: str) -> list[tuple[str, int, int, int]]:
    """Name, section, type and value of each dynamic symbol."""
    file = DynamicObject.open(path)
    table = file.symbols
    columns = (table[name].tolist() for name in ("st_name", "st_shndx", "st_info", "st_value"))
    return [
        (file.strings.get(name), index, info & 15, value)
        for name, index, info, value in zip(*columns, strict=True)
    ]


def _try(first: tuple[str, ...], second: tuple[str, ...]) -> Choice | None:
    paths = [shutil.which(words[0], path=ENVIRONMENT["PATH"]) for words in (first, second)]
    if paths[0] is None or paths[1] is None:
        return None
    try:
        needed = [DynamicObject.open(path).needed for path in paths if path is not None]
        # A library that is not everybody's is the better example.
        common = sorted(set(needed[0]) & set(needed[1]), key=lambda name: name.startswith("libc."))
        for name in common:
            library = _find(name)
            if library is None:
                continue
            calls = imported_functions(paths[0], library)
            if calls and imported_functions(paths[1], library):
                programs = [Program(p, w) for p, w in zip(paths, (first, second), strict=True) if p]
                return Choice(describe(library), programs[0], programs[1], calls)
    except (ElfError, OSError):
        return None
    return None


def _find(soname: str) -> str | None:
    """The library's file as the kernel will name it: without symbolic links."""
    try:
        with open("/etc/ld.so.cache", "rb") as file:
            found = LibraryCache(file.read()).lookup(soname, ())
    except OSError:
        found = None
    candidates = [found] if found else [directory + soname for directory in DEFAULT_DIRECTORIES]
    return next((os.path.realpath(path) for path in candidates if os.path.exists(path)), None)
