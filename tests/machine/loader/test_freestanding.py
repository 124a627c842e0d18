"""Programs without libc: our linker in ld.so's place, against the native run."""

import shutil
import subprocess
from pathlib import Path

import pytest

from samepage import Machine
from samepage.errors import SamepageError
from samepage.kernel.mm.frames import FrameKind
from samepage.machine import StopAt
from tests.linker.workshop import Workshop

SYSCALLS = """
static long sys(long n, long a, long b, long c)
{
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return r;
}
static void put(const char *text) { long n = 0; while (text[n]) n++; sys(1, 1, (long)text, n); }
static void leave(int status) { sys(231, status, 0, 0); }
"""
FREE = ("-nostdlib", "-fno-stack-protector")

ONE_CALL = """
static long sys3(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return r;
}
"""
LIBRARY = (
    ONE_CALL
    + """
int started, target, data[3000] = {1, 2, 3}; int *table[] = {&target, &started, data};
__thread int value = 5; __thread char big[500];
static int two(void) { return 2; }
static void *pick(void) { return two; }
int chosen(void) __attribute__((ifunc("pick")));
int pointer_result(void) { int (*p)(void) = chosen; return p(); }
__attribute__((constructor)) static void first(int argc, char **argv, char **envp) {
    started = argc * 10 + (argv[argc] == 0) + (envp != 0);
    *table[0] = 3;
}
void say(const char *s) { int n = 0; while (s[n]) n++; sys3(1, 1, (long)s, n); }
void leave(int c) { sys3(231, c, 0, 0); }
"""
)
PROGRAM = """
extern int started, data[], *table[]; extern __thread int value;
int chosen(void), pointer_result(void); void say(const char *), leave(int);
static __thread int own = 7;
__attribute__((force_align_arg_pointer)) void _start(void) {
    say(started == 12 ? "started " : "not started ");
    say(table[2] == data ? "bound\\n" : "not bound\\n");
    leave(value + own + chosen() + pointer_result() + *table[0] + data[2]);
}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    return Workshop(tmp_path)


def natively(program: str, *arguments: str) -> tuple[int, bytes]:
    done = subprocess.run([program, *arguments], capture_output=True, check=False, timeout=20)
    return done.returncode, done.stdout


def builtin(program: str, *arguments: str, lazy: bool = False) -> tuple[int | None, bytes]:
    machine = Machine("256M", timeout=30)
    guest = machine.spawn([program, *arguments], loader="builtin", lazy=lazy)
    return machine.run(guest), guest.stdout


@pytest.fixture(params=[False, True], ids=["now", "lazy"])
def same(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Check that a program does natively what it does here; return what it printed."""

    def check(program: str, *arguments: str) -> bytes:
        expected = natively(program, *arguments)
        assert builtin(program, *arguments, lazy=request.param) == expected
        return expected[1]

    return check


