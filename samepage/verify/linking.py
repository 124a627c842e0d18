"""Our linker against glibc's ld.so, for one program: objects, order, bindings, bytes.

ld.so's side comes from `samepage.trace.ldso`: what LD_DEBUG says, and the memory of the
process when everything is relocated. Ours is linked at the same addresses. Then every
byte of every writable and RELRO page of every object is compared. Words may only differ
by the rules of `Rule`: each is one thing that ld.so alone can know, and the words are
counted by rule. Everything else is unexplained.

IFUNC resolvers read the CPU's features from ld.so's variables, so these are copied from
the process before ours runs the resolvers: same features, and the choices must agree.
"""

import enum
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from samepage.abi.elf import SegmentFlags
from samepage.elf.layout import U64
from samepage.linker.ifunc import SandboxResolver
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE, OpenFile
from samepage.linker.relocate import Foreign
from samepage.linker.search import LinkerConfig
from samepage.trace.ldso import LdsoRun, observe


class Rule(enum.Enum):
    """Why a word may differ."""

    LINK_MAP = Foreign.LINK_MAP.value
    RESOLVER = Foreign.RESOLVER.value
    TLS_DESCRIPTOR = Foreign.TLS_DESCRIPTOR.value
    DEBUG = Foreign.DEBUG.value
    LDSO_STATE = "ld.so's own variables, which no relocation touches"
    COPY_OF_STATE = "the program's copy of a variable of ld.so"


@dataclass(frozen=True, slots=True)
class Difference:
    """A word that differs without a rule."""

    object: str
    address: int
    offset: int
    """Address in the file's terms."""
    theirs: int
    ours: int


@dataclass(slots=True)
class Comparison:
    """The result for one program in one binding mode.

    Lists hold what differs, at most a few of each; the counts are complete.
    """

    path: str
    bind_now: bool
    objects: int = 0
    bindings: int = 0
    bytes_compared: int = 0
    order_differences: list[str] = field(default_factory=list)
    binding_differences: list[str] = field(default_factory=list)
    by_rule: Counter[Rule] = field(default_factory=Counter)
    unexplained: list[Difference] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether there is no difference without a rule."""
        return not (self.order_differences or self.binding_differences or self.unexplained)


class _SamePlaces(ImageMemory):
    """Memory in which each object has the place that it has in the process."""

    def __init__(self, run: LdsoRun) -> None:
        self._run_starts = {file.identity: file.start for file in run.files}
        super().__init__(self._same_place)

    def _same_place(self, file: OpenFile | None, length: int, offset: int, anonymous: bool) -> int:
        assert file is not None
        return self._run_starts[file.identity]

    def munmap(self, address: int, length: int) -> None:
        """The ends of a reservation are given back; here they may be other objects' places."""


def compare(
    path: str, environment: Mapping[str, str] | None = None, *, bind_now: bool
) -> Comparison:
    """Compare the two linkers for the program at `path`.

    ld.so ignores LD_DEBUG in a set-user-ID program, so of such a program a copy without
    that bit is compared. Raises `SamepageError` if either linker cannot link it.
    """
    if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
        with tempfile.TemporaryDirectory(prefix="samepage-") as directory:
            copy = os.path.join(directory, os.path.basename(path))
            shutil.copy(path, copy)
            Path(copy).chmod(0o755)
            found = compare(copy, environment, bind_now=bind_now)
            found.path = path
            return found
    if environment is None:
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C"}
        for name in ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD"):
            if name in os.environ:
                environment[name] = os.environ[name]
    comparison = Comparison(path, bind_now)
    linked: list[tuple[Linker, LinkResult]] = []

    def relocated(run: LdsoRun) -> None:
        linker, result = _link_like(path, run, environment, bind_now)
        _compare_memory(comparison, run, linker, result)
        linked.append((linker, result))

    run = observe(path, environment, bind_now=bind_now, on_relocated=relocated)
    linker, result = linked[0]
    _compare_order(comparison, run, result)
    if bind_now:
        _compare_bindings(comparison, run, linker, result)
    return comparison


