"""Loading a library into the running process with our linker: `dlopen`.

It does what glibc's `dlopen` does, by the same steps and system calls, except where only
ld.so itself could: it cannot hand out thread-local storage, which is ld.so's to allocate
for every thread, and nothing it loads is in ld.so's lists, so that `dladdr` and
`dl_iterate_phdr` do not know of it (the unwinder is told separately). A library that
needs more than this gives is refused with the reason, before any of its code has run.

Nothing of the library is touched that relocation does not touch, until the first of its
symbols is asked for: constructors run then, and not before. So what `Library.pages` shows
after `dlopen` is what loading costs: no page of text at all.

Scopes are glibc's. The global scope is that of the program; a library sees it first, then
itself with all it needs (RTLD_DEEPBIND: the other way round). RTLD_GLOBAL adds the
library to the global scope of later `dlopen` calls. Everything is bound at once.
"""

import ctypes
import enum
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from samepage.elf.dynamic import DynamicFlags1, Tag
from samepage.elf.header import SegmentFlags, SegmentType
from samepage.elf.object import STT_GNU_IFUNC, STT_TLS
from samepage.linker.binding import Binder
from samepage.linker.errors import LinkError
from samepage.linker.load import Loader
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE
from samepage.linker.order import sort_maps
from samepage.linker.process import (
    ProcessMemory,
    adopted_objects,
    call_resolver,
    thread_pointer,
)
from samepage.linker.relocate import (
    Relocated,
    WritableText,
    adjust_dynamic,
    protect_relro,
    relocate_relative,
)
from samepage.linker.search import LinkerConfig
from samepage.linker.symbolic import SymbolicRelocation
from samepage.linker.version_check import check_versions

_PRESENT = 1 << 63
_FILE = 1 << 61


class Mode(enum.IntFlag):
    """The second argument of dlopen(3), with glibc's values."""

    LOCAL = 0
    LAZY = 1
    NOW = 2
    NOLOAD = 4
    DEEPBIND = 8
    GLOBAL = 0x100
    NODELETE = 0x1000


@dataclass(frozen=True, slots=True)
class PageState:
    """One page of a library in this process."""

    address: int
    section: str
    """"text", "rodata", "relro" or "data"."""
    resident: bool
    private: bool
    """Resident, and a copy of our own: no longer the file's page."""


class Library:
    """A loaded library. Its functions are attributes, as with `ctypes.CDLL`."""

    def __init__(self, link: LinkMap, objects: list[LinkMap], process: "Process") -> None:
        self._link = link
        self._objects = objects
        self._process = process
        self._functions: dict[str, Any] = {}

    @property
    def path(self) -> str:
        """Where the library was found."""
        return self._link.name

    @property
    def base(self) -> int:
        """The address that is added to the addresses in the file."""
        return self._link.base

    @property
    def loaded(self) -> list[str]:
        """The paths of what this `dlopen` has mapped: the library, and what it needs."""
        return [link.name for link in self._objects]

    def address_of(self, name: str) -> int:
        """The address of a symbol, as `dlsym` finds it in the library and what it needs.

        Raises `AttributeError` if there is none.
        """
        self.initialize()
        return self._process.symbol_address(self._link, name)

    def initialize(self) -> None:
        """Run the constructors of all that this `dlopen` has mapped, if that is still to do."""
        self._process.initialize(self._objects)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        """The C function `name`; it returns an int until its `restype` says otherwise."""
        if name not in self._functions:
            prototype = ctypes.CFUNCTYPE(ctypes.c_int)
            self._functions[name] = prototype(self.address_of(name))
        return self._functions[name]

    def pages(self) -> list[PageState]:
        """Every page of the library: is it resident in this process, and is it a copy?"""
        return list(_pages(self._link))

    def resident(self) -> dict[str, tuple[int, int]]:
        """By part of the library: (resident pages, all pages)."""
        result: dict[str, tuple[int, int]] = {}
        for page in self.pages():
            resident, total = result.get(page.section, (0, 0))
            result[page.section] = (resident + page.resident, total + 1)
        return result

    def close(self) -> None:
        """Run the destructors and unmap what this `dlopen` has mapped (`dlclose`).

        A library with DF_1_NODELETE, or opened with `Mode.NODELETE`, stays.
        """
        self._process.close(self._objects)

    def __repr__(self) -> str:
        return f"<Library {self.path} at {self.base:#x}>"


