"""From a fresh `execve` to a linked program: what ld.so's `dl_main` does, step by step.

The order is ld.so's, since the addresses that the kernel gives depend on it. After `start`
the thread stands at the first instruction of our own code, which calls the constructors
and enters the program when the machine runs it.

What the libc of the program expects of its loader decides what else is set up: a program
that has glibc's ld.so among its libraries gets ld.so's variables (`ldso.py`), one of musl
what musl's loader does (`musl.py`), any other a thread block and nothing else.
"""

import os
import re
from dataclasses import replace

from samepage.elf.dynamic import Tag
from samepage.elf.header import ElfError
from samepage.errors import SamepageError
from samepage.kernel.process.task import Task
from samepage.kernel.process.user_stack import Aux
from samepage.kernel.syscalls.numbers import Sys
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE, PROT_EXEC, PROT_READ
from samepage.linker.search import LinkerConfig
from samepage.model.builtin import ldso, tls
from samepage.model.builtin.code import Code
from samepage.model.builtin.heap import Heap, map_anonymous
from samepage.model.builtin.lazy import foreign_words, lazy_size, lazy_table
from samepage.model.builtin.memory import ProgramMemory, read_tables
from samepage.model.builtin.user_side import UserSide
from samepage.model.content import Contents

MODEL_CPU = HardwareCapabilities(("x86-64-v2",))
"""What ld.so finds with CPUID on the model's CPU."""
_CODE_PAGES = 16
"""Reserved for code and tables; what is not used is given back."""


