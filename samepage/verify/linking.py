"""Our linker against glibc's ld.so, for one program: objects, order, bindings, bytes.

ld.so's side comes from `samepage.trace.ldso`: what LD_DEBUG prints, and the memory of the
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
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from samepage.abi.elf import SegmentFlags
from samepage.elf.header import ElfError
from samepage.elf.layout import U64
from samepage.elf.versions import GLIBC_2_2_5
from samepage.errors import SamepageError
from samepage.linker.errors import LinkError
from samepage.linker.ifunc import SandboxResolver
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE, OpenFile
from samepage.linker.messages import is_same_end, warning_line
from samepage.linker.relocate import Foreign
from samepage.linker.search import LinkerConfig
from samepage.records import field, record, replace
from samepage.trace.ldso import TIMEOUT, EndedInLdso, LdsoRun, observe

_WORD = (1 << 64) - 1


class Rule(enum.Enum):
    """Why a word may differ."""

    LINK_MAP = Foreign.LINK_MAP.value
    RESOLVER = Foreign.RESOLVER.value
    TLS_DESCRIPTOR = Foreign.TLS_DESCRIPTOR.value
    DEBUG = Foreign.DEBUG.value
    LDSO_STATE = "ld.so's own variables, which no relocation touches"
    COPY_OF_STATE = "the program's copy of a variable of ld.so"


@record(frozen=True)
class Difference:
    """A word that differs without a rule."""

    object: str
    address: int
    offset: int
    """Address in the file's terms."""
    theirs: int
    ours: int


@record
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
    theirs: str = ""
    """Why ld.so does not start the program: its last line, or the signal; "" if it does."""
    ours: str = ""
    """Why our linker does not link it."""
    same_end: bool = True
    """Whether the two are the same reason."""
    by_rule: Counter[Rule] = field(default_factory=Counter)
    unexplained: list[Difference] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether there is no difference without a rule: of two linkers that both refuse the
        program, whether they do so for the same reason.
        """
        return self.same_end and not (
            self.order_differences or self.binding_differences or self.unexplained
        )


class _SamePlaces:
    """A `Placer`: each object has the place that it has in the process."""

    def __init__(self, run: LdsoRun) -> None:
        self._starts = {file.identity: file.start for file in run.files}

    def __call__(self, file: OpenFile | None, length: int, offset: int, anonymous: bool) -> int:
        assert file is not None
        loads = file.object.elf.loads
        # The first segment in the table, which is placed, may not be the lowest.
        first = (loads[0].vaddr & -PAGE) - (min(load.vaddr for load in loads) & -PAGE)
        return self._starts[file.identity] + first

    def taken(self, start: int, end: int) -> None:
        """Where else something lies is the process's business."""


class _SameImage(ImageMemory):
    """The process's memory, as our linker makes it."""

    def munmap(self, address: int, length: int) -> None:
        """The ends of a reservation are given back; here they may be other objects' places."""


def compare(
    path: str,
    environment: Mapping[str, str] | None = None,
    *,
    bind_now: bool,
    timeout: float = TIMEOUT,
) -> Comparison:
    """Compare the two linkers for the program at `path`, with `timeout` in seconds for ld.so.

    A set-user-ID program runs without the rights of its file (`PR_SET_NO_NEW_PRIVS`): it is
    the same file at the same place, but AT_SECURE is 0. Raises `SamepageError` if the program
    cannot be traced, or does not get to its entry point in time.
    """
    if environment is None:
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C"}
        environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    comparison = Comparison(path, bind_now)
    config = replace(LinkerConfig.from_environment(dict(environment)), bind_now=bind_now)
    linked: list[tuple[Linker, LinkResult]] = []

    def relocated(run: LdsoRun) -> None:
        try:
            linker, result = _link_like(path, run, config)
        except (LinkError, ElfError) as error:
            comparison.ours, comparison.same_end = error.message, False
            return
        _compare_memory(comparison, run, linker, result)
        linked.append((linker, result))

    try:
        run = observe(path, environment, bind_now=bind_now, on_relocated=relocated, timeout=timeout)
    except EndedInLdso as ended:
        _compare_ends(comparison, ended, config)
        return comparison
    if linked:
        linker, result = linked[0]
        _compare_order(comparison, run, result)
        path = result.maps[0].name
        ours = [warning_line(path, path, text, config) for text in result.warnings]
        _differ(comparison.order_differences, "warnings", run.warnings, ours)
        if bind_now:
            _compare_bindings(comparison, run, linker, result)
    return comparison


PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES")