class Process:
    """This process as a namespace of our linker: what ld.so loaded, and what we did."""

    def __init__(self) -> None:
        self.memory = ProcessMemory()
        self.loader = Loader(self.memory, LinkerConfig.from_environment())
        self._adopt()
        self._binder = Binder(self.loader.maps)
        self._kept: set[LinkMap] = set()
        self._uninitialized: set[LinkMap] = set()
        self._unwinding: dict[LinkMap, int] = {}

    def _adopt(self) -> None:
        """Take over the objects that ld.so has loaded."""
        loader, pointer = self.loader, thread_pointer()
        for adopted in adopted_objects():
            link = LinkMap(
                adopted.path,
                adopted.object,
                MapKind.LIBRARY if loader.maps else MapKind.EXECUTABLE,
                adopted.identity,
                base=adopted.base,
                index=len(loader.maps),
                tls_module=adopted.tls_module,
                relocated=True,
                origin=adopted.path,
            )
            if adopted.tls_address:
                link.tls_offset = pointer - adopted.tls_address
            loader.maps.append(link)
            loader.by_name.setdefault(adopted.path, link)
            if adopted.object.soname is not None:
                loader.by_name.setdefault(adopted.object.soname, link)
        loader.program = loader.maps[0]
        self._global_scope = loader.load_dependencies(loader.maps[0])
        for link in loader.maps:
            link.scopes = [self._global_scope]
            if link not in self._global_scope:
                # A block that ld.so allocated for one thread has no fixed distance.
                link.tls_offset = 0

    def open(self, name: str, mode: Mode) -> Library:
        """`dlopen`. Raises `LinkError` and `ElfError`; then nothing stays mapped."""
        loader = self.loader
        before = len(loader.maps)
        try:
            root = self._find(name) or loader.map_again(name, MapKind.LOADED)
            search_list = loader.load_dependencies(root, kind=MapKind.LOADED)
            new = loader.maps[before:]
            if new:
                self._check(new)
                self._relocate(new, search_list, mode)
        except BaseException:
            self._forget(loader.maps[before:])
            raise
        if mode & Mode.GLOBAL:
            self._global_scope += [link for link in search_list if link not in self._global_scope]
        if mode & Mode.NODELETE or any(
            link.object.dynamic.flags_1 & DynamicFlags1.NODELETE for link in new
        ):
            self._kept.update(new)
        order = [link for link in reversed(sort_maps(search_list)) if link in new]
        self._uninitialized.update(order)
        return Library(root, order, self)

    def initialize(self, objects: list[LinkMap]) -> None:
        """Run the constructors of `objects`, dependencies first, of each object once."""
        for link in objects:
            if link in self._uninitialized:
                self._uninitialized.discard(link)
                self._register_unwinding(link)
                _call_array(self.memory, link, Tag.INIT, Tag.INIT_ARRAY, Tag.INIT_ARRAYSZ)

    def _find(self, name: str) -> LinkMap | None:
        """The object that `name` stands for, if it is one of the program's own libraries,
        or one that we have loaded. One that an extension module has brought along is not
        touched: the library is mapped once more, and both share the file's pages.
        """
        known = self.loader.by_name.get(name)
        if known is not None and (known in self._global_scope or known.kind == MapKind.LOADED):
            return known
        return None

    def _check(self, new: list[LinkMap]) -> None:
        """Refuse what we cannot give, before any of the library's code has run."""
        for link in new:
            if link.object.tls is not None:
                raise LinkError(
                    f"{link.name}: has thread-local storage, which only ld.so can allocate "
                    "for the threads of a running process"
                )
            if link.object.dynamic.flags_1 & (DynamicFlags1.PIE | DynamicFlags1.NOOPEN):
                raise LinkError(f"{link.name}: cannot be loaded by dlopen (a program, or noopen)")
            stack = link.object.elf.segment(SegmentType.GNU_STACK)
            if stack is None or stack.flags & SegmentFlags.X:
                raise LinkError(f"{link.name}: needs an executable stack")
        for message in check_versions(self.loader.maps, self.loader.by_name):
            raise LinkError(message)

    def _relocate(self, new: list[LinkMap], search_list: list[LinkMap], mode: Mode) -> None:
        scopes = [self._global_scope, search_list]
        if mode & Mode.DEEPBIND:
            scopes.reverse()
        order = [link for link in reversed(sort_maps(search_list)) if link in new]
        for link in order:
            link.scopes = [[link], *scopes] if link.object.dynamic.symbolic else scopes
        bindings = self._binder.bind(order)
        lazy = [False] * len(order)
        for link, name in bindings.undefined(lazy):
            raise LinkError(f"{link.name}: undefined symbol: {name}")
        symbolic = SymbolicRelocation(self.memory, bindings, lazy)
        for number, link in enumerate(order):
            done = Relocated()
            adjust_dynamic(self.memory, link, done)
            with WritableText(self.memory, link):
                relocate_relative(self.memory, link, done)
                symbolic.relocate(number, done, call_resolver)
            if done.foreign:
                raise LinkError(f"{link.name}: uses TLS descriptors, which only ld.so can give")
            protect_relro(self.memory, link)
            link.relocated = True

    def _register_unwinding(self, link: LinkMap) -> None:
        """Tell libgcc's unwinder of the library's frames, if C++ or alike is in use."""
        header = link.object.elf.segment(SegmentType.GNU_EH_FRAME)
        register = self._unwinder("__register_frame")
        if header is None or register is None:
            return
        start = link.base + header.vaddr
        version, encoding = self.memory.read(start, 2)
        if version != 1 or encoding != 0x1B:  # DW_EH_PE_pcrel | DW_EH_PE_sdata4
            return
        (distance,) = struct.unpack("<i", self.memory.read(start + 4, 4))
        self._unwinding[link] = start + 4 + distance
        register(self._unwinding[link])

    def _unwinder(self, name: str) -> Callable[[int], Any] | None:
        """A function of libgcc_s, if some object of the process has brought it along."""
        alive = [link for link in self.loader.maps if link.scopes]
        found = self._binder.find(name, [alive])
        if found is None:
            return None
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_address(*found))

    def symbol_address(self, link: LinkMap, name: str) -> int:
        """The address of a symbol in an object or what it needs."""
        own = [link, *(other for other in _closure(link) if other is not link)]
        found = self._binder.find(name, [own])
        if found is None:
            raise AttributeError(f"{link.name} has no symbol {name}")
        record = found[0].object.symbols[found[1]]
        kind = int(record["st_info"]) & 15
        if kind == STT_TLS:
            raise AttributeError(f"{link.name}: {name} is thread-local")
        address = _address(*found)
        return call_resolver(address) if kind == STT_GNU_IFUNC else address

    def close(self, objects: list[LinkMap]) -> None:
        """`dlclose` of what one `dlopen` has mapped; nothing if something still needs it."""
        if any(link in self._kept or not link.scopes for link in objects):
            return  # to be kept, or closed already
        still_needed = {
            other
            for link in self.loader.maps
            if link not in objects and link.kind == MapKind.LOADED
            for other in _closure(link)
        }
        if any(link in still_needed for link in objects):
            return
        for link in sort_maps(objects, force_first=False):
            if link not in self._uninitialized:
                _call_array(self.memory, link, Tag.FINI, Tag.FINI_ARRAY, Tag.FINI_ARRAYSZ)
        self._forget(objects)

    def _forget(self, links: list[LinkMap]) -> None:
        """Unmap objects. They stay in `maps`, whose indices are in use, without names."""
        for link in links:
            self._uninitialized.discard(link)
            frames = self._unwinding.pop(link, None)
            deregister = self._unwinder("__deregister_frame") if frames is not None else None
            if deregister is not None and frames is not None:
                deregister(frames)
            if link.end > link.start:
                self.memory.munmap(link.start, (link.end - link.start + PAGE - 1) & -PAGE)
            link.identity = None
            link.scopes = []
            link.needed = []
            link.start = link.end = 0
            names = self.loader.by_name
            for name in [name for name, named in names.items() if named is link]:
                del names[name]
            if link in self._global_scope:
                self._global_scope.remove(link)


