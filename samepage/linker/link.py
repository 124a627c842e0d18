"""The linker: from a program's path to a relocated image, in ld.so's order.

`Linker.link` is ld.so's `dl_main` as a list of steps. Each step's own module explains how it
is done; here is why it comes at its place.
"""

from collections.abc import Callable, Mapping

from samepage.abi.elf import ElfMachine
from samepage.linker.binding import Binder
from samepage.linker.errors import LinkError
from samepage.linker.load import Loader
from samepage.linker.maps import LinkMap
from samepage.linker.memory import Memory
from samepage.linker.order import constructor_order, sort_by_moving, sort_maps
from samepage.linker.protected import check_protected
from samepage.linker.references import Bindings, Entries, References
from samepage.linker.relocate import (
    Relocated,
    WritableText,
    adjust_dynamic,
    protect_relro,
    relocate_relative,
    set_up_lazy,
)
from samepage.linker.search import Attempt, LinkerConfig
from samepage.linker.symbolic import IfuncResolver, SymbolicRelocation
from samepage.linker.tls import TlsLayout, assign_modules, layout_static_tls
from samepage.linker.version_check import check_versions, missing_tables
from samepage.linker.versions import VersionNumbers
from samepage.records import field, record


@record
class LinkResult:
    """A linked program.

    `maps` are the objects in load order (`LinkMap.index`), `search_list` the global
    scope, `sorted` the same objects with each before those that it needs.
    """

    maps: list[LinkMap]
    search_list: list[LinkMap]
    sorted: list[LinkMap]
    tls: TlsLayout
    bindings: Bindings | None
    """The relocation entries of all objects and what they are bound to, once it is known."""
    relocated: dict[LinkMap, Relocated]
    trail: list[Attempt]
    passed_over: list[Attempt]
    """The rules of the search that led nowhere (`Search.passed_over`)."""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[tuple[LinkMap, str]] = field(default_factory=list)
    """Libraries that were not found: who needs which name."""
    undefined_later: list[tuple[LinkMap, str]] = field(default_factory=list)
    """Functions that lazy binding will not find when they are called first."""

    @property
    def entries(self) -> Mapping[LinkMap, Entries]:
        """The relocation entries of each object that has been bound."""
        return self.bindings.entries if self.bindings else {}

    @property
    def references(self) -> Mapping[LinkMap, References]:
        """What each of these objects refers to, and is bound to."""
        return self.bindings.references if self.bindings else {}

    @property
    def init_order(self) -> list[LinkMap]:
        """The objects in the order of their constructors: dependencies first, the program
        last; but one with DF_1_INITFIRST before all.
        """
        return constructor_order(self.sorted)