def _compare_ends(comparison: Comparison, ended: EndedInLdso, config: LinkerConfig) -> None:
    """ld.so has refused the program: link it in a picture, where it should be refused too."""
    path = comparison.path
    comparison.theirs = ended.reason
    memory = ImageMemory()
    resolver = SandboxResolver(memory)
    linker = Linker(memory, config, resolver)
    linker.on_lazy = resolver.set_up_lazy_plt
    try:
        linker.link(path)
    except (LinkError, ElfError) as error:
        comparison.ours = error.message
        comparison.same_end = is_same_end(ended.reason, path, path, error)
    else:
        comparison.same_end = False


def _link_like(path: str, run: LdsoRun, config: LinkerConfig) -> tuple[Linker, LinkResult]:
    """Link the program with each object at its address in the process."""
    memory = _SameImage(_SamePlaces(run))
    resolver = SandboxResolver(memory, run.read, run.thread_pointer)
    linker = Linker(memory, config, resolver)
    linker.on_lazy = resolver.set_up_lazy_plt
    result = linker.load(path)
    for name in linker.loader.auditors:
        raise SamepageError(f"{path}: what the auditor {name} does is no subject of --check")
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
        (
            (link.base + load.vaddr) & -PAGE,
            (link.base + load.vaddr + max(load.memsz, load.filesz) + PAGE - 1) & -PAGE,
        )
        for load in link.object.elf.loads
        if load.flags & SegmentFlags.W
    ]


def _compare_memory(
    comparison: Comparison, run: LdsoRun, linker: Linker, result: LinkResult
) -> None:
    interpreter = linker.loader.interpreter
    for link in result.maps:
        stored = result.relocated[link].addresses()
        for start, end in _writable_ranges(link):
            comparison.bytes_compared += end - start
            for low, high in _compared(start, end, link, run, stored):
                theirs = np.frombuffer(run.read(low, high - low), np.uint64)
                ours = np.frombuffer(linker.memory.read(low, high - low), np.uint64)
                _compare_words(comparison, low, theirs, ours, link, result)
        if link is interpreter:
            comparison.by_rule[Rule.LDSO_STATE] += _own_state(link, run, result)


def _compared(
    start: int, end: int, link: LinkMap, run: LdsoRun, stored: U64
) -> Iterator[tuple[int, int]]:
    """The parts of a range in which there can be a difference.

    Beyond the file's pages all is zero on both sides but for the pages that one of them has
    written to: a .bss of gigabytes is no reason to read gigabytes.
    """
    loads = link.object.elf.loads
    of_file = [
        link.base + load.vaddr + load.filesz for load in loads if load.flags & SegmentFlags.W
    ]
    split = min([(at + PAGE - 1) & -PAGE for at in of_file if start < at <= end], default=start)
    if split > start:
        yield start, split
    if split < end:
        inside = stored[(stored >= np.uint64(max(split, 7) - 7)) & (stored < np.uint64(end))]
        # A word may lie in two pages.
        touched = np.concatenate([inside, inside + np.uint64(7)]) & np.uint64(-PAGE & _WORD)
        pages = {split + offset for offset in run.present(split, end).tolist()}
        pages |= {page for page in touched.tolist() if split <= page < end}
        for page in sorted(pages):
            yield page, page + PAGE


def _compare_words(
    comparison: Comparison,
    start: int,
    theirs: U64,
    ours: U64,
    link: LinkMap,
    result: LinkResult,
) -> None:
    which = np.flatnonzero(theirs != ours)
    addresses = which.astype(np.uint64) * np.uint64(8) + np.uint64(start)
    for index, address in zip(which.tolist(), addresses.tolist(), strict=True):
        rule = _rule(address, link, result)
        if rule is not None:
            comparison.by_rule[rule] += 1
            continue
        words = int(theirs[index]), int(ours[index])
        comparison.unexplained.append(Difference(link.name, address, address - link.base, *words))


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


def _malloc_bindings(linker: Linker, result: LinkResult) -> Iterator[tuple[str, ...]]:
    """ld.so's own lookups: it goes over to the program's malloc (`__rtld_malloc_init_real`)."""
    program = result.maps[0]
    if linker.loader.interpreter not in result.search_list or linker.binder is None:
        return
    for name in ("calloc", "free", "malloc", "realloc"):
        found = linker.binder.find(name, program.scopes, GLIBC_2_2_5)
        if found is not None:
            yield (program.name, found[0].name, "normal", name, GLIBC_2_2_5[0])


def _line(entry: tuple[str, ...]) -> str:
    user, definer, kind, symbol, version = entry
    return f"{user} to {definer}: {kind} symbol {symbol} [{version}]"
