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

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from samepage.abi.elf import EI_NIDENT, DynamicFlags1, ElfMachine, ElfType
from samepage.elf.dynamic import Tag
from samepage.elf.file import ElfFile
from samepage.elf.machines import MACHINES
from samepage.linker.cache import LibraryCache, library_cache
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import Memory, OpenFile
from samepage.linker.rules import HOST, rules_for
from samepage.linker.tunables import parse_tunables
from samepage.records import field, record

DEFAULT_DIRECTORIES = (
    "/lib/x86_64-linux-gnu/",
    "/usr/lib/x86_64-linux-gnu/",
    "/lib/",
    "/usr/lib/",
)
"""Debian's ld.so is built with these."""

_EV_CURRENT = 1
_OSABI_SYSV, _OSABI_GNU = 0, 3
_ABI_MAX = 4
"""LIBC_ABI_MAX of glibc 2.36 on x86-64."""


def _working_directory() -> str:
    """Where we are; "" in a directory that has been removed, as there is no $ORIGIN then."""
    try:
        return os.getcwd()
    except OSError:
        return ""


@record(frozen=True)
class LinkerConfig:
    """What ld.so takes from its environment, its build and its CPU.

    `library_path` and `preload` are the values of LD_LIBRARY_PATH and LD_PRELOAD;
    `lib` is the value of $LIB; `cwd` is the working directory; `secure` is AT_SECURE;
    `bind_now` is LD_BIND_NOW.
    """

    library_path: str = ""
    preload: str = ""
    audit: str = ""
    """LD_AUDIT."""
    bind_now: bool = False
    secure: bool = False
    capabilities: HardwareCapabilities = field(default_factory=HardwareCapabilities.host)
    lib: str = "lib/x86_64-linux-gnu"
    cwd: str = field(default_factory=_working_directory)
    directories: tuple[str, ...] = DEFAULT_DIRECTORIES
    cache_path: str = "/etc/ld.so.cache"
    preload_file: str = "/etc/ld.so.preload"
    static_tls_surplus: int = 1664
    """Static TLS for libraries that dlopen loads, from the glibc.rtld.* tunables."""
    dynamic_sort: int = 2
    """glibc.rtld.dynamic_sort."""

    @classmethod
    def from_environment(
        cls, environment: dict[str, str] | None = None, *, secure: bool = False
    ) -> "LinkerConfig":
        """What a program gets that is started with `environment` (by default, ours)."""
        if environment is None:
            environment = dict(os.environ)
        tunables = parse_tunables("" if secure else environment.get("GLIBC_TUNABLES", ""))
        return cls(
            secure=secure,
            capabilities=HardwareCapabilities.host(tunables.masked),
            static_tls_surplus=tunables.static_tls_surplus,
            dynamic_sort=tunables.dynamic_sort,
            library_path=environment.get("LD_LIBRARY_PATH", ""),
            preload=environment.get("LD_PRELOAD", ""),
            audit=environment.get("LD_AUDIT", ""),
            bind_now=bool(environment.get("LD_BIND_NOW", "")),
        )


@record
class Attempt:
    """One file that the search tried: `source` is the reason for it, `outcome` the result."""

    name: str
    path: str
    source: str
    outcome: str