def _link_like(
    path: str, run: LdsoRun, environment: Mapping[str, str], bind_now: bool
) -> tuple[Linker, LinkResult]:
    """Link the program with each object at its address in the process."""
    config = replace(LinkerConfig.from_environment(dict(environment)), bind_now=bind_now)
    memory = _SamePlaces(run)
    resolver = SandboxResolver(memory, run.read, run.thread_pointer)
    linker = Linker(memory, config, resolver)
    linker.on_lazy = resolver.set_up_lazy_plt
    result = linker.load(path)
    linker.bind(result)
    linker.bootstrap(result)
    interpreter = linker.loader.interpreter
    if interpreter is not None:
        # What resolvers do to ld.so's variables is in the process's state already.
        resolver.frozen = (interpreter.start, interpreter.end)
        _copy_state(run, memory, interpreter, result.relocated[interpreter].addresses())
    linker.relocate(result)
    return linker, result


def _copy_state(run: LdsoRun, memory: ImageMemory, link: LinkMap, relocated: U64) -> None:
    """Give our ld.so the variables of the running one, but no word that is relocated."""
    for start, end in _writable_ranges(link):
        addresses = np.arange(start, end, 8, dtype=np.uint64)
        words = np.frombuffer(run.read(start, end - start), np.uint64)
        state = ~np.isin(addresses, relocated)
        memory.write_words(start, 8 * np.flatnonzero(state), words[state])


def _writable_ranges(link: LinkMap) -> list[tuple[int, int]]:
    """The pages of an object's writable segments; RELRO is a part of them."""
    return [
        ((link.base + load.vaddr) & -PAGE, (link.base + load.vaddr + load.memsz + PAGE - 1) & -PAGE)
        for load in link.object.elf.loads
        if load.flags & SegmentFlags.W
    ]


def _compare_memory(
    comparison: Comparison, run: LdsoRun, linker: Linker, result: LinkResult
) -> None:
    interpreter = linker.loader.interpreter
    for link in result.maps:
        for start, end in _writable_ranges(link):
            theirs = np.frombuffer(run.read(start, end - start), np.uint64)
            ours = np.frombuffer(linker.memory.read(start, end - start), np.uint64)
            comparison.bytes_compared += end - start
            which = np.flatnonzero(theirs != ours)
            addresses = which.astype(np.uint64) * np.uint64(8) + np.uint64(start)
            for index, address in zip(which.tolist(), addresses.tolist(), strict=True):
                rule = _rule(address, link, result)
                if rule is not None:
                    comparison.by_rule[rule] += 1
                else:
                    comparison.unexplained.append(
                        Difference(
                            link.name,
                            address,
                            address - link.base,
                            int(theirs[index]),
                            int(ours[index]),
                        )
                    )
        if link is interpreter:
            comparison.by_rule[Rule.LDSO_STATE] += _own_state(link, run, result)


def _rule(address: int, link: LinkMap, result: LinkResult) -> Rule | None:
    foreign = result.relocated[link].foreign.get(address)
    return Rule[foreign.name] if foreign is not None and foreign is not Foreign.IFUNC else None


def _own_state(link: LinkMap, run: LdsoRun, result: LinkResult) -> int:
    """The words of ld.so that differ from its file and that no relocation stores."""
    stored = result.relocated[link].addresses()
    count = 0
    for load in link.object.elf.loads:
        if not load.flags & SegmentFlags.W:
            continue
        start = (link.base + load.vaddr) & -8
        length = (load.memsz + 15) & -8
        now = np.frombuffer(run.read(start, length), np.uint64)
        initial = np.zeros(length, np.uint8)
        content = link.object.elf.data[load.offset : load.offset + load.filesz]
        initial[link.base + load.vaddr - start :][: len(content)] = content
        changed: U64 = np.flatnonzero(now != initial.view(np.uint64)).astype(np.uint64)
        changed = changed * np.uint64(8) + np.uint64(start)
        count += len(np.setdiff1d(changed, stored))
    return count


