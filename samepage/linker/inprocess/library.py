"""Loading a library into the running process with our linker: `dlopen`.

It does what glibc's `dlopen` does, by the same steps and system calls, except where only
ld.so itself could: it cannot hand out thread-local storage, which is ld.so's to allocate
for every thread, and nothing it loads is in ld.so's lists, so that `dladdr` and
`dl_iterate_phdr` do not know of it (the unwinder is informed separately). A library that
needs more than this gives is refused with the reason, before any of its code has run.

Nothing of the library is touched that relocation does not touch, until the first of its
symbols is asked for: constructors run then, and not before. So what `Library.pages` shows
after `dlopen` is what loading costs: no page of text at all.

Scopes are glibc's. The global scope is that of the program; a library sees it first, then
itself with all it needs (RTLD_DEEPBIND: the other way round). RTLD_GLOBAL adds the
library to the global scope of later `dlopen` calls. Everything is bound at once.

So is the end of a library (`_dl_close_worker`): each `Library` counts once, and what no
open one needs, or is bound to, is unmapped. What defines a unique symbol (STB_GNU_UNIQUE)
stays, as unknown objects may have its address.
"""

import ctypes
import enum
import os
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from samepage.abi.elf import (
    EHDR64,
    ELF_MAGIC,
    STT_GNU_IFUNC,
    STT_TLS,
    DynamicFlags1,
    SegmentFlags,
    SegmentType,
)
from samepage.elf.dynamic import Tag
from samepage.elf.object import DynamicObject
from samepage.linker.binding import Binder
from samepage.linker.errors import LinkError
from samepage.linker.inprocess.constructors import call_array
from samepage.linker.inprocess.process import (
    ProcessMemory,
    adopted_objects,
    call_resolver,
    thread_pointer,
)
from samepage.linker.inprocess.resident import PageState, pages_of
from samepage.linker.load import Loader
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE
from samepage.linker.order import constructor_order, sort_by_moving, sort_maps
from samepage.linker.relocate import (
    Relocated,
    WritableText,
    adjust_dynamic,
    protect_relro,
    relocate_relative,
)
from samepage.linker.rules import HOST, LdsoRules, rules_for
from samepage.linker.search import LinkerConfig
from samepage.linker.symbolic import SymbolicRelocation
from samepage.linker.version_check import check_versions, missing_tables


class Mode(enum.IntFlag):
    """The second argument of dlopen(3), with glibc's values."""

    LOCAL = 0
    LAZY = 1
    NOW = 2
    NOLOAD = 4
    DEEPBIND = 8
    GLOBAL = 0x100
    NODELETE = 0x1000


class Library:
    """A loaded library. Its functions are attributes, as with `ctypes.CDLL`."""

    def __init__(self, link: LinkMap, mapped: list[LinkMap], process: "Process") -> None:
        self._link = link
        self._process = process
        # Any: ctypes has no public type of a function whose attributes can be set.
        self._functions: dict[str, Any] = {}
        self._closed = False
        self.path = link.name
        """Where the library was found."""
        self.base = link.base
        """The address that is added to the addresses in the file."""
        self.loaded = [link.name for link in mapped]
        """The paths of what this `dlopen` has mapped: the library, and what it needs."""

    def address_of(self, name: str) -> int:
        """The address of a symbol, as `dlsym` finds it in the library and what it needs.

        Raises `AttributeError` if there is none, and `LinkError` after `close`.
        """
        self.initialize()
        return self._process.symbol_address(self._link, name)

    def initialize(self) -> None:
        """Run the constructors of the library and of what it uses, if that is still to do."""
        self._check_open()
        self._process.initialize(self._link)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        """The C function `name`; it returns an int until its `restype` is set otherwise."""
        if name not in self._functions:
            prototype = ctypes.CFUNCTYPE(ctypes.c_int)
            self._functions[name] = prototype(self.address_of(name))
        return self._functions[name]

    def pages(self) -> list[PageState]:
        """Every page of the library: is it resident in this process, and is it a copy?"""
        self._check_open()
        return list(pages_of(self._link))

    def resident(self) -> dict[str, tuple[int, int]]:
        """By part of the library: (resident pages, all pages)."""
        result: dict[str, tuple[int, int]] = {}
        for page in self.pages():
            resident, total = result.get(page.section, (0, 0))
            result[page.section] = (resident + page.resident, total + 1)
        return result

    def close(self) -> None:
        """Give the library back (`dlclose`): what no other open one uses runs its
        destructors and is unmapped. Functions that were fetched must not be called then.

        A library with DF_1_NODELETE, or opened with `Mode.NODELETE`, stays.
        """
        if not self._closed:
            self._closed = True
            self._functions.clear()
            self._process.close(self._link)

    def _check_open(self) -> None:
        if self._closed:
            raise LinkError(f"{self.path}: has been closed")

    def __repr__(self) -> str:
        return f"<Library {self.path} at {self.base:#x}>"