class Search:
    """Finds libraries by name. `trail` records every file that was tried."""

    def __init__(self, memory: Memory, config: LinkerConfig) -> None:
        self._memory = memory
        self._config = config
        self.rules = rules_for(HOST)
        self._cache: LibraryCache | None = None
        self._missing: set[tuple[int, str]] = set()
        self._existing: set[tuple[int, str]] = set()
        self._paths: dict[tuple[int, Tag], list[str]] = {}
        self._library_path: list[str] | None = None
        self._errno = errno.ENOENT
        """Why the last file that was tried could not be opened."""
        self._other_class = False
        self.trail: list[Attempt] = []
        self.passed_over: list[Attempt] = []
        """Rules that led nowhere, and why; `path` is what they would have led to, or ""."""

    def find(
        self,
        name: str,
        loader: LinkMap | None,
        program: LinkMap | None,
        preload: bool = False,
    ) -> OpenFile:
        """Open the file that `name` leads to when `loader` needs it, or as a preload: in secure
        mode only one that is itself set-user-ID counts, and ld.so.cache does not.

        Raises `LinkError` if there is none or it is a program, and `ElfError` for a file
        that cannot be a library of any machine: ld.so ends with it, too, and does not look
        further.
        """
        self._errno, self._other_class = errno.ENOENT, False
        if "/" in name:
            path = self.expand(name, loader)
            file = self._try(name, path, "path") if path else None
        else:
            file = None
            strict = preload and self._config.secure
            for path, source in self._candidates(name, loader, program):
                if strict and source == self._config.cache_path:
                    continue
                file = self._try(name, path, source)
                if file is not None and strict and not file.mode & stat.S_ISUID:
                    self._refuse(file, "not set-user-ID, in secure mode")
                    file = None
                if file is not None:
                    break
        if file is None:
            needed_by = f", needed by {loader.name}" if loader and loader.name else ""
            reason = f"cannot open shared object file: {os.strerror(self._errno)}"
            if self._other_class:
                reason = "wrong ELF class: ELFCLASS32"
            raise LinkError(f"{name}: {reason}{needed_by}")
        refusal = _no_library(file)
        if refusal:
            self._memory.close(file)
            raise LinkError(f"{name}: {refusal}")
        return file

    def _refuse(self, file: OpenFile, outcome: str) -> None:
        """Pass a file over that was found, as if it did not exist."""
        self._memory.close(file)
        self._errno = errno.ENOENT
        self.trail[-1].outcome = outcome

    def forget(self, links: Iterable[LinkMap]) -> None:
        """Forget the run paths of objects that are unmapped, and how they were found."""
        gone = {id(link) for link in links}
        self._paths = {key: paths for key, paths in self._paths.items() if key[0] not in gone}
        self.trail.clear()
        self.passed_over.clear()

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
        else:
            self._pass_over_rpaths(name, loader)
        if self._config.secure and self._config.library_path:
            self._pass_over(name, "", "LD_LIBRARY_PATH", "not used by a set-user-ID program")
        yield from self._in(name, self._environment_path(program), "LD_LIBRARY_PATH")
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
        elif cached:
            reason = "in a default directory, and who needs it has DF_1_NODEFLIB"
            self._pass_over(name, cached, self._config.cache_path, reason)
        elif self._config.cache_path:
            self._pass_over(name, "", self._config.cache_path, "has no entry for it")
        if not no_default:
            yield from self._in(name, list(self._config.directories), "default directory")
        else:
            self._pass_over(name, "", "default directory", "who needs it has DF_1_NODEFLIB")

    def _pass_over(self, name: str, path: str, source: str, reason: str) -> None:
        self.passed_over.append(Attempt(name, path, source, reason))

    def _pass_over_rpaths(self, name: str, loader: LinkMap | None) -> None:
        """Note the DT_RPATHs that would count without the DT_RUNPATH of `loader`."""
        link = loader
        while link is not None and loader is not None:
            if link.object.dynamic.get(Tag.RPATH) is not None:
                reason = f"not used, since {loader.name} has a RUNPATH"
                self._pass_over(name, "", f"RPATH of {link.name}", reason)
            link = link.loader

    def _cached(self, name: str) -> str | None:
        if self._cache is None:
            self._cache = library_cache(self._memory.read_text(self._config.cache_path))
        levels = self._config.capabilities.levels if self.rules.hwcaps_subdirectories else ()
        return self._cache.lookup(name, levels)

    def _in(self, name: str, directories: list[str], source: str) -> Iterator[tuple[str, str]]:
        """The file `name` in the directories and their subdirectories that may exist.

        A file that is there and cannot be opened, for another reason than that it must not
        be read, ends it.
        """
        subdirectories = self._config.capabilities.subdirectories(self.rules)
        passed_over = [errno.ENOENT, errno.EACCES]
        if self.rules.skips_no_directory:
            passed_over.append(errno.ENOTDIR)
        for directory in directories:
            any_exists = False
            # Two subdirectories may have one name (the platform is a capability, too): ld.so
            # does not notice, and tries a file in each.
            for place in enumerate(directory + subdirectory for subdirectory in subdirectories):
                _, full = place
                if place in self._missing:
                    continue
                yield full + name, source
                # Only a failed attempt gets here, and only then ld.so looks. A relative
                # directory may be another one next time, and always counts as existing.
                if place not in self._existing:
                    exists = not full.startswith("/") or self._memory.is_directory(full)
                    (self._existing if exists else self._missing).add(place)
                any_exists |= place in self._existing
            if any_exists and self._errno not in passed_over:
                return

    def _try(self, name: str, path: str, source: str) -> OpenFile | None:
        """Open `path` if it is an object for this machine (`open_verify`)."""
        try:
            file = self._memory.open(path)
        except OSError as error:
            self._errno = error.errno or errno.ENOENT
            self.trail.append(Attempt(name, path, source, error.strerror or "cannot be opened"))
            return None
        elf = file.object.elf
        other_class = elf.layout.bits != 64
        invalid = "" if other_class else _invalid_header(elf)
        if not invalid and (other_class or elf.machine != ElfMachine.X86_64):
            self._memory.close(file)
            self._errno = errno.ENOENT
            self._other_class |= other_class
            machine = MACHINES[elf.machine].name if elf.machine in MACHINES else "another machine"
            outcome = f"passed over: {elf.layout.bits} bits of {machine}, the program is x86-64"
            self.trail.append(Attempt(name, path, source, outcome))
            return None
        if not invalid and elf.type not in (ElfType.DYN, ElfType.EXEC):
            invalid = "only ET_DYN and ET_EXEC can be loaded"
        if invalid:
            self._memory.close(file)
            raise elf.error(invalid)
        self.trail.append(Attempt(name, path, source, "found"))
        return file

    def _environment_path(self, program: LinkMap | None) -> list[str]:
        """The directories of LD_LIBRARY_PATH, in which $ORIGIN is the program's directory."""
        if self._library_path is None:
            value = "" if self._config.secure else self._config.library_path
            self._library_path = self._split(value.replace(";", ":"), program) if value else []
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
        """`fillin_rpath`: a list of directories, each with a final slash, none twice.

        An empty element is the current directory, and does not show in the library's path.
        """
        result: dict[str, None] = {}
        for part in value.split(":"):
            directory = self.expand(part, link)
            if part:
                if not directory:
                    continue  # an unknown or forbidden $TOKEN takes the whole element away
                directory = directory.rstrip("/") + "/"
            result.setdefault(directory)
        return list(result)

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
                first = at == 0 and text[end : end + 1] in ("", "/")
                if not origin or (self._config.secure and not first):
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
        # Where the program lies, its user can choose, by a hard link; not where a library does.
        by_user = origin_used and link is not None and link.kind == MapKind.EXECUTABLE
        if by_user and self._config.secure and not self._is_trusted(result):
            return ""
        return result

    def _origin(self, link: LinkMap | None) -> str:
        """The directory of the object (`l_origin`), without symbolic links for the program."""
        if link is None or not link.name:
            return ""
        path = os.path.join(self._config.cwd, link.origin or link.name)
        return os.path.dirname(path) if path.startswith("/") else ""

    def _is_trusted(self, path: str) -> bool:
        """`is_trusted_path_normalize`: in or below a default directory."""
        normal = os.path.normpath(path) + "/"
        return normal.startswith(self._config.directories)