def test_functions_and_variables_of_two_libraries(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    workshop.library("libone.so", "int base = 40; int twice(int x) { return 2 * x; }", *FREE)
    workshop.library(
        "libtwo.so",
        "extern int base; int twice(int); int sum(int x) { return base + twice(x); }",
        *FREE,
        "-L.",
        "-lone",
        "-Wl,-rpath,$ORIGIN",
    )
    program = workshop.program(
        SYSCALLS + "int sum(int); int *where(void); extern int base;\n"
        'void _start(void) { base += 1; put(sum(3) == 47 ? "yes\\n" : "no\\n"); leave(sum(3)); }',
        *FREE,
        "-ltwo",
        "-lone",
    )
    assert same(program) == b"yes\n"


def test_constructors_run_dependencies_first_and_get_argc(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    for name, needs in (("a", ()), ("b", ("-la",)), ("top", ("-lb", "-la"))):
        workshop.library(
            f"lib{name}.so",
            SYSCALLS + f"__attribute__((constructor)) static void start(int argc, char **argv)"
            f'{{ put("{name}"); put(argv[argc - 1]); put("\\n"); }}'
            f"int {name}(void) {{ return 1; }}",
            *FREE,
            "-L.",
            "-Wl,--no-as-needed",
            *needs,
            "-Wl,-rpath,$ORIGIN",
        )
    program = workshop.program(
        SYSCALLS + "int top(void); void _start(void) { leave(top()); }", *FREE, "-ltop"
    )
    assert same(program, "x", "!") == b"a!\nb!\ntop!\n"


def test_the_exit_function_runs_destructors(workshop: Workshop) -> None:
    workshop.library(
        "libd.so",
        SYSCALLS + '__attribute__((destructor)) static void stop(void) { put("bye\\n"); }'
        "int d(void) { return 1; }",
        *FREE,
    )
    program = workshop.program(
        SYSCALLS + "int d(void);"
        "void begin(void (*finish)(void)) { int n = d(); if (finish) finish(); leave(n); }\n"
        '__asm__(".globl _start; _start: mov %rdx, %rdi; and $-16, %rsp; call begin");',
        *FREE,
        "-ld",
    )
    # glibc's own _dl_fini fails an assertion where no object needs ld.so.
    assert builtin(program) == (1, b"bye\n")


@pytest.mark.parametrize("model", ["initial-exec", "local-exec"])
def test_static_tls(workshop: Workshop, same, model: str) -> None:  # type: ignore[no-untyped-def]
    library_model = "initial-exec"
    workshop.library(
        "libt.so",
        "__thread int a = 5; __thread char gap[100]; __thread int b = 6;"
        "int next(void) { return ++a + b; }",
        *FREE,
        f"-ftls-model={library_model}",
    )
    program = workshop.program(
        SYSCALLS + "extern __thread int a; int next(void); static __thread int mine = 7;"
        "void _start(void) { int n = next(); leave(n * 10 + a + mine); }",
        *FREE,
        "-lt",
        *(() if model == "local-exec" else (f"-ftls-model={model}",)),
    )
    same(program)


@pytest.mark.parametrize("lazy", [False, True])
def test_dynamic_tls_by_ldsos_own_function(workshop: Workshop, lazy: bool) -> None:
    workshop.library(
        "libg.so",
        "__thread int a = 5; static __thread int hidden = 9;"
        "int next(void) { return ++a + ++hidden; }",
        *FREE,
        "-ftls-model=global-dynamic",
        "/lib64/ld-linux-x86-64.so.2",
    )
    program = workshop.program(
        SYSCALLS + "int next(void); void begin(void) { next(); leave(next()); }"
        '__asm__(".globl _start; _start: and $-16, %rsp; call begin");'
        # ld.so wants to go over to the program's malloc.
        "static char pool[65536]; static long used;"
        "void *malloc(long n) { long at = used; used += (n + 15) & -16; return pool + at; }"
        "void *calloc(long n, long m) { return malloc(n * m); }"
        "void *realloc(void *p, long n) { return malloc(n); } void free(void *p) {}",
        *FREE,
        "-lg",
        "-Wl,-E",
    )
    # glibc's own ld.so crashes where libc is not among the libraries.
    assert builtin(program, lazy=lazy) == (18, b"")


def test_tls_descriptors(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    workshop.library(
        "libs.so",
        "__thread int a = 5; extern __thread int none __attribute__((weak));"
        "int next(void) { return ++a + (&none == 0); }",
        *FREE,
        "-mtls-dialect=gnu2",
    )
    program = workshop.program(
        SYSCALLS + "int next(void); void _start(void) { leave(next()); }", *FREE, "-ls"
    )
    same(program)


def test_ifunc_resolvers_run_in_the_program(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    workshop.library(
        "libi.so",
        "static int odd(int x) { return x * 3; } static int even(int x) { return x * 2; }"
        "int calls; static void *choose(void) { calls++; return odd; }"
        'int work(int) __attribute__((ifunc("choose")));'
        "int count(void) { return work(1) + calls; }",
        *FREE,
    )
    program = workshop.program(
        SYSCALLS + "int work(int); int count(void); extern int calls;"
        "void _start(void) { leave(work(10) + (count() > 0)); }",
        *FREE,
        "-li",
    )
    same(program)


def test_weak_and_interposed_symbols(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    workshop.library(
        "libw.so", "int who(void) { return 1; } int ask(void) { return who(); }", *FREE
    )
    program = workshop.program(
        SYSCALLS + "int missing(void) __attribute__((weak)); int ask(void);"
        "int who(void) { return 2; }"
        "void _start(void) { leave(ask() * 10 + (missing ? 1 : 0)); }",
        *FREE,
        "-lw",
        "-Wl,-E",
    )
    same(program)


def test_versions_of_one_symbol(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    (workshop.directory / "map").write_text("V1 { global: f; }; V2 { global: f; } V1;")
    workshop.library(
        "libv.so",
        "int old(void) { return 1; } int new(void) { return 2; }"
        '__asm__(".symver old,f@V1"); __asm__(".symver new,f@@V2");',
        *FREE,
        "-Wl,--version-script,map",
    )
    program = workshop.program(
        SYSCALLS + 'int f(void); int f1(void); __asm__(".symver f1,f@V1");'
        "void _start(void) { leave(f() * 10 + f1()); }",
        *FREE,
        "-lv",
    )
    same(program)


@pytest.mark.parametrize(
    "flags",
    [(), ("-Wl,-z,now",), ("-no-pie", "-fno-pie"), ("-Wl,-z,pack-relative-relocs",)],
)
def test_every_kind_of_relocation(workshop: Workshop, same, flags: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    workshop.library("libfree.so", LIBRARY, "-nostdlib", *[f for f in flags if "relocs" in f])
    path = workshop.program(PROGRAM, "-nostdlib", "-lfree", *flags)
    assert same(path) == b"started bound\n"


def test_two_processes_share_the_library(workshop: Workshop) -> None:
    workshop.library("libfree.so", LIBRARY, "-nostdlib")
    path = workshop.program(PROGRAM, "-nostdlib", "-lfree")
    machine = Machine("256M")
    frames = []
    for _ in range(2):
        guest = machine.spawn([path], env={}, loader="builtin")
        machine.run(guest)
        pages = guest.pages("libfree.so")
        frames.append({page.frame for page in pages if page.kind is FrameKind.FILE})
    assert frames[0]
    assert frames[0] == frames[1]


def test_a_static_program_needs_no_loader(workshop: Workshop, same) -> None:  # type: ignore[no-untyped-def]
    same(workshop.build("s", SYSCALLS + "void _start(void) { leave(9); }", *FREE, "-static"))


def test_an_interpreter_that_does_not_exist_is_not_missed(workshop: Workshop) -> None:
    program = workshop.program(
        SYSCALLS + "void _start(void) { leave(4); }", *FREE, "-Wl,-dynamic-linker,/no/ld.so"
    )
    assert builtin(program) == (4, b"")


def test_lazy_slots_lead_to_the_plt_until_the_first_call(workshop: Workshop) -> None:
    workshop.library("libl.so", "int f(void) { return 1; } int g(void) { return 2; }", *FREE)
    program = workshop.program(
        SYSCALLS + "int f(void); int g(void);"
        'void _start(void) { f(); f(); put(""); if (!f()) g(); leave(0); }',
        *FREE,
        "-ll",
        "-fplt",
        "-Wl,-z,lazy",
    )
    slots = _slots(program)
    machine = Machine("256M")
    guest = machine.spawn([program], loader="builtin", lazy=True)
    machine.run(guest, StopAt.ENTRY)
    base, code = guest.base_of("program"), guest.base_of("libl.so")

    def targets() -> set[bool]:
        words = [int.from_bytes(guest.memory.read(base + s, 8), "little") for s in slots]
        return {code <= word < code + 0x10000 for word in words}

    assert targets() == {False}
    assert machine.run(guest) == 0
    assert targets() == {False, True}  # f is bound, g was never called


def _slots(program: str) -> list[int]:
    done = subprocess.run(["readelf", "-rW", program], capture_output=True, text=True, check=True)
    return [int(line.split()[0], 16) for line in done.stdout.splitlines() if "JUMP_SLO" in line]


def test_a_missing_library_is_ldsos_message_and_status_127(workshop: Workshop) -> None:
    workshop.library("libm1.so", "int f(void) { return 1; }", *FREE)
    program = workshop.program(
        SYSCALLS + "int f(void); void _start(void) { leave(f()); }", *FREE, "-lm1"
    )
    (workshop.directory / "libm1.so").unlink()
    assert _refused(program) == _native_message(program)


def test_a_missing_version_is_ldsos_message(workshop: Workshop) -> None:
    script = workshop.directory / "map"
    for versions in ("V1 { global: f; }; V2 { global: g; } V1;", "V1 { global: f; g; };"):
        script.write_text(versions)
        workshop.library(
            "libn.so", "int f(void) { return 1; } int g(void) { return 1; }", *FREE,
            "-Wl,--version-script,map",
        )  # fmt: skip
        if "V2" in versions:
            program = workshop.program(
                SYSCALLS + "int g(void); void _start(void) { leave(g()); }", *FREE, "-ln"
            )
    assert _refused(program, 1) == _native_message(program, 1)


def test_a_missing_symbol_is_ldsos_message(workshop: Workshop) -> None:
    workshop.library("libu.so", "int v; int *f(void) { return &v; }", *FREE)
    program = workshop.program(
        SYSCALLS + "extern int v; int *p = &v; void _start(void) { leave(*p); }", *FREE, "-lu"
    )
    workshop.library("libu.so", "int *f(void) { return 0; }", *FREE)
    assert _refused(program) == _native_message(program)


def test_a_missing_function_ends_the_program_when_it_is_called(workshop: Workshop) -> None:
    workshop.library("libx.so", "int f(void) { return 1; }", *FREE)
    program = workshop.program(
        SYSCALLS + 'int f(void); void _start(void) { put("before\\n"); leave(f()); }',
        *FREE,
        "-lx",
        "-Wl,-z,lazy",
    )
    workshop.library("libx.so", "int g(void) { return 1; }", *FREE)
    expected = natively(program)
    assert expected == (127, b"before\n")
    assert builtin(program, lazy=True) == (
        127,
        b"before\n" + _native_message(program).encode() + b"\n",
    )


@pytest.mark.parametrize("body", ["*(volatile int *)0 = 1;", "sys(231, 3, 0, 0);"])
def test_a_resolver_that_does_not_return_is_an_error(workshop: Workshop, body: str) -> None:
    workshop.library(
        "libr.so",
        SYSCALLS + f"static void *choose(void) {{ {body} return 0; }}"
        'int work(int) __attribute__((ifunc("choose")));',
        *FREE,
    )
    program = workshop.program(
        SYSCALLS + "int work(int); void _start(void) { leave(work(1)); }", *FREE, "-lr"
    )
    machine = Machine("256M")
    with pytest.raises(SamepageError, match="did not return"):
        machine.spawn([program], loader="builtin")
    other = machine.spawn(["/bin/true"])
    assert machine.run(other) == 0


def test_a_missing_preload_is_reported_and_ignored(workshop: Workshop) -> None:
    program = workshop.program(SYSCALLS + "void _start(void) { leave(6); }", *FREE)
    environment = {"LD_PRELOAD": "libnone.so"}
    native = subprocess.run([program], env=environment, capture_output=True, check=False)
    guest = Machine("256M").spawn([program], env=environment, loader="builtin")
    assert (guest.machine.run(guest), guest.stdout) == (native.returncode, native.stderr)


def _refused(program: str, status: int = 127) -> str:
    with pytest.raises(SamepageError) as caught:
        Machine("256M").spawn([program], loader="builtin")
    assert caught.value.exit_status == status
    return caught.value.message


def _native_message(program: str, status: int = 127) -> str:
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == status
    return done.stderr.strip()