class BuiltinLoader:
    """Starts one program. `result` is what was linked, `user` the thread's user side."""

    def __init__(
        self, task: Task, contents: Contents, environment: dict[str, str], lazy: bool
    ) -> None:
        self.task = task
        self.user = UserSide(task)
        self.memory = ProgramMemory(self.user, contents)
        words = memoryview(task.process.auxv).cast("Q")
        self.auxv = dict(zip(words[::2], words[1::2], strict=True))
        config = LinkerConfig.from_environment(environment)
        bind_now = config.bind_now or not lazy
        config = replace(config, bind_now=bind_now, capabilities=MODEL_CPU)
        self.linker = Linker(self.memory, config, self.user.call)
        self.name = os.fsdecode(task.process.argv[0]) if task.process.argv else ""
        self.result: LinkResult | None = None

    def start(self) -> None:
        """Link the program. Raises `SamepageError` with ld.so's message and status."""
        try:
            with self.user.on_cpu():
                self._start()
        except (LinkError, ElfError) as error:
            path = self.task.process.exe_path
            status = 1 if "version `" in error.message else 127  # ld.so's own statuses
            raise SamepageError(_message(self.name, path, error), status) from None

    def _start(self) -> None:
        program = self._adopt()
        if program is None:
            self.user.jump(self.auxv[Aux.ENTRY])
            return
        heap = self._heap()
        state = ldso.LdsoState(self.user, heap, self.linker, self.auxv)
        if "libc.so.6" in program.object.needed and self.linker.loader.interpreter is not None:
            state.before_libraries(program)
        # Preloads and libraries, breadth-first.
        result = self.result = self.linker.load_libraries(program)
        for link in result.search_list:
            read_tables(self.memory, link)
        interpreter = ldso.find(result)
        if interpreter is not None:
            state.libraries_mapped(result, ldso.recognize(interpreter))
        block = tls.allocate(self.user, heap, result.tls)
        guards = tls.set_guards(self.user, block)
        # Resolvers of IFUNC symbols run while relocating; they need a place to return to.
        place = map_anonymous(self.user, _CODE_PAGES * PAGE)
        code = Code(place)
        self.user.return_address = code.stop
        self.user.store(place, code.data)
        self.user.syscall(Sys.MPROTECT, place, PAGE, PROT_READ | PROT_EXEC)
        self.linker.bind(result)
        # Objects' own pointers first: ld.so's variables are among what they are needed for.
        self.linker.bootstrap(result)
        if interpreter is not None:
            state.before_relocation(block, guards)
        self._relocate(result, code, heap, state if interpreter is not None else None)
        tls.initialize(self.user, block, result.maps)
        self.memory.unmap_texts()
        code.add_fini(self._destructors(result))
        calls = self._constructors(result)
        fini = code.fini
        if interpreter is not None:
            calls = state.early_init() + calls
            fini = state.fini
        code.add_start(calls, fini, self.auxv[Aux.ENTRY])
        self._seal(code)
        self.user.jump(code.start)

    def _heap(self) -> Heap:
        """The rest of ld.so's last page, and more; as ld.so does it, one mapping at once."""
        interpreter = self.linker.loader.interpreter
        if interpreter is None:
            return Heap(self.user)
        end = interpreter.end
        return Heap(self.user, end, (end + PAGE - 1) & -PAGE)

    def _adopt(self) -> LinkMap | None:
        """Take over what the kernel has mapped; None for a program that needs no loader."""
        loader = self.linker.loader
        path = self.task.process.exe_path
        program = self._adopt_object(path, MapKind.EXECUTABLE, self.auxv[Aux.ENTRY])
        program.name = path
        program.origin = path
        if program.object.interpreter is None:
            return None
        loader.program = program
        loader.maps.append(program)
        loader.by_name[path] = program
        if self.auxv[Aux.BASE]:
            name = program.object.interpreter
            interpreter = self._adopt_object(name, MapKind.LIBRARY, 0, self.auxv[Aux.BASE])
            interpreter.identity = None
            interpreter.index = 1
            loader.interpreter = interpreter
            loader.maps.append(interpreter)
            for known in (name, interpreter.object.soname):
                if known is not None:
                    loader.by_name[known] = interpreter
        return program

    def _adopt_object(self, path: str, kind: MapKind, entry: int, base: int = 0) -> LinkMap:
        file = self.memory.open(path)
        self.memory.close(file)
        elf = file.object.elf
        if entry:
            base = entry - elf.entry
        link = LinkMap(path, file.object, kind, file.identity, base=base, origin=path)
        link.start = base + min(load.vaddr for load in elf.loads) & -PAGE
        link.end = base + max(load.vaddr + load.memsz for load in elf.loads)
        return link

    def _relocate(
        self, result: LinkResult, code: Code, heap: Heap, state: "ldso.LdsoState | None"
    ) -> None:
        """Relocate all objects, and give the loader's own words their values."""
        tables: dict[LinkMap, int] = {}
        debug = state.debug if state is not None else 0

        def fill_in(link: LinkMap, result: LinkResult) -> None:
            size = lazy_size(result, link)
            if size:
                tables[link] = heap.allocate(size)
            words = foreign_words(result, link, code, tables.get(link, 0), debug)
            for address, word in words.items():
                self.user.store_word(address, word)
            if state is not None and link.object.soname == ldso.SONAME:
                state.after_relocation()

        self.linker.on_relocated = fill_in
        self.linker.relocate(result)
        # Only now every object is relocated, so that resolvers of functions can run.
        for link, table in tables.items():
            self.user.store(table, lazy_table(self.user, result, link, code, self.name))

    def _constructors(self, result: LinkResult) -> list[tuple[int, int]]:
        calls = []
        for link in result.init_order:
            if link is result.maps[0]:
                continue
            calls += [(function, 0) for function in self.functions(link, Tag.INIT, Tag.INIT_ARRAY)]
        program = result.maps[0]
        first = self.functions(program, None, Tag.PREINIT_ARRAY)
        return [(function, 0) for function in first] + calls

    def _destructors(self, result: LinkResult) -> list[int]:
        calls = []
        for link in result.sorted:
            if link is not result.maps[0]:
                calls += list(reversed(self.functions(link, Tag.FINI, Tag.FINI_ARRAY)))
        return calls

    def functions(self, link: LinkMap, single: Tag | None, array: Tag) -> list[int]:
        """The functions of DT_INIT and DT_INIT_ARRAY (or alike), as they are in memory."""
        dynamic = link.object.dynamic
        found = []
        if single is not None and dynamic.get(single):
            found.append(link.base + dynamic.value(single))
        start = dynamic.get(array)
        size = dynamic.value(_SIZES[array])
        if start is not None and size:
            raw = self.memory.read(link.base + start, size & -8)
            found += list(memoryview(raw).cast("Q"))
        return found

    def _seal(self, code: Code) -> None:
        """Write code and tables, make them executable, and give back what is left."""
        data = code.data
        used = (len(data) + PAGE - 1) & -PAGE
        if used > _CODE_PAGES * PAGE:
            raise LinkError(f"{len(data)} bytes of constructors and messages are too many", 2)
        self.user.syscall(Sys.MPROTECT, code.address, used, 3)
        self.user.store(code.address, data)
        self.user.syscall(Sys.MPROTECT, code.address, used, PROT_READ | PROT_EXEC)
        if used < _CODE_PAGES * PAGE:
            self.user.syscall(Sys.MUNMAP, code.address + used, _CODE_PAGES * PAGE - used)


_SIZES = {
    Tag.INIT_ARRAY: Tag.INIT_ARRAYSZ,
    Tag.FINI_ARRAY: Tag.FINI_ARRAYSZ,
    Tag.PREINIT_ARRAY: Tag.PREINIT_ARRAYSZ,
}


_SYMBOL_ERROR = re.compile(r"(.*): symbol lookup error: (undefined symbol: .*)")
_NEEDED_BY = re.compile(r", needed by [^,]*$")


def _message(program: str, path: str, error: SamepageError) -> str:
    """The line that ld.so would have written; it calls the program by its argv[0]."""
    text = error.message
    symbol = _SYMBOL_ERROR.fullmatch(text)
    if symbol is not None:
        user = program if symbol[1] == path else symbol[1]
        return f"{program}: symbol lookup error: {user}: {symbol[2]}"
    if "version `" in text:
        text = text.replace(f"(required by {path})", f"(required by {program})")
        return f"{program}: {text}"
    return f"{program}: error while loading shared libraries: {_NEEDED_BY.sub('', text)}"
