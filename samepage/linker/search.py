"""Where a library's name leads: the search of ld.so.

A name with a slash is a path. Any other is looked for in this order, and the first file
that is an ELF object of the right class and machine wins:

1. DT_RPATH of the object that needs it, then of that object's loader, and so on up to
   the program, unless the object that needs it has DT_RUNPATH;
2. LD_LIBRARY_PATH;
3. DT_RUNPATH of the object that needs it;
4. /etc/ld.so.cache, without what lies in the default directories if DF_1_NODEFLIB;
5. the default directories, unless DF_1_NODEFLIB.

In each directory the subdirectories for hardware capabilities come first. A directory
that turns out not to exist is not tried again. In secure mode (a set-user-ID program)
there is no LD_LIBRARY_PATH, and $ORIGIN is only followed into a default directory.
Sources: `_dl_map_object`, `open_path`, `fillin_rpath`, `_dl_dst_substitute` of glibc.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from samepage.elf.dynamic import DynamicFlags1, Tag
from samepage.elf.header import ElfError, ElfMachine, ElfType
from samepage.linker.cache import LibraryCache
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import Memory, OpenFile

DEFAULT_DIRECTORIES = (
    "/lib/x86_64-linux-gnu/",
    "/usr/lib/x86_64-linux-gnu/",
    "/lib/",
    "/usr/lib/",
)
"""Debian's ld.so is built with these."""


@dataclass(frozen=True, slots=True)
class LinkerConfig:
    """What ld.so takes from its environment, its build and its CPU.

    `library_path` and `preload` are the values of LD_LIBRARY_PATH and LD_PRELOAD;
    `lib` is what $LIB stands for; `secure` is AT_SECURE; `bind_now` is LD_BIND_NOW.
    """

    library_path: str = ""
    preload: str = ""
    bind_now: bool = False
    secure: bool = False
    capabilities: HardwareCapabilities = field(default_factory=HardwareCapabilities.host)
    lib: str = "lib/x86_64-linux-gnu"
    directories: tuple[str, ...] = DEFAULT_DIRECTORIES
    cache_path: str = "/etc/ld.so.cache"
    preload_file: str = "/etc/ld.so.preload"
    static_tls_surplus: int = 1664
    """Static TLS for libraries that dlopen loads, from the glibc.rtld.* tunables."""

    @classmethod
    def from_environment(cls, environment: dict[str, str] | None = None) -> "LinkerConfig":
        """What a program gets that is started with `environment` (by default, ours)."""
        if environment is None:
            environment = dict(os.environ)
        return cls(
            library_path=environment.get("LD_LIBRARY_PATH", ""),
            preload=environment.get("LD_PRELOAD", ""),
            bind_now=bool(environment.get("LD_BIND_NOW", "")),
        )


@dataclass(slots=True)
class Attempt:
    """One file that the search tried: `source` says why there, `outcome` what came of it."""

    name: str
    path: str
    source: str
    outcome: str


