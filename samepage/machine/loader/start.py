"""From a fresh `execve` to a linked program: what ld.so's `dl_main` does, step by step.

The order is ld.so's, since the addresses that the kernel gives depend on it. After `start`
the thread is at the first instruction of our own code, which calls the constructors
and enters the program when the machine runs it.

What the libc of the program expects of its loader decides what else is set up: a program
that has glibc's ld.so among its libraries gets ld.so's variables (`ldso.py`), one of musl
what musl's loader does (`musl.py`), any other a thread block and nothing else.
"""

import contextlib
import os

from samepage.abi.auxv import Aux, parse_auxv
from samepage.abi.mman import Prot
from samepage.arch import Sys
from samepage.elf.dynamic import Tag
from samepage.elf.header import ElfError
from samepage.errors import SamepageError
from samepage.linker import musl
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import PAGE
from samepage.linker.messages import error_line, warning_line
from samepage.linker.rules import rules_of
from samepage.linker.search import LinkerConfig
from samepage.machine.content import Contents
from samepage.machine.loader import ldso, tls
from samepage.machine.loader.code import Code
from samepage.machine.loader.heap import Heap, map_anonymous
from samepage.machine.loader.lazy import foreign_words, lazy_size, lazy_table
from samepage.machine.loader.memory import ProgramMemory, read_tables
from samepage.machine.loader.musl import MuslState
from samepage.machine.loader.user_side import UserSide
from samepage.records import replace

MODEL_CPU = HardwareCapabilities(("x86-64-v2",))
"""What ld.so finds with CPUID on the model's CPU."""
_CODE_PAGES = 16
"""Reserved for code and tables; what is not used is given back."""