class Linker:
    """Links one program into `memory`.

    With `keep_going` a missing library, version or symbol is recorded in
    `LinkResult.errors` instead of ending the link, as `ldd` needs it.
    """

    def __init__(
        self,
        memory: Memory,
        config: LinkerConfig | None = None,
        resolve_ifunc: IfuncResolver | None = None,
        keep_going: bool = False,
        versions: VersionNumbers | None = None,
    ) -> None:
        """`versions` may be those of another link of the same files."""
        self.memory = memory
        self.loader = Loader(memory, config or LinkerConfig.from_environment())
        self.resolve_ifunc = resolve_ifunc
        self._keep_going = keep_going
        self._versions = versions
        self.errors: list[str] = []
        self._missing: list[tuple[LinkMap, str]] = []
        self.binder: Binder | None = None
        self.on_lazy: Callable[[LinkMap, LinkResult], None] | None = None
        """Called for each object that is bound lazily before it is relocated: from then on
        its PLT has to lead somewhere, since IFUNC resolvers may use it."""
        self.on_relocated: Callable[[LinkMap, LinkResult], None] | None = None
        """Called for each object before its RELRO range is protected: `Relocated.foreign`
        has the words that are the loader's to fill in."""

    @property
    def config(self) -> LinkerConfig:
        """The settings, with what the program's own loader makes of them."""
        return self.loader.config

    def load(self, path: str, origin: str | None = None) -> LinkResult:
        """Map the program and all its libraries; nothing is bound or relocated yet.

        `origin` is the program's path without symbolic links, where the host cannot resolve it.
        Raises `LinkError` and `ElfError`.
        """
        # The kernel has mapped these two before ld.so's first instruction.
        return self.load_libraries(self.loader.add_program(path, origin))

    def load_libraries(self, program: LinkMap) -> LinkResult:
        """Map all libraries of a program that is mapped. Raises `LinkError` and `ElfError`."""
        loader = self.loader
        for link in loader.maps:  # the program and its interpreter
            elf = link.object.elf
            if elf.machine != ElfMachine.X86_64 or elf.layout.bits != 64:
                raise LinkError(f"{link.name}: only x86-64 programs can be linked", 2)
        loader.find_auditors(program)
        # Preloaded objects come before all libraries in the search list, so first.
        preloads = loader.preload()
        on_missing = self._on_missing if self._keep_going else None
        search_list = loader.load_dependencies(program, preloads, on_missing=on_missing)
        # All objects are known: a version that a library lacks is reported before a symbol.
        if loader.rules.libc == "glibc":
            missing = {name for _, name in self._missing}
            for error in check_versions(
                loader.maps, loader.asked, missing, loader.rules, loader.warnings
            ):
                self._complain(error)
        # Every object searches the program's list; its own first if it is symbolic.
        for link in loader.maps:
            own = [[link]] if link.object.dynamic.symbolic else []
            link.scopes = [*own, search_list]
        # TLS offsets must be known before any TPOFF relocation.
        assign_modules(loader.maps)
        tls = layout_static_tls(loader.maps, self.config.static_tls_surplus)
        return LinkResult(
            maps=loader.maps,
            search_list=search_list,
            sorted=self._sort(search_list),
            tls=tls,
            bindings=None,
            relocated={},
            trail=loader.search.trail,
            passed_over=loader.search.passed_over,
            warnings=loader.warnings,
            errors=self.errors,
            missing=self._missing,
        )

    def _sort(self, search_list: list[LinkMap]) -> list[LinkMap]:
        if self.loader.rules.sorts_depth_first and self.config.dynamic_sort == 2:
            return sort_maps(search_list)
        return sort_by_moving(search_list)

    def bind(self, result: LinkResult) -> Binder:
        """Find a definition for every reference of every object."""
        self.binder = Binder(result.maps, self.loader.rules.libc == "glibc", self._versions)
        links = self.relocation_order(result)
        result.bindings = self.binder.bind(links)
        lazy = [self.is_lazy(link) for link in links]
        now = result.bindings.undefined(lazy)
        everything = result.bindings.undefined([False] * len(lazy)) if any(lazy) else now
        result.undefined_later = [item for item in everything if item not in now]
        for link, name in now:
            message = f"{link.name}: symbol lookup error: undefined symbol: {name}"
            self._complain(LinkError(message))
        rules = self.loader.rules
        if rules.asserts_versions:
            for error in missing_tables(result.bindings, self.loader.asked, lazy):
                self._complain(error)
        for error in check_protected(result.bindings, lazy, rules, result.warnings):
            self._complain(error)
        return self.binder

    def bootstrap(self, result: LinkResult, *, adjust: bool = True) -> None:
        """What ld.so does to memory before it looks at any symbol: it relocates itself,
        and (with `adjust`; musl does not) makes the pointers in all dynamic sections absolute.
        """
        for link in result.maps:
            result.relocated[link] = Relocated(self.is_lazy(link))
            if adjust:
                adjust_dynamic(self.memory, link, result.relocated[link])
        interpreter = self.loader.interpreter
        if interpreter is not None:
            self._relocate_relative(interpreter, result.relocated[interpreter])

    def relocate(self, result: LinkResult) -> None:
        """Relocate every object, and write-protect what is RELRO."""
        assert result.bindings is not None
        links = result.bindings.links
        lazy = [result.relocated[link].lazy for link in links]
        symbolic = SymbolicRelocation(self.memory, result.bindings, lazy, result.warnings)
        for number, link in enumerate(links):
            try:
                self._relocate_object(number, link, symbolic, result)
            except OSError as error:
                raise link.object.elf.error(f"relocation: {error.strerror}") from None
            link.relocated = True
            if self.on_relocated is not None:
                self.on_relocated(link, result)
            protect_relro(self.memory, link)

    def _relocate_object(
        self, number: int, link: LinkMap, symbolic: SymbolicRelocation, result: LinkResult
    ) -> None:
        done = result.relocated[link]
        if done.lazy and symbolic.has_slots(number):
            set_up_lazy(link, done)
            if self.on_lazy is not None:
                self.on_lazy(link, result)
        with WritableText(self.memory, link):
            if link is not self.loader.interpreter:
                self._relocate_relative(link, done)
            symbolic.relocate(number, done, self.resolve_ifunc)

    def _relocate_relative(self, link: LinkMap, done: Relocated) -> None:
        relocate_relative(self.memory, link, done, packed=self.loader.rules.packs_relative)

    def link(self, path: str) -> LinkResult:
        """Load, bind and relocate the program at `path`.

        Raises `LinkError` and `ElfError`.
        """
        result = self.load(path)
        self.bind(result)
        # musl adds the base each time that it reads a dynamic section.
        self.bootstrap(result, adjust=self.loader.rules.libc == "glibc")
        self.relocate(result)
        return result

    def is_lazy(self, link: LinkMap) -> bool:
        """Whether the object's PLT is bound at the first calls. ld.so's own never is."""
        now = self.config.bind_now or link.object.dynamic.bind_now
        return not now and link is not self.loader.interpreter

    def relocation_order(self, result: LinkResult) -> list[LinkMap]:
        """Dependencies first, so that an IFUNC resolver runs in a relocated object, and the
        program, which copies relocated data, at the end; ld.so last of all: it has been
        running on its own relocation.
        """
        interpreter = self.loader.interpreter
        order = [link for link in reversed(result.sorted) if link is not interpreter]
        if interpreter in result.search_list:
            assert interpreter is not None
            order.append(interpreter)
        return order

    def _on_missing(self, link: LinkMap, name: str, error: LinkError) -> None:
        self._missing.append((link, name))
        self.errors.append(error.message)

    def _complain(self, error: LinkError) -> None:
        if not self._keep_going:
            raise error
        self.errors.append(error.message)