def _closure(link: LinkMap) -> list[LinkMap]:
    """An object and all that it needs, breadth-first."""
    found = [link]
    for current in found:
        found += [need for need in current.needed if need not in found]
    return found


def _address(link: LinkMap, symbol: int) -> int:
    record = link.object.symbols[symbol]
    return int(record["st_value"]) + (0 if record["st_shndx"] == 0xFFF1 else link.base)


def _call_array(memory: ProcessMemory, link: LinkMap, one: Tag, array: Tag, size: Tag) -> None:
    """Call an object's constructors in order, or its destructors in reverse order."""
    dynamic = link.object.dynamic
    start, length = dynamic.get(array), dynamic.value(size)
    functions: list[int] = []
    if start is not None:
        words = memory.read(link.base + start, length)
        functions = list(struct.unpack(f"<{length // 8}Q", words[: length // 8 * 8]))
    single = dynamic.get(one)
    is_fini = array == Tag.FINI_ARRAY
    if is_fini:
        functions.reverse()
    if single is not None:
        functions.insert(len(functions) if is_fini else 0, link.base + single)
    arguments = [] if is_fini else _main_arguments()
    prototype: Callable[[int], Any] = (
        ctypes.CFUNCTYPE(None)
        if is_fini
        else ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    )
    for function in functions:
        if function not in (0, 2**64 - 1):
            prototype(function)(*arguments)


def _main_arguments() -> list[Any]:
    """argc, argv and environ, which constructors get as `main` does."""
    argv = [os.fsencode(argument) for argument in sys.orig_argv]
    array = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    _ALIVE.append(array)
    environ = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
    return [len(argv), ctypes.addressof(array), environ.value]


_ALIVE: list[Any] = []
"""What a constructor may have kept a pointer to."""


def _pages(link: LinkMap) -> Iterator[PageState]:
    relro = link.object.relro
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for load in link.object.elf.loads:
            first = (link.base + load.vaddr) // PAGE
            last = (link.base + load.vaddr + load.memsz + PAGE - 1) // PAGE
            pagemap.seek(first * 8)
            data = pagemap.read((last - first) * 8)
            for number, (entry,) in enumerate(struct.iter_unpack("<Q", data), first):
                address = number * PAGE
                resident = bool(entry & _PRESENT)
                yield PageState(
                    address,
                    _part(load.flags, address - link.base, relro),
                    resident,
                    resident and not entry & _FILE,
                )


def _part(flags: int, offset: int, relro: Any) -> str:
    if flags & SegmentFlags.X:
        return "text"
    if not flags & SegmentFlags.W:
        return "rodata"
    if relro is not None and relro.vaddr // PAGE * PAGE <= offset < relro.vaddr + relro.memsz:
        return "relro"
    return "data"


_process: Process | None = None


def dlopen(name: str, mode: int = Mode.NOW) -> Library:
    """Load the library `name` into this process; see `Library`.

    `name` is searched for as ld.so does for the program; with a slash it is a path. A
    library that belongs to the program itself, like libc, is not loaded again.

    Raises `LinkError` if the library, or one that it needs, is missing or needs what
    cannot be given, and `ElfError` if a file is broken.

    >>> libz = dlopen("libz.so.1")
    >>> libz.resident()["text"][0]
    0
    >>> hex(libz.crc32(0, b"samepage", 8) & 0xFFFFFFFF)
    '0xbaca83ce'
    >>> libz.resident()["text"][0] > 0
    True
    """
    global _process
    if _process is None:
        _process = Process()
    return _process.open(name, Mode(mode))