class BuiltinLoader:
    """Starts one program. `result` is what was linked, `user` the thread's user side."""

    def __init__(
        self, user: UserSide, contents: Contents, environment: dict[str, str], lazy: bool
    ) -> None:
        self.user = user
        self.task = task = user.task
        self.memory = ProgramMemory(self.user, contents)
        self.auxv = parse_auxv(task.process.auxv)
        secure = bool(self.auxv.get(Aux.SECURE, 0))
        config = LinkerConfig.from_environment(environment, secure=secure)
        self._config = replace(
            config,
            bind_now=config.bind_now or not lazy,
            capabilities=MODEL_CPU,
            cwd=os.fsdecode(task.kernel.vfs.getcwd(task.process.fs)),
        )
        self.linker = Linker(self.memory, self._config, self.user.call)
        self.name = os.fsdecode(task.process.argv[0]) if task.process.argv else ""
        self.result: LinkResult | None = None
        self._interpreter: str | None = None

    def start(self) -> None:
        """Link the program. Raises `SamepageError` with the loader's message and status."""
        try:
            with self.user.on_cpu():
                self._start()
        except (LinkError, ElfError) as error:
            path = self.task.process.exe_path
            if musl.is_musl(self._interpreter):
                raise SamepageError(musl.message(self.name, path, error.message), 127) from None
            status = error.exit_status if isinstance(error, LinkError) else 127
            raise SamepageError(error_line(self.name, path, error), status) from None
        except OSError as error:
            raise SamepageError(f"{self.name}: cannot be started: {error.strerror}") from None

    def _start(self) -> None:
        path = self.task.process.exe_path
        program = self._adopt(path, MapKind.EXECUTABLE, None)
        interpreter = self._interpreter = program.object.interpreter
        if interpreter is None:
            # The kernel starts it at its entry point, and so do we.
            self.user.jump(self.auxv[Aux.ENTRY])
        elif musl.is_musl(interpreter):
            self._start_musl(program, interpreter)
        else:
            self._start_elf(program, interpreter)

    def _start_elf(self, program: LinkMap, interpreter: str) -> None:
        """Start a program of glibc, or of no libc: the steps of `dl_main`."""
        loader = self._take_over(program, interpreter)
        heap = self._heap()
        state = ldso.LdsoState(self.user, heap, self.linker, self.auxv)
        if "libc.so.6" in program.object.needed and loader is not None:
            state.before_libraries(program)
        result = self._map_libraries(program)
        found = ldso.find(result)
        if found is not None:
            state.libraries_mapped(result, ldso.recognize(found))
        block = tls.allocate(self.user, heap, result.tls)
        guards = tls.set_guards(self.user, block)
        code = self._add_code()
        self.linker.bind(result)
        # Objects' own pointers first: ld.so's variables are among what they are needed for.
        self.linker.bootstrap(result)
        if found is not None:
            state.before_relocation(block, guards)
        self._relocate(result, code, heap, state if found is not None else None)
        tls.initialize(self.user, block, result.maps)
        code.add_fini(self._destructors(result))
        calls, fini = self._constructors(result), code.fini
        if found is not None:
            calls, fini = state.early_init() + calls, state.fini
        self._enter(code, calls, fini)

    def _start_musl(self, program: LinkMap, interpreter: str) -> None:
        """Start a program of musl, whose libc is its interpreter: the steps of `__dls3`."""
        config = musl.configure(self.memory.read_file(musl.PATH_FILE), self._config)
        self.linker = Linker(self.memory, config, self.user.call)
        loader = self.linker.loader
        libc = self._take_over(program, interpreter)
        if libc is None:
            raise LinkError(f"{interpreter}: cannot be used: No such file or directory")
        loader.follow_musl(libc)
        state = MuslState(self.user, libc, self.auxv)
        result = self._map_libraries(program)
        state.layout(result)
        code = self._add_code()
        self.linker.bind(result)
        # musl adds the base each time that it reads a dynamic section.
        self.linker.bootstrap(result, adjust=False)

        def fill_in(link: LinkMap, result: LinkResult) -> None:
            words = foreign_words(result, link, code, 0, 0)
            place = state.debug_word(link) if link is program else None
            if place is not None:
                words[place] = state.debug
            for address, word in words.items():
                self.user.store_word(address, word)

        self.linker.on_relocated = fill_in
        self.linker.relocate(result)
        state.after_relocation(result)
        # Constructors are left to `__libc_start_main`, destructors to `exit`.
        self._enter(code, [], 0)

    def _map_libraries(self, program: LinkMap) -> LinkResult:
        """Preloads and libraries, breadth-first; and what linking reads of each."""
        result = self.result = self.linker.load_libraries(program)
        for name in self.linker.loader.auditors:
            raise LinkError(
                f"{name}: auditors need ld.so itself; run the program without --loader builtin", 2
            )
        for warning in result.warnings:
            self._print(warning_line(self.name, program.name, warning, self._config))
        for link in result.search_list:
            read_tables(self.memory, link)
        return result

    def _print(self, line: str) -> None:
        """Write a line to the program's stderr."""
        text = os.fsencode(line + "\n")
        with contextlib.suppress(OSError):
            self.user.syscall(Sys.WRITE, 2, self.user.push(text), len(text))

    def _add_code(self) -> Code:
        """Map the page of our own code: functions that we call return into it."""
        place = map_anonymous(self.user, _CODE_PAGES * PAGE)
        code = Code(place)
        self.user.return_address = code.stop
        self.user.store(place, code.data)
        self.user.syscall(Sys.MPROTECT, place, PAGE, Prot.READ | Prot.EXEC)
        return code

    def _enter(self, code: Code, calls: list[tuple[int, int]], rdx: int) -> None:
        """Let the thread begin with `calls` and then the program."""
        self.memory.unmap_texts()
        code.add_start(calls, rdx, self.auxv[Aux.ENTRY])
        self._seal(code)
        self.user.jump(code.start)

    def _heap(self) -> Heap:
        """The rest of ld.so's last page, and more; as ld.so does it, one mapping at once."""
        interpreter = self.linker.loader.interpreter
        if interpreter is None:
            return Heap(self.user)
        end = interpreter.end
        return Heap(self.user, end, (end + PAGE - 1) & -PAGE)

    def _take_over(self, program: LinkMap, interpreter: str) -> LinkMap | None:
        """Give the linker what the kernel has mapped; return the interpreter's map."""
        loader = self.linker.loader
        loader.program = program
        loader.maps.append(program)
        base = self.auxv[Aux.BASE]
        if not base:
            return None
        link = self._adopt(interpreter, MapKind.LIBRARY, base)
        link.identity = None  # `_dl_rtld_map` has none: it is found by name only
        link.index = 1
        loader.interpreter = link
        if not musl.is_musl(interpreter):
            loader.follow(rules_of(link.object.elf))
        loader.maps.append(link)
        for name in (interpreter, link.object.soname):
            if name is not None:
                loader.by_name[name] = loader.asked[name] = link
        return link

    def _adopt(self, path: str, kind: MapKind, base: int | None) -> LinkMap:
        """An object that the kernel has mapped at `base`; the program's follows from the
        entry point.
        """
        file = self.memory.open(path)
        self.memory.close(file)
        elf = file.object.elf
        base = self.auxv[Aux.ENTRY] - elf.entry if base is None else base
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

        def set_up(link: LinkMap, result: LinkResult) -> None:
            size = lazy_size(result, link)
            if size:
                tables[link] = heap.allocate(size)
                self.user.store(tables[link], lazy_table(result, link, code, self.name))
            store_foreign(link, result)

        def store_foreign(link: LinkMap, result: LinkResult) -> None:
            words = foreign_words(result, link, code, tables.get(link, 0), debug)
            for address, word in words.items():
                self.user.store_word(address, word)

        def fill_in(link: LinkMap, result: LinkResult) -> None:
            store_foreign(link, result)
            if state is not None and link.object.soname == ldso.SONAME:
                state.after_relocation()

        self.linker.on_lazy = set_up
        self.linker.on_relocated = fill_in
        self.linker.relocate(result)

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
        """The functions of tag `single` and of the array of tag `array`, as they are in memory."""
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
        self.user.syscall(Sys.MPROTECT, code.address, used, Prot.READ | Prot.EXEC)
        if used < _CODE_PAGES * PAGE:
            self.user.syscall(Sys.MUNMAP, code.address + used, _CODE_PAGES * PAGE - used)


_SIZES = {
    Tag.INIT_ARRAY: Tag.INIT_ARRAYSZ,
    Tag.FINI_ARRAY: Tag.FINI_ARRAYSZ,
    Tag.PREINIT_ARRAY: Tag.PREINIT_ARRAYSZ,
}