class Search:
    """Finds libraries by name. `trail` records every file that was tried."""

    def __init__(self, memory: Memory, config: LinkerConfig) -> None:
        self._memory = memory
        self._config = config
        self._subdirectories = config.capabilities.subdirectories()
        self._cache: LibraryCache | None = None
        self._missing: set[str] = set()
        self._existing: set[str] = set()
        self._paths: dict[tuple[int, Tag], list[str]] = {}
        self._library_path: list[str] | None = None
        self.trail: list[Attempt] = []

    def find(self, name: str, loader: LinkMap | None, program: LinkMap | None) -> OpenFile:
        """Open the file that `name` leads to when `loader` needs it.

        Raises `LinkError` if there is none, and `ElfError` for a file that is one of
        the right machine but cannot be read, as ld.so ends with it too.
        """
        if "/" in name:
            path = self.expand(name, loader)
            file = self._try(name, path, "path") if path else None
        else:
            file = None
            for path, source in self._candidates(name, loader, program):
                file = self._try(name, path, source)
                if file is not None:
                    break
        if file is None:
            needed_by = f", needed by {loader.name}" if loader and loader.name else ""
            raise LinkError(
                f"{name}: cannot open shared object file: No such file or directory{needed_by}"
            )
        return file

    def _candidates(
        self, name: str, loader: LinkMap | None, program: LinkMap | None
    ) -> Iterator[tuple[str, str]]:
        """The paths to try and why, in order."""
        has_runpath = loader is not None and loader.object.dynamic.get(Tag.RUNPATH) is not None
        if not has_runpath:
            seen_program = False
            link = loader
            while link is not None:
                yield from self._in(name, self._run_path(link, Tag.RPATH), f"RPATH of {link.name}")
                seen_program |= link is program
                link = link.loader
            if program is not None and not seen_program and program.kind != MapKind.LOADED:
                rpath = self._run_path(program, Tag.RPATH)
                yield from self._in(name, rpath, f"RPATH of {program.name}")
        yield from self._in(name, self._environment_path(loader), "LD_LIBRARY_PATH")
        if has_runpath:
            assert loader is not None
            runpath = self._run_path(loader, Tag.RUNPATH)
            yield from self._in(name, runpath, f"RUNPATH of {loader.name}")
        asking = loader or program
        no_default = asking is not None and bool(
            asking.object.dynamic.flags_1 & DynamicFlags1.NODEFLIB
        )
        cached = self._cached(name)
        if cached and not (no_default and cached.startswith(self._config.directories)):
            yield cached, self._config.cache_path
        if not no_default:
            yield from self._in(name, list(self._config.directories), "default directory")

    def _cached(self, name: str) -> str | None:
        if self._cache is None:
            self._cache = LibraryCache(self._memory.read_text(self._config.cache_path))
        return self._cache.lookup(name, self._config.capabilities.levels)

    def _in(self, name: str, directories: list[str], source: str) -> Iterator[tuple[str, str]]:
        """The file `name` in the directories and their subdirectories that may exist."""
        for directory in directories:
            for subdirectory in self._subdirectories:
                full = directory + subdirectory
                if full in self._missing:
                    continue
                yield full + name, source
                if full not in self._existing:
                    # Only a failed attempt gets here, and only then ld.so looks.
                    known = self._existing if self._memory.is_directory(full) else self._missing
                    known.add(full)

    def _try(self, name: str, path: str, source: str) -> OpenFile | None:
        """Open `path` if it is an object for this machine (`open_verify`)."""
        try:
            file = self._memory.open(path)
        except OSError as error:
            self.trail.append(Attempt(name, path, source, error.strerror or "cannot be opened"))
            return None
        elf = file.object.elf
        if elf.layout.bits != 64 or elf.machine != ElfMachine.X86_64:
            self._memory.close(file)
            self.trail.append(Attempt(name, path, source, "of another machine"))
            return None
        if elf.type not in (ElfType.DYN, ElfType.EXEC):
            raise ElfError(f"{path}: only ET_DYN and ET_EXEC can be loaded")
        self.trail.append(Attempt(name, path, source, "found"))
        return file

    def _environment_path(self, loader: LinkMap | None) -> list[str]:
        if self._library_path is None:
            value = "" if self._config.secure else self._config.library_path
            self._library_path = self._split(value.replace(";", ":"), loader) if value else []
        return self._library_path

    def _run_path(self, link: LinkMap, tag: Tag) -> list[str]:
        """The directories of DT_RPATH or DT_RUNPATH. DT_RUNPATH hides DT_RPATH."""
        key = (id(link), tag)
        if key not in self._paths:
            value = link.object.string(tag)
            if tag == Tag.RPATH and link.object.dynamic.get(Tag.RUNPATH) is not None:
                value = None
            self._paths[key] = self._split(value, link) if value else []
        return self._paths[key]

    def _split(self, value: str, link: LinkMap | None) -> list[str]:
        """`fillin_rpath`: a list of directories, each with a final slash, none twice."""
        result: list[str] = []
        for part in value.split(":"):
            directory = self.expand(part, link) if part else "."
            if not directory:
                continue  # an unknown or forbidden $TOKEN takes the whole element away
            directory = directory.rstrip("/") + "/"
            if directory not in result:
                result.append(directory)
        return result

    def expand(self, text: str, link: LinkMap | None) -> str:
        """Replace $ORIGIN, $LIB and $PLATFORM (`_dl_dst_substitute`); "" if not possible."""
        if "$" not in text:
            return text
        origin_used = False
        result, at = "", 0
        while at < len(text):
            token, end = _token(text, at) if text[at] == "$" else ("", at)
            if token == "ORIGIN":
                origin = self._origin(link)
                if not origin or (self._config.secure and at > 0):
                    return ""
                result += origin
                origin_used = True
            elif token == "PLATFORM":
                result += self._config.capabilities.platform
            elif token == "LIB":
                result += self._config.lib
            else:
                result += text[at]
                end = at + 1
            at = end
        if origin_used and self._config.secure and not self._is_trusted(result):
            return ""
        return result

    def _origin(self, link: LinkMap | None) -> str:
        """The directory of the object, without symbolic links for the program itself."""
        if link is None or not link.name:
            return ""
        path = link.origin or os.path.join(os.getcwd(), link.name)
        return os.path.dirname(path) or "/"

    def _is_trusted(self, path: str) -> bool:
        """`is_trusted_path_normalize`: in or below a default directory."""
        normal = os.path.normpath(path) + "/"
        return normal.startswith(self._config.directories)


def _token(text: str, at: int) -> tuple[str, int]:
    """The token after the `$` at `at`, and where the text goes on; "" if there is none.

    `$NAME` must not be followed by a letter, digit or underscore; `${NAME}` stands alone.
    """
    for token in ("ORIGIN", "PLATFORM", "LIB"):
        if text.startswith("{" + token + "}", at + 1):
            return token, at + len(token) + 3
        end = at + 1 + len(token)
        if text.startswith(token, at + 1):
            follows = text[end : end + 1]
            if not (follows.isalnum() or follows == "_"):
                return token, end
    return "", at