def _invalid_header(elf: ElfFile) -> str:
    """What `open_verify` finds wrong with an ELF header of the right class; "" if nothing."""
    ident = bytes(elf.buffer[:EI_NIDENT])
    osabi, abi_version = ident[7], ident[8]
    if ident[6] != _EV_CURRENT:
        return "ELF file version ident does not match current one"
    if osabi not in (_OSABI_SYSV, _OSABI_GNU):
        return "ELF file OS ABI invalid"
    if abi_version >= (_ABI_MAX if osabi == _OSABI_GNU else 1):
        return "ELF file ABI version invalid"
    if any(ident[9:]):
        return "nonzero padding in e_ident"
    if elf.version != _EV_CURRENT:
        return "ELF file version does not match current one"
    return ""


def _no_library(file: OpenFile) -> str:
    """Why `_dl_map_object_from_fd` does not load an object as a library; "" if it does.

    A program has addresses of its own, or relocations that no library may have.
    """
    found = file.object
    if found.elf.type == ElfType.EXEC:
        return "cannot dynamically load executable"
    if not len(found.dynamic.entries):
        return "object file has no dynamic section"
    if found.dynamic.flags_1 & DynamicFlags1.PIE:
        return "cannot dynamically load position-independent executable"
    return ""


def _token(text: str, at: int) -> tuple[str, int]:
    """The token after the `$` at `at`, and where the text continues; "" if there is none.

    `$NAME` must not be followed by a letter, digit or underscore.
    """
    for token in ("ORIGIN", "PLATFORM", "LIB"):
        if text.startswith("{" + token + "}", at + 1):
            return token, at + len(token) + 3
        end = at + 1 + len(token)
        if text.startswith(token, at + 1):
            follows = text[end : end + 1]
            if not ((follows.isascii() and follows.isalnum()) or follows == "_"):
                return token, end
    return "", at