_LOADED = re.compile(r"file=(\S+) \[\d+\];  generating link map$")
_SCOPE = re.compile(r" scope \d+: (.*)$")
_INIT = re.compile(r"calling init: (.*)$")
_BINDING = re.compile(
    r"binding file (.*) \[\d+\] to (.*) \[\d+\]: (normal|protected) symbol `(.*)'"
    r"(?: \[(.*)\])?$"
)


def _compare_order(comparison: Comparison, run: LdsoRun, result: LinkResult) -> None:
    """Load order, search order and constructor order."""
    comparison.objects = len(result.search_list)
    loaded = [match[1] for line in run.debug if (match := _LOADED.match(line))]
    program, interpreter = result.maps[0], result.maps[1]
    mine = [link.requested for link in result.maps if link not in (program, interpreter)]
    _differ(comparison.order_differences, "load order", loaded, mine)
    scopes = [match[1].split(" ") for line in run.debug if (match := _SCOPE.match(line))]
    names = [link.name for link in result.search_list]
    _differ(comparison.order_differences, "search list", scopes[0] if scopes else [], names)
    inits = [match[1] for line in run.debug if (match := _INIT.match(line))]
    # The program's own constructors are libc's business, after the entry point.
    wanted = [link.name for link in result.init_order if link is not program]
    _differ(comparison.order_differences, "constructors", inits, wanted)


def _differ(differences: list[str], what: str, theirs: list[str], ours: list[str]) -> None:
    if theirs == ours:
        return
    for index in range(max(len(theirs), len(ours))):
        left = theirs[index] if index < len(theirs) else "nothing"
        right = ours[index] if index < len(ours) else "nothing"
        if left != right:
            differences.append(f"{what}: at {index} ld.so has {left}, samepage has {right}")
            return


def _compare_bindings(
    comparison: Comparison, run: LdsoRun, linker: Linker, result: LinkResult
) -> None:
    # What comes later are constructors that call dlsym.
    matches = (_BINDING.match(line) for line in run.debug[: run.relocation_lines])
    theirs: set[tuple[str, ...]] = {match.groups("") for match in matches if match}
    theirs = {entry for entry in theirs if not entry[0].startswith("linux-vdso")}
    ours: set[tuple[str, ...]] = set()
    assert linker.binder is not None
    for link, references in result.references.items():
        for binding in linker.binder.explain(link, references):
            if binding.definer is not None:
                ours.add(
                    (
                        binding.user.name,
                        binding.definer.name,
                        binding.kind,
                        binding.symbol,
                        binding.version,
                    )
                )
    ours |= set(_malloc_bindings(linker, result))
    comparison.bindings = len(ours)
    for entry in sorted(theirs - ours):
        comparison.binding_differences.append(f"only ld.so: {_line(entry)}")
    for entry in sorted(ours - theirs):
        comparison.binding_differences.append(f"only samepage: {_line(entry)}")


_GLIBC_2_2_5 = ("GLIBC_2.2.5", 0x09691A75)


def _malloc_bindings(linker: Linker, result: LinkResult) -> Iterator[tuple[str, ...]]:
    """ld.so's own lookups: it goes over to the program's malloc (`__rtld_malloc_init_real`)."""
    program = result.maps[0]
    if linker.loader.interpreter not in result.search_list or linker.binder is None:
        return
    for name in ("calloc", "free", "malloc", "realloc"):
        found = linker.binder.find(name, program.scopes, _GLIBC_2_2_5)
        if found is not None:
            yield (program.name, found[0].name, "normal", name, _GLIBC_2_2_5[0])


def _line(entry: tuple[str, ...]) -> str:
    user, definer, kind, symbol, version = entry
    return f"{user} to {definer}: {kind} symbol {symbol} [{version}]"
