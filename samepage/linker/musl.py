"""musl's loader: how it finds libraries, and what it writes when it does not.

It binds everything at once, looks at no versions but to pass hidden definitions over, and has
no IFUNC. The search is LD_LIBRARY_PATH, then the DT_RUNPATH or DT_RPATH of the needing object
and of those that needed it, then the directories of /etc/ld-musl-x86_64.path. Many names always
mean libc itself. Source: `load_library`, `fixup_rpath` in ldso/dynlink.c of musl 1.2.3.
"""

import re
from collections.abc import Iterator

from samepage.elf.dynamic import Tag
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.maps import LinkMap
from samepage.linker.rules import HOST, LdsoRules, rules_for
from samepage.linker.search import LinkerConfig, Search
from samepage.records import replace

PATH_FILE = "/etc/ld-musl-x86_64.path"
_DEFAULT_PATH = "/lib:/usr/local/lib:/usr/lib"
_LIBC_NAMES = re.compile(r"lib(c|pthread|rt|m|dl|util|xnet)\..*")


MUSL: LdsoRules = replace(
    rules_for(HOST),
    libc="musl",
    hwcaps_subdirectories=False,
    legacy_hwcaps=False,
    refuses_indirect_access=False,
    warns_of_protected=False,
    asserts_versions=False,
)


class MuslSearch(Search):
    """`load_library`: the environment's path, those of the needing objects, musl's own."""

    def _candidates(
        self, name: str, loader: LinkMap | None, program: LinkMap | None
    ) -> Iterator[tuple[str, str]]:
        yield from self._in(name, self._environment_path(loader), "LD_LIBRARY_PATH")
        link = loader
        while link is not None:
            has_runpath = link.object.dynamic.get(Tag.RUNPATH) is not None
            path = self._run_path(link, Tag.RUNPATH if has_runpath else Tag.RPATH)
            yield from self._in(name, path, f"run path of {link.name}")
            link = link.loader
        yield from self._in(name, list(self._config.directories), "default directory")


class MuslNames(dict[str, LinkMap]):
    """The names of loaded objects; many of them mean libc, whatever files there are."""

    def __init__(self, libc: LinkMap) -> None:
        super().__init__()
        self._libc = libc

    def get(self, name: str, default: LinkMap | None = None) -> LinkMap | None:  # type: ignore[override]
        if _LIBC_NAMES.fullmatch(name):
            return self._libc
        return super().get(name, default)


def is_musl(interpreter: str | None) -> bool:
    """Whether a program's interpreter is musl's."""
    return interpreter is not None and "/ld-musl-" in interpreter


def configure(text: bytes | None, config: LinkerConfig) -> LinkerConfig:
    """What musl takes from its own file (`PATH_FILE`, with this text) in place of ld.so's."""
    path = _DEFAULT_PATH if text is None else text.decode("utf-8", "surrogateescape")
    directories = [part.rstrip("/") + "/" for part in re.split("[:\n]", path) if part]
    return replace(
        config,
        directories=tuple(directories),
        cache_path="",
        preload_file="",
        capabilities=HardwareCapabilities((), "", ()),
        bind_now=True,
    )


_MISSING_LIBRARY = re.compile(r"(.*): cannot open shared object file: ([^,]*), needed by (.*)")
_MISSING_SYMBOL = re.compile(r"(.*): symbol lookup error: undefined symbol: ([^,]*).*")


def message(program: str, path: str, text: str) -> str:
    """The line that musl would have written; it calls the program by its argv[0]."""

    def user(name: str) -> str:
        return program if name == path else name

    library = _MISSING_LIBRARY.fullmatch(text)
    if library is not None:
        name, reason, needing = library.groups()
        return f"Error loading shared library {name}: {reason} (needed by {user(needing)})"
    symbol = _MISSING_SYMBOL.fullmatch(text)
    if symbol is not None:
        return f"Error relocating {user(symbol[1])}: {symbol[2]}: symbol not found"
    return f"{program}: {text}"
