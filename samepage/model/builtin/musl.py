"""What musl's libc expects of its own dynamic linker, which is the same file.

musl's libc.so is the interpreter of its programs and their libc at once. Programs need
it under the name libc.so, and get the object that is there already. As a loader it has state
that libc's functions use later: the list of `struct dso` (for `dlopen`, `dladdr`,
`dl_iterate_phdr` and the destructors), the queue of constructors, which musl runs only
inside of `__libc_start_main`, and the first thread. This module leaves that state as `__dls3`
would have left it. Arrays that musl frees later come from its own `calloc`, called on the
model's CPU, as `__dls3` calls it.

What differs from glibc in linking itself: the search for libraries (LD_LIBRARY_PATH, then
the DT_RUNPATH or DT_RPATH of the needing object and of those that needed it, then the
directories of /etc/ld-musl-x86_64.path), names that always mean libc, the layout of static
TLS, and that dynamic sections keep the file's addresses. Source: ldso/dynlink.c,
src/env/__init_tls.c, src/internal/pthread_impl.h of musl 1.2.3.

The variables have no names in the file, so they are known by build; another build is
refused by name.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from samepage.elf.dynamic import Tag
from samepage.elf.header import SegmentType
from samepage.elf.notes import build_id
from samepage.elf.object import DynamicObject
from samepage.kernel.process.user_stack import Aux
from samepage.kernel.syscalls.numbers import Sys
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE
from samepage.linker.search import LinkerConfig, Search
from samepage.model.builtin.exports import exported
from samepage.model.builtin.memory import ProgramMemory
from samepage.model.builtin.tls import ARCH_SET_FS
from samepage.model.builtin.user_side import UserSide

_PATH_FILE = "/etc/ld-musl-x86_64.path"
_DEFAULT_PATH = "/lib:/usr/local/lib:/usr/lib"
_LIBC_NAMES = re.compile(r"lib(c|pthread|rt|m|dl|util|xnet)\..*")
_DSO_SIZE = 384
_PTHREAD_SIZE = 200
_BUILTIN_TLS_SIZE = 336
_MIN_TLS_ALIGN = 8
_JOINABLE = 2


class Thread:
    """Offsets in `struct pthread`."""

    SELF, DTV, PREV, NEXT = 0, 8, 16, 24
    TID = 48
    DETACH_STATE = 56
    ROBUST_HEAD = 136
    LOCALE = 168


class Dso:
    """Offsets in `struct dso`."""

    BASE, NAME, DYNV, NEXT, PREV, PHDR, PHNUM, PHENTSIZE = range(0, 64, 8)
    SYMS, HASHTAB, GHASHTAB, VERSYM, STRINGS, SYMS_NEXT = range(64, 112, 8)
    MAP, MAP_LEN, DEV, INO = range(136, 168, 8)
    RELOCATED, KERNEL_MAPPED = 168, 170
    DEPS, NEEDED_BY, NDEPS_DIRECT, NEXT_DEP = range(176, 208, 8)
    RPATH_ORIG = 216
    TLS = 232
    TLS_ID = 280
    RELRO_START, RELRO_END = 288, 296
    SHORTNAME = 336
    GOT = 360


@dataclass(frozen=True, slots=True)
class Build:
    """Addresses in the file of variables, by their names in the source."""

    libc: int
    thread_list_lock: int
    builtin_tls: int
    app: int
    vdso: int
    ldso: int
    debug: int
    no_deps: int
    head: int
    tail: int
    syms_tail: int
    main_ctor_queue: int
    tls_tail: int
    tls_cnt: int
    tls_offset: int
    tls_align: int
    static_tls_cnt: int
    page_size: int
    runtime: int
    malloc_replaced: int
    aligned_alloc_replaced: int
    env_path: int


class Libc:
    """Offsets in `struct __libc`."""

    CAN_DO_THREADS = 0
    AUXV, TLS_HEAD, TLS_SIZE, TLS_ALIGN, TLS_CNT, PAGE_SIZE, GLOBAL_LOCALE = range(8, 64, 8)


BUILDS = {
    # Debian 12, musl 1.2.3-1
    "54d00df44fce62f541ca62b56bdef5bf31ff077c": Build(
        libc=0xAC780,
        thread_list_lock=0xAEE70,
        builtin_tls=0xAE980,
        app=0xAE560,
        vdso=0xAE3E0,
        ldso=0xAE800,
        debug=0xAE780,
        no_deps=0xA8178,
        head=0xAEE50,
        tail=0xAEE48,
        syms_tail=0xAEE38,
        main_ctor_queue=0xAEDE8,
        tls_tail=0xAEE08,
        tls_cnt=0xAEE00,
        tls_offset=0xAEDF8,
        tls_align=0xAC3E0,
        static_tls_cnt=0xAEDF0,
        page_size=0xAC7B0,
        runtime=0xAEF34,
        malloc_replaced=0xAEEA4,
        aligned_alloc_replaced=0xAEEA0,
        env_path=0xAEE28,
    ),
}


class _NoSubdirectories(HardwareCapabilities):
    """musl looks into the directories themselves only."""

    def subdirectories(self) -> list[str]:
        return [""]


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


def configure(memory: ProgramMemory, config: LinkerConfig) -> LinkerConfig:
    """What musl takes from its own files in place of ld.so's."""
    text = memory.read_file(_PATH_FILE)
    path = _DEFAULT_PATH if text is None else text.decode("utf-8", "surrogateescape")
    directories = [part.rstrip("/") + "/" for part in re.split("[:\n]", path) if part]
    return replace(
        config,
        directories=tuple(directories),
        cache_path="",
        preload_file="",
        capabilities=_NoSubdirectories((), "", ()),
        bind_now=True,
    )


