"""What musl's libc expects of its own dynamic linker, which is the same file.

musl's libc.so is the interpreter of its programs and their libc at once. Programs need
it under the name libc.so, and get the object that is there already. As a loader it has state
that libc's functions use later: the list of `struct dso` (for `dlopen`, `dladdr`,
`dl_iterate_phdr` and the destructors), the queue of constructors, which musl runs only
inside of `__libc_start_main`, and the first thread. This module leaves that state as `__dls3`
would have left it. Arrays that musl frees later come from its own `calloc`, called on the
model's CPU, as `__dls3` calls it.

What differs from glibc in linking itself: the search for libraries (`musl_search.py`), the
layout of static TLS, and that dynamic sections keep the file's addresses. Source:
ldso/dynlink.c, src/env/__init_tls.c, src/internal/pthread_impl.h of musl 1.2.3. A build whose
variables are not known (`musl_layout.py`) is refused by name.
"""

import struct

from samepage.abi.auxv import Aux
from samepage.abi.elf import SegmentType
from samepage.abi.prctl import ARCH_SET_FS
from samepage.arch import Sys
from samepage.elf.dynamic import Tag
from samepage.elf.notes import build_id
from samepage.elf.object import DynamicObject
from samepage.linker.errors import LinkError
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE
from samepage.machine.loader.exports import exported
from samepage.machine.loader.musl_layout import (
    BUILDS,
    BUILTIN_TLS_SIZE,
    DSO_SIZE,
    JOINABLE,
    MIN_TLS_ALIGN,
    PTHREAD_SIZE,
    Dso,
    Libc,
    Thread,
)
from samepage.machine.loader.user_side import UserSide


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
        self._tls_align = MIN_TLS_ALIGN

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
        size = (1 + count) * 8 + self._tls_offset + PTHREAD_SIZE + 2 * self._tls_align
        size = -(-size // self._tls_align) * self._tls_align
        head = self._at(build.app) if program.object.tls is not None else 0
        fits = size <= BUILTIN_TLS_SIZE and self._tls_align <= MIN_TLS_ALIGN
        self._thread(self._at(build.builtin_tls), BUILTIN_TLS_SIZE, self._tls if fits else [])
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
        here = (block + size - PTHREAD_SIZE) & -self._tls_align
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
        user.store(here + Thread.DETACH_STATE, JOINABLE.to_bytes(4, "little"))
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
                self._places[link] = self._calloc(DSO_SIZE + len(link.name) + 1)

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
        words = bytearray(DSO_SIZE)
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
        place = self._places[link] + DSO_SIZE
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
