"""ld.so's variables, for a libc that was made to find them (glibc 2.36).

glibc's libc.so.6 does not work without ld-linux-x86-64.so.2: it needs its symbols, so it is
among the program's libraries and is mapped and relocated like any other. But its code has
not run, and what `dl_main` would have left in its variables is missing. This module puts
it there: the loaded objects as link maps, the facts of the auxiliary vector, the layout of
static TLS, the search path for `dlopen`, libc's `malloc` in place of ld.so's own, and in the
first thread's control block what `__tls_init_tp` does, with its system calls.

The CPU's features are found by ld.so itself: `_dl_x86_init_cpu_features` is the resolver of
an IFUNC of its own, which runs on the model's CPU like any resolver, but first, because
all of libc's resolvers read them. Functions of ld.so (`dlopen`, `__tls_get_addr`, `_dl_fini`)
then work on this state as on their own.

What cannot be had this way is refused with the reason: a glibc of another version, or of
a build whose variables are not known. What ld.so reads from the environment besides
LD_LIBRARY_PATH, LD_PRELOAD and LD_BIND_NOW (LD_DEBUG, LD_AUDIT, GLIBC_TUNABLES) has no effect.
"""

import struct
from dataclasses import dataclass

from samepage.abi.auxv import Aux
from samepage.abi.elf import SegmentType
from samepage.arch import Sys
from samepage.elf.machines import KIND_TABLES, Kind, kinds_of
from samepage.elf.notes import build_id
from samepage.elf.object import DynamicObject
from samepage.elf.versions import GLIBC_2_2_5
from samepage.linker.errors import LinkError
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.machine.loader import tls
from samepage.machine.loader.exports import exported
from samepage.machine.loader.heap import Heap
from samepage.machine.loader.ldso_layout import (
    BUILDS,
    RTLD_GLOBAL_RO_SIZE,
    RTLD_GLOBAL_SIZE,
    VDSO_FUNCTIONS,
    VERSION,
    Global,
    GlobalRo,
    Map,
    Private,
    Thread,
)
from samepage.machine.loader.link_maps import LinkMaps
from samepage.machine.loader.user_side import UserSide

SONAME = "ld-linux-x86-64.so.2"
_SLOTINFO_SURPLUS = 62
_DTV_SURPLUS = 14
_OPTIONAL_TLS = 512
"""The default of glibc.rtld.optional_static_tls."""
_HWCAP_X86_64 = 2
_RSEQ_SIZE, _RSEQ_SIGNATURE, _RSEQ_USED = 32, 0x53053053, 20
_PRIVATE = ("GLIBC_PRIVATE", 0x0963CF85)
_AUDIT_ROOM = 16 * 16
_PATH_ELEMENT = struct.Struct("<5Q")


@dataclass(slots=True)
class Ldso:
    """ld.so in one process: its link map, and where its variables are."""

    link: LinkMap
    private: Private
    globals: int
    globals_ro: int

    def at(self, address: int) -> int:
        """The address in memory of an address in the file."""
        return self.link.base + address


def find(result: LinkResult) -> LinkMap | None:
    """glibc's ld.so, if the program or its libraries need it."""
    for link in result.search_list:
        if link.object.soname == SONAME:
            return link
    return None


def recognize(link: LinkMap) -> Ldso:
    """Find ld.so's variables. Raises `LinkError` if it is not a build that is known."""
    identity = build_id(link.object.elf)
    private = BUILDS.get(identity or "")
    symbols = {name: exported(link, name) for name in ("_rtld_global", "_rtld_global_ro")}
    sizes = [size for _, size in symbols.values()]
    if private is None or sizes != [RTLD_GLOBAL_SIZE, RTLD_GLOBAL_RO_SIZE]:
        raise LinkError(
            f"{link.name}: build {identity} of glibc's ld.so: its variables are known of glibc "
            f"{VERSION} in the builds {', '.join(name[:12] for name in BUILDS)}; "
            "run the program without --loader builtin"
        )
    addresses = [link.base + value for value, _ in symbols.values()]
    return Ldso(link, private, *addresses)