_MISSING_LIBRARY = re.compile(r"(.*): cannot open shared object file: ([^,]*), needed by (.*)")
_MISSING_SYMBOL = re.compile(r"(.*): symbol lookup error: undefined symbol: (.*)")


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


class MuslState:
    """Fills in libc's variables for a linked program."""

    def __init__(self, user: UserSide, libc: LinkMap, auxv: dict[int, int]) -> None:
        """Raises `LinkError` if the build of musl is not known."""
        identity = build_id(libc.object.elf)
        if identity not in BUILDS:
            raise LinkError(
                f"{libc.name}: build {identity} of musl: its variables are known of the builds "
                f"{', '.join(name[:12] for name in BUILDS)}; "
                "run the program without --loader builtin"
            )
        self._user = user
        self._libc = libc
        self._auxv = auxv
        self._build = BUILDS[identity]
        self._order: list[LinkMap] = []
        self._places: dict[LinkMap, int] = {}
        self._tls: list[LinkMap] = []
        self._tls_offset = 0
        self._tls_align = _MIN_TLS_ALIGN

    @property
    def debug(self) -> int:
        """The address of `struct debug`, for DT_DEBUG."""
        return self._libc.base + self._build.debug

    def debug_word(self, program: LinkMap) -> int | None:
        """Where the program's dynamic section takes the address of `struct debug`."""
        section = program.object.elf.segment(SegmentType.DYNAMIC)
        tags = program.object.dynamic.entries["d_tag"].tolist()
        if section is None or Tag.DEBUG not in tags:
            return None
        return program.base + section.vaddr + 16 * int(tags.index(Tag.DEBUG)) + 8

    def layout(self, result: LinkResult) -> None:
        """Lay out static TLS as musl does: from the addresses of the initial images."""
        offset = 0
        self._tls = [link for link in result.maps if link.tls_module]
        for link in self._tls:
            tls = link.object.tls
            assert tls is not None
            align = max(tls.align, 1)
            image = link.base + tls.vaddr
            if link is result.maps[0]:
                offset = tls.memsz + (-(image + tls.memsz) & (align - 1))
            else:
                offset += tls.memsz + align - 1
                offset -= (offset + image) & (align - 1)
            link.tls_offset = offset
            self._tls_align = max(self._tls_align, align)
        self._tls_offset = offset

    def after_relocation(self, result: LinkResult) -> None:
        """All that `__dls3` leaves: the thread, the list of objects, constructors to run."""
        build, libc = self._build, self._build.libc
        auxv = self._user.sp
        while self._user.load_word(auxv):  # argc is not 0; argv ends with one
            auxv += 8
        auxv += 8
        while self._user.load_word(auxv):
            auxv += 8
        self._word(libc + Libc.AUXV, auxv + 8)
        self._word(build.page_size, self._auxv[Aux.PAGESZ])
        self._replaced(result)
        program = result.maps[0]
        self._order = list(result.search_list)
        count = len(self._tls)
        size = (1 + count) * 8 + self._tls_offset + _PTHREAD_SIZE + 2 * self._tls_align
        size = -(-size // self._tls_align) * self._tls_align
        head = self._at(build.app) if program.object.tls is not None else 0
        fits = size <= _BUILTIN_TLS_SIZE and self._tls_align <= _MIN_TLS_ALIGN
        self._thread(self._at(build.builtin_tls), _BUILTIN_TLS_SIZE, self._tls if fits else [])
        self._allocate()
        if not fits:
            self._thread(self._calloc(size), size, self._tls)
        self._write_objects(program)
        if self._tls and not head:
            head = self._places[self._tls[0]]
        self._word(libc + Libc.TLS_HEAD, head + Dso.TLS if head else 0)
        for place, value in (
            (libc + Libc.TLS_SIZE, size),
            (libc + Libc.TLS_ALIGN, self._tls_align),
            (libc + Libc.TLS_CNT, count),
            (build.tls_cnt, count),
            (build.static_tls_cnt, count),
            (build.tls_offset, self._tls_offset),
            (build.tls_align, self._tls_align),
            (build.tls_tail, self._places[self._tls[-1]] + Dso.TLS if self._tls else 0),
        ):
            self._word(place, value)
        self._flag(build.runtime, True)

    def _at(self, address: int) -> int:
        return self._libc.base + address

    def _word(self, address: int, value: int) -> None:
        self._user.store_word(self._at(address), value)

    def _flag(self, address: int, value: bool) -> None:
        self._user.store(self._at(address), int(value).to_bytes(4, "little"))

    def _calloc(self, size: int) -> int:
        return self._user.call(self._at(exported(self._libc, "calloc")[0]), size, 1)

    def _thread(self, block: int, size: int, modules: list[LinkMap]) -> None:
        """`__copy_tls` and `__init_tp`: the thread's block with its DTV at the start."""
        user = self._user
        here = (block + size - _PTHREAD_SIZE) & -self._tls_align
        user.store_word(block, len(modules))
        for link in modules:
            tls = link.object.tls
            assert tls is not None
            user.store_word(block + 8 * link.tls_module, here - link.tls_offset)
            image = user.load(link.base + tls.vaddr, tls.filesz)
            user.store(here - link.tls_offset, image)
        user.store_word(here + Thread.SELF, here)
        user.store_word(here + Thread.DTV, block)
        user.syscall(Sys.ARCH_PRCTL, ARCH_SET_FS, here)
        user.store(self._at(self._build.libc + Libc.CAN_DO_THREADS), b"\1")
        user.store(here + Thread.DETACH_STATE, _JOINABLE.to_bytes(4, "little"))
        tid = user.syscall(Sys.SET_TID_ADDRESS, self._at(self._build.thread_list_lock))
        user.store(here + Thread.TID, tid.to_bytes(4, "little"))
        user.store_word(here + Thread.LOCALE, self._at(self._build.libc + Libc.GLOBAL_LOCALE))
        user.store_word(here + Thread.ROBUST_HEAD, here + Thread.ROBUST_HEAD)
        user.store_word(here + Thread.PREV, here)
        user.store_word(here + Thread.NEXT, here)

    def _allocate(self) -> None:
        """Places for all objects: three are libc's own variables."""
        for link in self._order:
            if link is self._order[0]:
                self._places[link] = self._at(self._build.app)
            elif link is self._libc:
                self._places[link] = self._at(self._build.ldso)
            else:
                self._places[link] = self._calloc(_DSO_SIZE + len(link.name) + 1)

    def _write_objects(self, program: LinkMap) -> None:
        """The list of objects, and the vDSO at its end, which gives no symbols."""
        order = list(self._order)
        vdso = self._vdso()
        if vdso is not None:
            self._places[vdso] = self._at(self._build.vdso)
            order.append(vdso)
        places = [self._places[link] for link in order]
        for index, link in enumerate(order):
            words = self._describe(link)
            following = places[index + 1] if index + 1 < len(order) else 0
            _put(words, Dso.NEXT, following, places[index - 1] if index else 0)
            if link in self._order and index + 1 < len(self._order):
                _put(words, Dso.SYMS_NEXT, following)
            self._user.store(self._places[link], bytes(words))
        self._word(self._build.head, places[0])
        self._word(self._build.tail, places[-1])
        self._word(self._build.syms_tail, places[len(self._order) - 1])
        queue = [self._places[link] for link in _constructor_queue(program, self._libc)]
        array = self._calloc(8 * (len(queue) + 1))
        self._user.store(array, struct.pack(f"<{len(queue)}Q", *queue))
        self._word(self._build.main_ctor_queue, array)
        debug = struct.pack(
            "<QQQQQ",
            1,
            places[0],
            self._at(exported(self._libc, "_dl_debug_state")[0]),
            0,
            self._libc.base,
        )
        self._user.store(self.debug, debug)

    def _vdso(self) -> LinkMap | None:
        base, image = self._auxv.get(Aux.SYSINFO_EHDR, 0), self._user.kernel.vdso
        if not base or image is None:
            return None
        item = DynamicObject.from_bytes(bytes(image.image.code), "linux-vdso.so.1")
        return LinkMap("", item, MapKind.LIBRARY, None, base=base)

    def _describe(self, link: LinkMap) -> bytearray:
        """`struct dso` of one object, without its neighbours."""
        elf, dynamic = link.object.elf, link.object.dynamic
        words = bytearray(_DSO_SIZE)
        base = link.base
        section = elf.segment(SegmentType.DYNAMIC)
        _put(words, Dso.BASE, base, self._name(link), base + section.vaddr if section else 0)
        first = min(elf.loads, key=lambda load: load.vaddr)
        phdr = base + first.vaddr - first.offset + elf.phoff
        _put(words, Dso.PHDR, phdr, len(elf.segments), 56)
        for offset, tag in (
            (Dso.SYMS, Tag.SYMTAB),
            (Dso.HASHTAB, Tag.HASH),
            (Dso.GHASHTAB, Tag.GNU_HASH),
            (Dso.VERSYM, Tag.VERSYM),
            (Dso.STRINGS, Tag.STRTAB),
            (Dso.GOT, Tag.PLTGOT),
        ):
            value = dynamic.get(tag)
            if value is not None:
                _put(words, offset, base + value)
        path = dynamic.get(Tag.RUNPATH) or dynamic.get(Tag.RPATH)
        if path is not None:
            _put(words, Dso.RPATH_ORIG, base + dynamic.value(Tag.STRTAB) + path)
        words[Dso.RELOCATED] = 1
        if link not in self._order:
            _put(words, Dso.DEPS, self._at(self._build.no_deps))
            return words
        start, end = link.start & -PAGE, (link.end + PAGE - 1) & -PAGE
        _put(words, Dso.MAP, start, end - start)
        words[Dso.KERNEL_MAPPED] = link is self._libc or link is self._order[0]
        if not words[Dso.KERNEL_MAPPED] and link.identity is not None:
            _put(words, Dso.DEV, *link.identity)
            slash = self._name(link) + link.name.rfind("/") + 1
            _put(words, Dso.SHORTNAME, slash if "/" not in link.requested else 0)
        self._dependencies(words, link)
        if link.object.tls is not None:
            self._thread_local(words, link)
        relro = link.object.relro
        if relro is not None:
            _put(words, Dso.RELRO_START, relro.vaddr & -PAGE, (relro.vaddr + relro.memsz) & -PAGE)
        return words

    def _name(self, link: LinkMap) -> int:
        """The address of an object's name."""
        if link is self._order[0]:
            return self._auxv[Aux.EXECFN]
        if link is self._libc:
            program = self._order[0]
            segment = program.object.elf.segment(SegmentType.INTERP)
            assert segment is not None, "who uses musl has it as interpreter"
            return program.base + segment.vaddr
        if link not in self._order:
            return self._at(self._build.no_deps)  # any empty string
        place = self._places[link] + _DSO_SIZE
        self._user.store(place, link.name.encode(errors="surrogateescape") + b"\0")
        return place

    def _dependencies(self, words: bytearray, link: LinkMap) -> None:
        if link is self._libc:
            _put(words, Dso.DEPS, self._at(self._build.no_deps))
            return
        needed = [self._places[other] for other in link.needed]
        array = self._calloc(8 * (len(needed) + 1))
        self._user.store(array, struct.pack(f"<{len(needed)}Q", *needed))
        loader = self._places[link.loader] if link.loader is not None else 0
        _put(words, Dso.DEPS, array, loader)
        _put(words, Dso.NDEPS_DIRECT, len(needed), len(needed))

    def _thread_local(self, words: bytearray, link: LinkMap) -> None:
        tls = link.object.tls
        assert tls is not None
        at = self._tls.index(link)
        following = self._places[self._tls[at + 1]] + Dso.TLS if at + 1 < len(self._tls) else 0
        image = link.base + tls.vaddr
        _put(words, Dso.TLS, following, image, tls.filesz, tls.memsz, tls.align, link.tls_offset)
        _put(words, Dso.TLS_ID, link.tls_module)

    def _replaced(self, result: LinkResult) -> None:
        """Whether the program brings its own `malloc`; `calloc` must know it."""
        for name, place in (
            ("malloc", self._build.malloc_replaced),
            ("aligned_alloc", self._build.aligned_alloc_replaced),
        ):
            owner = next(link for link in result.search_list if exported(link, name)[0])
            self._flag(place, owner is not self._libc)


def _constructor_queue(program: LinkMap, libc: LinkMap) -> list[LinkMap]:
    """`queue_ctors`: dependencies first, depth-first; each object once."""
    queue: list[LinkMap] = []
    seen = {program}
    stack = [(program, iter(program.needed))]
    while stack:
        link, needed = stack[-1]
        following = next((other for other in needed if other not in seen), None)
        if following is None:
            stack.pop()
            queue.append(link)
        else:
            seen.add(following)
            stack.append((following, iter(() if following is libc else following.needed)))
    return queue


def _put(words: bytearray, offset: int, *values: int) -> None:
    struct.pack_into(f"<{len(values)}Q", words, offset, *values)