def _own_rules() -> LdsoRules:
    """The rules of the glibc that this process runs on."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    parts = version.split(".")
    known = name == "glibc" and len(parts) > 1 and all(part.isdigit() for part in parts[:2])
    return rules_for((int(parts[0]), int(parts[1]))) if known else rules_for(HOST)


class Process:
    """This process as a namespace of our linker: what ld.so loaded, and what we did."""

    def __init__(self) -> None:
        self.memory = ProcessMemory()
        self.loader = Loader(self.memory, LinkerConfig.from_environment())
        self.loader.follow(_own_rules())
        self._adopt()
        self._binder = Binder(self.loader.maps)
        self._open_count: Counter[LinkMap] = Counter()
        """`l_direct_opencount`: how many open `Library` objects each is the root of."""
        self._bound_to: dict[LinkMap, set[LinkMap]] = {}
        """The objects with definitions that each refers to."""
        self._searched: dict[LinkMap, set[LinkMap]] = {}
        """The objects of the search list that each got when it was opened itself."""
        self._kept: set[LinkMap] = set()
        self._lock = threading.RLock()
        self._uninitialized: dict[LinkMap, None] = {}
        """What has been mapped and not been used, in the order of the constructors."""
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
        with self._lock:
            return self._open(name, mode)

    def _open(self, name: str, mode: Mode) -> Library:
        loader = self.loader
        before = len(loader.maps)
        try:
            root = self._find(name, load=not mode & Mode.NOLOAD)
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
        self._keep(new)
        if mode & Mode.NODELETE:
            self._kept.add(root)
        self._open_count[root] += 1
        order = self._sort(search_list, root, new)
        self._uninitialized.update(dict.fromkeys(order))
        return Library(root, order, self)

    def _sort(self, search_list: list[LinkMap], root: LinkMap, new: list[LinkMap]) -> list[LinkMap]:
        """The order of the constructors of the new objects. What is opened itself for the first
        time is given its whole list, which the order of destructors depends on."""
        if root.closure is None:
            root.closure = self._sorted(search_list, follow_first=root not in new)[1:]
            self._searched[root] = set(search_list)
        return constructor_order([link for link in (root, *root.closure) if link in new])

    def _sorted(self, maps: list[LinkMap], follow_first: bool = False) -> list[LinkMap]:
        """By the rules of the glibc that this process runs on."""
        if self.loader.rules.sorts_depth_first and self.loader.config.dynamic_sort == 2:
            return sort_maps(maps, follow_first)
        return sort_by_moving(maps)

    def _keep(self, new: list[LinkMap]) -> None:
        """Note which objects are never unmapped."""
        unique = self._binder.unique_definers()
        self._kept.update(link for link in unique if link.kind == MapKind.LOADED)
        for link in new:
            if link.object.dynamic.flags_1 & DynamicFlags1.NODELETE:
                self._kept.add(link)

    def initialize(self, root: LinkMap) -> None:
        """Run the constructors of an object and of all that it uses, of each once."""
        with self._lock:
            used = self._used_by([root])
            for link in [link for link in self._uninitialized if link in used]:
                if link in self._uninitialized:  # else a constructor's own call was faster
                    del self._uninitialized[link]
                    self._register_unwinding(link)
                    call_array(self.memory, link, Tag.INIT, Tag.INIT_ARRAY, Tag.INIT_ARRAYSZ)

    def _used_by(self, roots: Iterable[LinkMap]) -> set[LinkMap]:
        """Objects, with all that they need or are bound to, and so on."""
        found = set(roots)
        left = list(found)
        while left:
            link = left.pop()
            uses = {*link.needed, *self._bound_to.get(link, ())} - found
            found |= uses
            left += uses
        return found

    def _find(self, name: str, load: bool) -> LinkMap:
        """The object that `name` names, if it is one of the program's own libraries,
        or one that we have loaded; otherwise it is mapped, if we may `load` it. One that an
        extension module has brought along is not touched: both share the file's pages.
        """

        def counts(link: LinkMap) -> bool:
            return link in self._global_scope or link.kind == MapKind.LOADED

        known = self.loader.by_name.get(name)
        if known is not None and counts(known):
            return known
        return self.loader.map_apart(name, MapKind.LOADED, counts, load)

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
        loader = self.loader
        for error in check_versions(new, loader.by_name, set(), loader.rules, []):
            raise error

    def _relocate(self, new: list[LinkMap], search_list: list[LinkMap], mode: Mode) -> None:
        scopes = [self._global_scope, search_list]
        if mode & Mode.DEEPBIND:
            scopes.reverse()
        order = [link for link in reversed(sort_maps(search_list)) if link in new]
        for link in order:
            link.scopes = [[link], *scopes] if link.object.dynamic.symbolic else scopes
        bindings = self._binder.bind(order)
        for link, references in bindings.references.items():
            definers = np.unique(references.definer[references.definer >= 0])
            self._bound_to[link] = {self.loader.maps[index] for index in definers.tolist()}
        lazy = [False] * len(order)
        for link, name in bindings.undefined(lazy):
            raise LinkError(f"{link.name}: undefined symbol: {name}")
        if self.loader.rules.asserts_versions:
            for error in missing_tables(bindings, self.loader.by_name, lazy):
                raise error
        symbolic = SymbolicRelocation(self.memory, bindings, lazy, [])
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
        """Register the library's frames with libgcc's unwinder, if C++ or the like is in use."""
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

    def _unwinder(self, name: str) -> Callable[[int], object] | None:
        """A function of libgcc_s, if some object of the process has brought it along."""
        alive = [link for link in self.loader.maps if link.scopes]
        found = self._binder.find(name, [alive])
        if found is None:
            return None
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found[0].address_of(found[1]))

    def symbol_address(self, link: LinkMap, name: str) -> int:
        """The address of a symbol in an object or what it needs."""
        with self._lock:  # another thread's open or close changes the binder's tables
            own = [link, *(other for other in _closure(link) if other is not link)]
            found = self._binder.find(name, [own])
        if found is None:
            raise AttributeError(f"{link.name} has no symbol {name}")
        record = found[0].object.symbols[found[1]]
        kind = int(record["st_info"]) & 15
        if kind == STT_TLS:
            raise AttributeError(f"{link.name}: {name} is thread-local")
        address = found[0].address_of(found[1])
        return call_resolver(address) if kind == STT_GNU_IFUNC else address

    def close(self, root: LinkMap) -> None:
        """`dlclose` of one `Library`: unmap what nothing open uses any more."""
        with self._lock:
            self._open_count[root] -= 1
            if self._open_count[root]:
                return
            alive = [link for link in self.loader.maps if link.scopes]
            opened = {link for link, count in self._open_count.items() if count}
            ldsos = {link for link in alive if link.kind != MapKind.LOADED}
            used = self._used_by(ldsos | opened | self._kept)
            unused = [link for link in self._sorted(alive) if link not in used]
            for link in unused:
                if link not in self._uninitialized:
                    call_array(self.memory, link, Tag.FINI, Tag.FINI_ARRAY, Tag.FINI_ARRAYSZ)
            self._forget(unused)
            # What stays, and was searched in a list that is gone, has one of its own from now on,
            # for which glibc takes what it needs: a `dlopen` of it sorts nothing any more.
            lists = [self._searched.pop(link) for link in unused if link in self._searched]
            for link in used.intersection(set[LinkMap]().union(*lists)):
                if link.kind == MapKind.LOADED and link.closure is None:
                    link.closure = list(link.needed)

    def _forget(self, links: list[LinkMap]) -> None:
        """Unmap objects. They stay in `maps`, whose indices are in use, without content."""
        for link in links:
            self._uninitialized.pop(link, None)
            frames = self._unwinding.pop(link, None)
            deregister = self._unwinder("__deregister_frame") if frames is not None else None
            if deregister is not None and frames is not None:
                deregister(frames)
        names = self.loader.by_name
        for name in [name for name, named in names.items() if named in links]:
            del names[name]
        for link in self.loader.maps:
            # What has a soname that was another one's until now.
            if link not in links and link.kind == MapKind.LOADED and link.object.soname is not None:
                names.setdefault(link.object.soname, link)
        self._binder.forget(links)
        for link in links:
            if link.end > link.start:
                self.memory.munmap(link.start, (link.end - link.start + PAGE - 1) & -PAGE)
            link.identity = None
            link.object = _nothing()
            link.scopes = []
            link.needed = []
            link.closure = None
            link.loader = None
            link.start = link.end = 0
            self._bound_to.pop(link, None)
            self._open_count.pop(link, None)
            if link in self._global_scope:
                self._global_scope.remove(link)
        self.loader.search.forget(links)


def _nothing() -> DynamicObject:
    """What is left of the file of an object that is unmapped: a header and no table."""
    header = ELF_MAGIC + b"\2\1\1"
    return DynamicObject.from_bytes(header.ljust(EHDR64.size, b"\0"), "nothing")


def _closure(link: LinkMap) -> list[LinkMap]:
    """An object and all that it needs, breadth-first."""
    found = [link]
    for current in found:
        found += [need for need in current.needed if need not in found]
    return found


_process: Process | None = None
_starting = threading.Lock()


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
    with _starting:
        if _process is None:
            _process = Process()
    return _process.open(name, Mode(mode))