class LdsoState:
    """Fills in ld.so's variables, in steps that follow those of the link."""

    def __init__(self, user: UserSide, heap: Heap, linker: Linker, auxv: dict[int, int]) -> None:
        self._user = user
        self._heap = heap
        self._linker = linker
        self._auxv = auxv
        self._maps = LinkMaps(user, heap)
        self._vdso = self._find_vdso()
        self._path: _SearchPath | None = None
        # Both are known when the libraries are mapped.
        self._result: LinkResult
        self._ldso: Ldso

    def before_libraries(self, program: LinkMap) -> None:
        """Allocate what ld.so allocates before it maps the first library, so that the
        libraries get the same addresses. What `program` is known to need decides.
        """
        # It is not known yet how many auditors there will be: room for all.
        self._maps.reserve(program, _AUDIT_ROOM)
        if self._vdso is not None:
            self._maps.reserve(self._vdso, _AUDIT_ROOM)
        self._path = self._search_path()
        self._linker.loader.on_new = self._maps.reserve

    def libraries_mapped(self, result: LinkResult, ldso: Ldso) -> None:
        """All objects are known: describe them, before anything for TLS is allocated."""
        self._result, self._ldso = result, ldso
        self._linker.loader.on_new = None
        self._write_maps()
        self._write_modules()

    @property
    def debug(self) -> int:
        """The address of `_r_debug`, for DT_DEBUG."""
        return self._ldso.link.base + exported(self._ldso.link, "_r_debug")[0]

    @property
    def fini(self) -> int:
        """`_dl_fini`, which the program registers with `atexit`."""
        return self._ldso.at(self._ldso.private.fini)

    def before_relocation(self, block: tls.ThreadBlock, guards: tuple[int, int]) -> None:
        """All that IFUNC resolvers may read; ld.so's own pointers are relocated already."""
        self._write_auxv()
        self._write_exported()
        self._write_tls(block)
        self._thread(block)
        self._write_search_path(self._path or self._search_path())
        self._find_object()
        self._word(self._ldso.private.pointer_guard, guards[1])
        self._cpu_features()

    def after_relocation(self) -> None:
        """libc's functions in place of ld.so's own, before its RELRO is protected."""
        private = self._ldso.private
        functions = {
            "malloc": (private.malloc, GLIBC_2_2_5),
            "calloc": (private.calloc, GLIBC_2_2_5),
            "free": (private.free, GLIBC_2_2_5),
            "realloc": (private.realloc, GLIBC_2_2_5),
            "pthread_mutex_lock": (private.mutex_lock, GLIBC_2_2_5),
            "pthread_mutex_unlock": (private.mutex_unlock, GLIBC_2_2_5),
        }
        for name, (place, version) in functions.items():
            address = self.find_function(name, version)
            if address:
                self._word(place, address)

    def early_init(self) -> list[tuple[int, int]]:
        """`__libc_early_init (true)`, which ld.so calls before any constructor."""
        address = self.find_function("__libc_early_init", _PRIVATE)
        return [(address, 1)] if address else []

    def find_function(self, name: str, version: tuple[str, int]) -> int:
        """The address of a function in the program's scope, 0 if there is none."""
        assert self._linker.binder is not None
        found = self._linker.binder.find(name, [self._result.search_list], version)
        if found is None:
            return 0
        owner, symbol = found
        return owner.base + int(owner.object.symbols[symbol]["st_value"])

    def _word(self, address: int, value: int) -> None:
        self._user.store_word(self._ldso.at(address), value)

    def _global(self, offset: int, *values: int) -> None:
        for index, value in enumerate(values):
            self._user.store_word(self._ldso.globals + offset + 8 * index, value)

    def _ro(self, offset: int, *values: int) -> None:
        for index, value in enumerate(values):
            self._user.store_word(self._ldso.globals_ro + offset + 8 * index, value)

    def _write_maps(self) -> None:
        """The list of objects: the program, the vDSO, the libraries in load order."""
        program, ldso = self._result.maps[0], self._ldso.link
        vdso = self._vdso
        order = [program, *([vdso] if vdso else [])]
        order += [link for link in self._result.maps if link not in (program, ldso)]
        # ld.so's own map lies where libraries first needed it.
        wanted = [link for link in self._result.search_list if link is not program]
        following = wanted[wanted.index(ldso) + 1 :]
        place = min((order.index(link) for link in following), default=len(order))
        order.insert(place, ldso)
        self._maps.places[ldso] = self._ldso.globals + Global.RTLD_MAP
        interpreter = program.object.elf.segment(SegmentType.INTERP)
        names = {}
        if interpreter is not None and ldso is self._linker.loader.interpreter:
            names[ldso] = program.base + interpreter.vaddr
        for link in order:
            if link not in self._maps.places:
                self._maps.reserve(link)
        self._maps.write(order, names, self._result)
        places = self._maps.places
        libc = next((link for link in order if link.object.soname == "libc.so.6"), None)
        main = places[program]
        self._global(Global.LOADED, main, len(order), main + Map.SEARCHLIST)
        self._global(Global.LIBC_MAP, places[libc] if libc else 0)
        self._global(Global.NNS, 1)
        self._global(Global.LOAD_ADDS, len(order))
        debug = self.debug
        self._user.store_word(debug, 1)
        self._user.store_word(debug + 8, main)
        breakpoint_ = self._ldso.link.base + exported(self._ldso.link, "_dl_debug_state")[0]
        self._user.store_word(debug + 16, breakpoint_)
        self._user.store_word(debug + 32, self._ldso.link.base)
        search_list = self._result.search_list
        self._ro(GlobalRo.INITIAL_SEARCHLIST, self._maps.pointers(search_list), len(search_list))
        if vdso is not None:
            self._ro(GlobalRo.SYSINFO_DSO, vdso.base, places[vdso])
            for index, name in enumerate(VDSO_FUNCTIONS):
                value = exported(vdso, name)[0]
                self._ro(GlobalRo.VDSO + 8 * index, vdso.base + value if value else 0)

    def _find_vdso(self) -> LinkMap | None:
        """The vDSO as an object (`setup_vdso`)."""
        base = self._auxv.get(Aux.SYSINFO_EHDR, 0)
        image = self._user.kernel.vdso
        if not base or image is None:
            return None
        item = DynamicObject.from_bytes(bytes(image.image.code), "linux-vdso.so.1")
        link = LinkMap("linux-vdso.so.1", item, MapKind.LIBRARY, None, base=base, start=base)
        link.end = base + max(load.vaddr + load.memsz for load in item.elf.loads)
        return link

    def _write_auxv(self) -> None:
        """What `_dl_sysdep_parse_arguments` takes from the auxiliary vector."""
        auxv = self._auxv
        platform = auxv.get(Aux.PLATFORM, 0)
        self._ro(GlobalRo.PLATFORM, platform, len("x86_64") if platform else 0)
        self._ro(GlobalRo.PAGESIZE, auxv[Aux.PAGESZ], auxv[Aux.MINSIGSTKSZ])
        self._user.store(self._ldso.globals_ro + GlobalRo.CLKTCK, _int(auxv[Aux.CLKTCK]))
        lazy = any(done.lazy for done in self._result.relocated.values())
        self._user.store(self._ldso.globals_ro + GlobalRo.LAZY, _int(lazy))
        self._ro(GlobalRo.HWCAP, _HWCAP_X86_64, self._stack().auxv)
        self._ro(GlobalRo.HWCAP2, auxv[Aux.HWCAP2])
        self._ro(GlobalRo.DSO_SORT_ALGO, int(self._linker.config.dynamic_sort == 2))
        stack = self._result.maps[0].object.elf.segment(SegmentType.GNU_STACK)
        flags = stack.flags if stack is not None else 7
        self._user.store(self._ldso.globals + Global.STACK_FLAGS, _int(int(flags)))

    def _stack(self) -> "_Stack":
        user, sp = self._user, self._user.sp
        argc = user.load_word(sp)
        environ = sp + 8 * (argc + 2)
        at = environ
        while user.load_word(at):
            at += 8
        return _Stack(argc, sp + 8, environ, at + 8)

    def _write_exported(self) -> None:
        """`_dl_argv`, `__libc_stack_end` and their like."""
        stack, private = self._stack(), self._ldso.private
        link = self._ldso.link
        self._word(exported(link, "_dl_argv")[0], stack.argv)
        self._word(exported(link, "__libc_stack_end")[0], self._user.sp)
        self._user.store(link.base + private.argc, _int(stack.argc))
        self._word(private.environ, stack.environ)
        self._word(private.random, self._auxv[Aux.RANDOM])
        self._word(private.current_break, self._user.syscall(Sys.BRK, 0))
        secure = link.base + exported(link, "__libc_enable_secure")[0]
        self._user.store(secure, _int(int(bool(self._auxv[Aux.SECURE]))))

    def _modules(self) -> list[LinkMap]:
        return [link for link in self._result.maps if link.tls_module]

    def _write_modules(self) -> None:
        """The list of TLS modules (`init_tls`)."""
        modules = self._modules()
        length = len(modules) + 1 + _SLOTINFO_SURPLUS
        slots = bytearray(16 + 16 * length)
        struct.pack_into("<Q", slots, 0, length)
        for link in modules:
            struct.pack_into("<Q", slots, 16 + 16 * link.tls_module + 8, self._maps.places[link])
        count = len(modules)
        self._global(Global.TLS_MAX_DTV, count, self._heap.store(bytes(slots)), count)
        self._global(Global.TLS_STATIC_USED, self._result.tls.used, _OPTIONAL_TLS)

    def _write_tls(self, block: tls.ThreadBlock) -> None:
        """The DTV of the first thread, and the sizes for those that follow."""
        modules = self._modules()
        capacity = len(modules) + _DTV_SURPLUS
        dtv = self._heap.allocate(16 * (capacity + 2))
        self._user.store_word(dtv, capacity)
        for link in modules:
            self._user.store_word(dtv + 16 * (link.tls_module + 1), block.pointer - link.tls_offset)
        self._user.store_word(block.pointer + Thread.DTV, dtv + 16)
        self._global(Global.INITIAL_DTV, dtv + 16, 1 if modules else 0)
        self._ro(GlobalRo.TLS_STATIC_SIZE, block.size, block.align)
        self._ro(GlobalRo.TLS_STATIC_SURPLUS, self._linker.config.static_tls_surplus)

    def _thread(self, block: tls.ThreadBlock) -> None:
        """The first thread's descriptor, as `__tls_init_tp` makes it."""
        user, here = self._user, block.pointer
        lists = self._ldso.globals
        for offset in (Global.STACK_USED, Global.STACK_CACHE):
            self._global(offset, lists + offset, lists + offset)
        head = lists + Global.STACK_USER
        self._global(Global.STACK_USER, here + Thread.LIST, here + Thread.LIST)
        user.store_word(here + Thread.LIST, head)
        user.store_word(here + Thread.LIST + 8, head)
        tid = user.syscall(Sys.SET_TID_ADDRESS, here + Thread.TID)
        user.store(here + Thread.TID, _int(tid))
        user.store_word(here + Thread.SPECIFIC, here + Thread.SPECIFIC_FIRST)
        user.store(here + Thread.USER_STACK, b"\1")
        robust = here + Thread.ROBUST_HEAD
        user.store_word(here + Thread.ROBUST_PREV, robust)
        user.store_word(robust, robust)
        user.store_word(here + Thread.ROBUST_OFFSET, -32)
        user.syscall(Sys.SET_ROBUST_LIST, robust, 24)
        area = here + Thread.RSEQ
        user.syscall(Sys.RSEQ, area, _RSEQ_SIZE, 0, _RSEQ_SIGNATURE)
        link = self._ldso.link
        user.store(link.base + exported(link, "__rseq_size")[0], _int(_RSEQ_USED))
        self._word(exported(link, "__rseq_offset")[0], Thread.RSEQ)
        user.store_word(here + Thread.STACKBLOCK_SIZE, user.sp)

    def _search_path(self) -> "_SearchPath":
        """The default directories for `dlopen`, with their subdirectories
        (`_dl_init_paths`).
        """
        config, heap, rules = self._linker.config, self._heap, self._linker.loader.rules
        subdirectories = [text.encode() for text in config.capabilities.subdirectories(rules)]
        strings = heap.store(b"".join(subdirectories) + b"\0")
        table = b""
        for text in subdirectories:
            table += struct.pack("<QQ", strings, len(text))
            strings += len(text)
        capabilities = heap.store(table)
        size = _PATH_ELEMENT.size + 4 * len(subdirectories)
        elements = [heap.allocate(size) for _ in config.directories]
        what = heap.store(b"system search path\0")
        for element, following, directory in zip(
            elements, [*elements[1:], 0], config.directories, strict=True
        ):
            name = heap.store(directory.encode() + b"\0")
            words = (following, what, 0, name, len(directory))
            self._user.store(element, _PATH_ELEMENT.pack(*words))
        array = heap.store(struct.pack(f"<{len(elements) + 1}Q", *elements, 0))
        longest = max(map(len, subdirectories))
        return _SearchPath(capabilities, len(subdirectories), longest, elements[0], array)

    def _write_search_path(self, path: "_SearchPath") -> None:
        private = self._ldso.private
        self._word(private.capability_strings, path.capabilities)
        self._word(private.capability_count, path.count)
        self._word(private.max_capability_length, path.longest)
        self._word(private.search_dirs, path.array)
        self._word(private.env_path_list, -1)
        longest = max(map(len, self._linker.config.directories))
        self._word(private.max_dirname_length, longest)
        self._global(Global.ALL_DIRS, path.first)
        self._ro(GlobalRo.INIT_ALL_DIRS, path.first)

    def _find_object(self) -> None:
        """The tables of `_dl_find_object`: which object an address lies in."""
        private, places = self._ldso.private, self._maps.places
        program = self._result.maps[0]
        others = sorted(
            (link for link in places if link is not program), key=lambda link: link.start
        )
        self._user.store(self._ldso.at(private.find_object_main), self._object(program))
        self._ro(GlobalRo.FIND_OBJECT, self._ldso.at(private.find_object))
        table = self._heap.store(b"".join(self._object(link) for link in others))
        self._word(private.find_object_nodelete, table)
        self._word(private.find_object_nodelete_size, len(others))
        self._word(private.find_object_nodelete_end, others[-1].end)

    def _object(self, link: LinkMap) -> bytes:
        frames = link.object.elf.segment(SegmentType.GNU_EH_FRAME)
        where = link.base + frames.vaddr if frames is not None else 0
        return struct.pack("<4Q", link.start, link.end, self._maps.places[link], where)

    def _cpu_features(self) -> None:
        """Run the resolver of ld.so's own IFUNC (`__x86_cpu_features`)."""
        link = self._ldso.link
        tables = link.object.relocations
        for table in (tables.rela, tables.plt):
            types = (table["r_info"] & 0xFFFFFFFF).astype("int64")
            kinds = kinds_of(KIND_TABLES[link.object.elf.machine], types)
            for addend in table["r_addend"][kinds == Kind.IRELATIVE].tolist():
                self._user.call(link.base + addend)


@dataclass(frozen=True, slots=True)
class _SearchPath:
    """Addresses: the strings of subdirectories, the first directory, the array of all."""

    capabilities: int
    count: int
    longest: int
    first: int
    array: int


@dataclass(frozen=True, slots=True)
class _Stack:
    """What lies at the start of the stack."""

    argc: int
    argv: int
    environ: int
    auxv: int


def _int(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")
