"""Loading: from a name to mapped objects, breadth-first.

A name is first compared with the objects that are already there: by the names that they
were asked for before, and by DT_SONAME. Otherwise the search opens a file; if its device
and inode are those of a loaded object, it is that object under one more name. Only then
a new object is mapped. The dependencies of all objects are followed breadth-first, which
gives the list that symbols are searched in. Sources: `_dl_map_object`,
`_dl_map_object_from_fd`, `_dl_map_object_deps`, `do_preload` of glibc 2.36.
"""

import os
import re
from collections.abc import Callable

from samepage.abi.elf import DynamicFlags1
from samepage.elf.dynamic import Tag
from samepage.elf.header import ElfError
from samepage.linker.errors import LinkError
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import Memory, OpenFile
from samepage.linker.musl import MUSL, PATH_FILE, MuslNames, MuslSearch, configure, is_musl
from samepage.linker.rules import HOST, LdsoRules, rules_for, rules_of
from samepage.linker.search import LinkerConfig, Search
from samepage.linker.segments import map_segments, plan, plan_of_kernel

DEFAULT_INTERPRETER = "/lib64/ld-linux-x86-64.so.2"


class Loader:
    """The objects of one namespace (`_ns_loaded`).

    `maps` has them in load order: the program, ld.so as the kernel mapped it, then each
    library when it was mapped. `warnings` has what ld.so would have printed on stderr.
    """

    def __init__(self, memory: Memory, config: LinkerConfig) -> None:
        self.memory = memory
        self.config = config
        self.search = Search(memory, config)
        self.maps: list[LinkMap] = []
        self.by_name: dict[str, LinkMap] = {}
        """Paths, requested names and sonames; of equal sonames the first one counts."""
        self.asked: dict[str, LinkMap] = {}
        """By the names that objects were found at or asked for (`l_libname`): a DT_SONAME that
        nothing asked for is not among them."""
        self.program: LinkMap | None = None
        self.interpreter: LinkMap | None = None
        self.warnings: list[str] = []
        self.auditors: list[str] = []
        self.rules: LdsoRules = rules_for(HOST)
        """Those of the interpreter, once it is known."""
        self.on_new: Callable[[LinkMap], None] | None = None
        """Called with each new object before it is mapped."""

    def add_program(self, path: str, origin: str | None = None) -> LinkMap:
        """Map the program and its interpreter, as `execve` does before ld.so starts.

        `origin` is its path without symbolic links, by default as the host resolves it.

        Raises `LinkError` if the program is missing, or one that ld.so does not start.
        """
        file = self._open(path)
        interpreter_path = file.object.interpreter
        reason = ""
        if not len(file.object.dynamic.entries):
            reason = "not a dynamic object"
        elif interpreter_path is None and file.object.dynamic.flags_1 & DynamicFlags1.PIE:
            reason = "statically linked: it relocates itself, without ld.so"
        if reason:
            self.memory.close(file)
            raise LinkError(f"{path}: {reason}", 2)
        program = self._map(file, path, MapKind.EXECUTABLE, None, by_kernel=True)
        program.origin = origin or os.path.realpath(path)
        self.program = program
        name = interpreter_path or DEFAULT_INTERPRETER
        try:
            file = self._open(name)
            self.follow(MUSL if is_musl(name) else rules_of(file.object.elf))
            interpreter = self._map(file, name, MapKind.LIBRARY, None, by_kernel=True)
        except LinkError:
            if interpreter_path:
                raise
            return program  # a library may be linked on a system without glibc
        if is_musl(name):
            self.config = configure(self.memory.read_text(PATH_FILE), self.config)
            self.follow_musl(interpreter)
        self.asked.setdefault(interpreter.object.soname or name, interpreter)
        interpreter.identity = None  # `_dl_rtld_map` has none: found by name only
        self.interpreter = interpreter
        return program

    def follow(self, rules: LdsoRules) -> None:
        """Load by the rules of the program's own ld.so."""
        self.rules = self.search.rules = rules

    def follow_musl(self, libc: LinkMap) -> None:
        """Load as musl does, whose loader is its libc."""
        self.search = MuslSearch(self.memory, self.config)
        self.follow(MUSL)
        self.by_name = MuslNames(libc)

    def _open(self, path: str) -> OpenFile:
        try:
            return self.memory.open(path)
        except OSError as error:
            raise LinkError(f"{path}: {error.strerror}") from None

    def find_auditors(self, program: LinkMap) -> None:
        """Note the auditors of LD_AUDIT and of the program's DT_AUDIT and DT_DEPAUDIT.

        ld.so loads them into namespaces of their own before all libraries, and asks them about
        each search and binding. They are code, which the linker does not run: what they change
        does not show.
        """
        lists = [("LD_AUDIT", self.config.audit)]
        for tag in (Tag.AUDIT, Tag.DEPAUDIT):
            lists.append((f"DT_{tag.name}", program.object.string(tag) or ""))
        for source, names in lists:
            for name in filter(None, names.split(":")):
                if self.config.secure and "/" in name:
                    continue
                try:
                    self.memory.close(self.search.find(name, program, program))
                except (LinkError, ElfError) as error:
                    self.warnings.append(
                        f"object '{name}' cannot be loaded as audit interface: "
                        f"{error.message.removeprefix(name + ': ')}; ignored"
                    )
                    continue
                self.auditors.append(name)
                self.warnings.append(
                    f"object '{name}' from {source} audits the program: what it changes in "
                    "searches and bindings is not shown, since its code is not run"
                )

    def preload(self) -> list[LinkMap]:
        """Load what LD_PRELOAD and /etc/ld.so.preload name; what fails is only warned of."""
        names = re.split("[ :]", self.config.preload)
        if self.config.secure:  # the user's choice; /etc/ld.so.preload is the system's
            names = [name for name in names if "/" not in name]
        text = self.memory.read_text(self.config.preload_file) or b""
        for line in text.decode("utf-8", "surrogateescape").splitlines():
            names += re.split("[ \t:]", line.partition("#")[0])
        loaded = []
        for name in filter(None, names):
            count = len(self.maps)
            try:
                link = self.map_object(name, self.program, preload=True)
            except (LinkError, ElfError) as error:
                self.warnings.append(
                    f"object '{name}' from preload cannot be preloaded ({error.message}): ignored"
                )
                continue
            if len(self.maps) > count:
                loaded.append(link)
        return loaded

    def map_object(
        self,
        name: str,
        loader: LinkMap | None,
        kind: MapKind = MapKind.LIBRARY,
        preload: bool = False,
    ) -> LinkMap:
        """The object that `name` names when `loader` needs it, mapped if it is new.

        Raises `LinkError` if there is no such library, `ElfError` if it is a broken one.
        """
        found = self._map_object(name, loader, kind, preload)
        self.asked.setdefault(name, found)
        return found

    def _map_object(
        self, name: str, loader: LinkMap | None, kind: MapKind, preload: bool
    ) -> LinkMap:
        known = self.by_name.get(name)
        if known is not None:
            return known
        file = self.search.find(name, loader, self.program, preload)
        for link in self.maps:
            # ld.so does not know which file the program is, which the kernel has mapped.
            if link.identity == file.identity and link.kind != MapKind.EXECUTABLE:
                self.memory.close(file)
                self.by_name[name] = link
                return link
        link = self._map(file, file.path, kind, loader, name)
        self.by_name[name] = link
        return link

    def map_apart(
        self, name: str, kind: MapKind, counts: Callable[[LinkMap], bool], load: bool = True
    ) -> LinkMap:
        """The library that `name` leads to: of the objects that have its file mapped, only
        one that `counts` is it. Otherwise it is mapped, maybe once more.

        Raises `LinkError` in place of mapping it, unless `load`.
        """
        file = self.search.find(name, self.program, self.program)
        same = [link for link in self.maps if link.identity == file.identity and counts(link)]
        if same or not load:
            self.memory.close(file)
            if not same:
                raise LinkError(f"{name}: is not loaded")
            self.by_name[name] = same[0]
            return same[0]
        link = self._map(file, file.path, kind, self.program, name)
        for known in (name, file.path, link.object.soname):
            # Of equal sonames the first one counts.
            if known is not None and not (known in self.by_name and counts(self.by_name[known])):
                self.by_name[known] = link
        return link

    def _map(
        self,
        file: OpenFile,
        name: str,
        kind: MapKind,
        loader: LinkMap | None,
        requested: str = "",
        by_kernel: bool = False,
    ) -> LinkMap:
        link = LinkMap(name, file.object, kind, file.identity, loader=loader, origin=file.path)
        link.requested, link.by_kernel = requested, by_kernel
        if self.on_new is not None:
            self.on_new(link)
        try:
            if by_kernel:
                how = plan_of_kernel(file.object, name)
            else:
                how = plan(file.object, self.rules, requested)
            map_segments(self.memory, file, link, how)
        except OSError as error:
            raise LinkError(f"{file.path}: cannot be mapped: {error.strerror}") from None
        finally:
            self.memory.close(file)
        link.index = len(self.maps)
        self.maps.append(link)
        if kind != MapKind.EXECUTABLE:  # the program's name is the empty string to ld.so
            self.by_name.setdefault(name, link)
            self.asked.setdefault(name, link)
        if link.object.soname is not None:
            self.by_name.setdefault(link.object.soname, link)
        return link

    def load_dependencies(
        self,
        root: LinkMap,
        preloads: list[LinkMap] | None = None,
        kind: MapKind = MapKind.LIBRARY,
        on_missing: Callable[[LinkMap, str, LinkError], None] | None = None,
    ) -> list[LinkMap]:
        """Load all that `root` needs; return the search list, `root` first.

        DT_FILTER and DT_AUXILIARY put their libraries before the object that has them.
        A missing library ends the load with a `LinkError`, unless `on_missing` takes it.
        """
        search_list = [root, *(preloads or [])]
        done: set[LinkMap] = set()
        at = 0
        while at < len(search_list):
            link = search_list[at]
            if link in done:
                at += 1
                continue
            done.add(link)
            needed: list[LinkMap] = []
            for tag, index in link.object.dynamic.libraries:
                name = self._library_name(link, tag, index)
                try:
                    found = self.map_object(name, link, kind)
                except LinkError as error:
                    if tag == Tag.AUXILIARY:
                        continue
                    if on_missing is None:
                        raise
                    on_missing(link, name, error)
                    continue
                needed.append(found)
                if tag == Tag.NEEDED:
                    if found not in search_list:
                        search_list.append(found)
                elif found not in search_list[: search_list.index(link) + 1]:
                    if found in search_list:
                        search_list.remove(found)
                    search_list.insert(search_list.index(link), found)
            if link is root or not link.needed:
                link.needed = needed
            # A filter that was put in front of this object has to be looked at first.
            at = 0 if search_list[at] is not link else at + 1
        return search_list

    def _library_name(self, link: LinkMap, tag: Tag, index: int) -> str:
        raw = link.object.strings.get(index, f"DT_{tag.name}")
        if "$" not in raw:
            return raw
        if self.config.secure:
            raise LinkError(f"{raw}: DST not allowed in SUID/SGID programs")
        name = self.search.expand(raw, link)
        if not name:
            raise LinkError(f"{raw}: empty dynamic string token substitution")
        return name
