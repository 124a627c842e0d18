"""Each rule of symbol binding, as a small program that the real ld.so links too.

Every test compares all bindings and every relocated byte with ld.so's; the assertions
explain the rule.
"""

import subprocess
from collections.abc import Callable

import pytest

from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.search import LinkerConfig
from samepage.records import replace
from tests.linker.workshop import Workshop

Agree = Callable[..., object]


def bindings(path: str, **options: str) -> dict[tuple[str, str], str | None]:
    """(user, symbol) to definer, by base names, of our linker."""
    config = replace(LinkerConfig(), bind_now=True, **options)
    linker = Linker(ImageMemory(), config, lambda address: address)
    result: LinkResult = linker.link(path)
    assert linker.binder is not None
    found = {}
    for link, references in result.references.items():
        for binding in linker.binder.explain(link, references):
            definer = binding.definer
            found[link.name.rpartition("/")[2], binding.symbol] = (
                definer.name.rpartition("/")[2] if definer else None
            )
    return found


def test_the_program_interposes_a_library(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int f(void){return 1;} int g(void){return f();}")
    path = workshop.program(
        "int f(void){return 2;} int g(void); int main(){return g();}", "-la", "-rdynamic"
    )
    agree(path)
    assert bindings(path)["liba.so", "f"] == "program"


def test_the_first_library_in_breadth_first_order_wins(workshop: Workshop, agree: Agree) -> None:
    workshop.library("libdeep.so", "int f(void){return 1;}")
    workshop.library(
        "liba.so", "int f(void); int a(void){return f();}", "-L.", "-ldeep", "-Wl,-rpath,$ORIGIN"
    )
    workshop.library("libb.so", "int f(void){return 2;}")
    path = workshop.program("int a(void); int main(){return a();}", "-la", "-lb")
    agree(path)
    assert bindings(path)["liba.so", "f"] == "libb.so"


def test_symbolic_objects_search_themselves_first(workshop: Workshop, agree: Agree) -> None:
    source = "int f(void){return 1;} int g(void){return f();} int (*p)(void) = f;"
    workshop.library("liba.so", source, "-Wl,-Bsymbolic", "-Wl,-z,nodynamic-undefined-weak")
    workshop.library("libb.so", source + "extern int x; int x;", "-Wl,--enable-new-dtags")
    path = workshop.program(
        "int f(void){return 2;} int g(void); int main(){return g();}", "-la", "-rdynamic"
    )
    agree(path)


def test_protected_functions_stay_in_their_object(workshop: Workshop, agree: Agree) -> None:
    workshop.library(
        "liba.so",
        '__attribute__((visibility("protected"))) int f(void){return 1;}'
        "int g(void){return f();} void *address(void){return (void*)f;} int (*p)(void) = f;",
    )
    path = workshop.program(
        "int f(void){return 2;} int g(void); int main(){return g();}", "-la", "-rdynamic"
    )
    agree(path)


def test_weak_undefined_symbols_are_zero(workshop: Workshop, agree: Agree) -> None:
    path = workshop.program(
        "extern int nobody(void) __attribute__((weak)); int (*p)(void) = nobody;"
        "int main(){return p ? p() : 0;}",
        "-fPIC",
        "-pie",
    )
    agree(path)


def test_a_weak_definition_counts_like_a_strong_one(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "__attribute__((weak)) int f(void){return 1;}")
    workshop.library("libb.so", "int f(void){return 2;}")
    path = workshop.program("int f(void); int main(){return f();}", "-la", "-lb")
    agree(path)
    assert bindings(path)["program", "f"] == "liba.so"


def test_versions_default_and_hidden(workshop: Workshop, agree: Agree) -> None:
    script = workshop.directory / "versions"
    script.write_text("V1 { global: f; local: *; }; V2 { global: f; } V1;")
    workshop.library(
        "liba.so",
        "int one(void){return 1;} int two(void){return 2;}"
        '__asm__(".symver one,f@V1"); __asm__(".symver two,f@@V2");',
        f"-Wl,--version-script={script}",
    )
    new = workshop.program("int f(void); int main(){return f();}", "-la", name="new")
    old = workshop.program(
        'int old(void); __asm__(".symver old,f@V1"); int main(){return old();}', "-la", name="old"
    )
    agree(new)
    agree(old)


def test_an_unversioned_reference_takes_the_base_version(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int f(void){return 1;}")
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    script = workshop.directory / "versions"
    script.write_text("V1 { global: f; local: *; }; V2 { global: g; } V1;")
    workshop.library(
        "liba.so", "int f(void){return 1;} int g(void){return 2;}", f"-Wl,--version-script={script}"
    )
    agree(path)


def test_unique_symbols_are_one_in_the_process(workshop: Workshop, agree: Agree) -> None:
    source = (
        "inline int *shared() { static int value = 7; return &value; }"
        "int *{name}() {{ return shared(); }}"
    )
    for name in ("a", "b"):
        workshop.library(
            f"lib{name}.so++",
            source.replace("{name}", name).replace("{{", "{").replace("}}", "}"),
            "-Wl,-Bsymbolic" if name == "a" else "-g0",
        )
    path = workshop.program(
        "int *_Z1av(void), *_Z1bv(void);int main(){return _Z1av() != _Z1bv();}", "-la", "-lb"
    )
    agree(path)


def test_copy_relocations_copy_relocated_data(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int target; int *pointer = &target; int big[100] = {1, 2, 3};")
    path = workshop.program(
        "extern int *pointer; extern int big[]; int main(){return *pointer + big[2];}",
        "-la",
        "-no-pie",
        "-fno-pie",
    )
    agree(path)
    assert bindings(path)["liba.so", "pointer" if False else "target"] in ("liba.so", "program")


def test_a_function_address_in_a_fixed_program_is_its_plt(workshop: Workshop, agree: Agree) -> None:
    workshop.library("liba.so", "int f(void){return 1;} void *address(void){return (void*)f;}")
    path = workshop.program(
        "int f(void); void *address(void); int main(){return address() != (void*)f;}",
        "-la",
        "-no-pie",
        "-fno-pie",
    )
    agree(path)


@pytest.mark.parametrize(
    "flags", [("-mtls-dialect=gnu",), ("-mtls-dialect=gnu2",), ("-ftls-model=initial-exec",)]
)
def test_thread_local_storage(workshop: Workshop, agree: Agree, flags: tuple[str, ...]) -> None:
    workshop.library(
        "liba.so",
        "__thread int a = 1; __thread char pad[100]; static __thread long hidden[5] = {9};"
        "__attribute__((aligned(64))) __thread int aligned = 3;"
        "int *pa(void){return &a;} long *ph(int i){return &hidden[i];} char *pp(void){return pad;}"
        "int *pl(void){return &aligned;}",
        *flags,
    )
    path = workshop.program(
        "extern __thread int a; __thread int own = 4; int *pa(void); int main(){return a + own;}",
        "-la",
    )
    agree(path)


def test_ifunc_resolvers_choose(workshop: Workshop, agree: Agree) -> None:
    workshop.library(
        "liba.so",
        "static int one(void){return 1;} static int calls = 5;"
        "static void *pick(void){calls = 6; return one;}"
        'int f(void) __attribute__((ifunc("pick"))); int g(void){return f();}'
        "int (*pointer)(void) = f;",
    )
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    agree(path)


def test_a_resolver_may_use_a_plt_that_is_bound_lazily(workshop: Workshop, agree: Agree) -> None:
    """Its own object's, while that is relocated: functions of libraries with a PLT of their
    own, and one that has a resolver itself."""
    workshop.library("libc1.so", "int deep(int a){return a + 1;}")
    workshop.library(
        "libb.so", "int deep(int); int pick(int a){return deep(a);}", "-Wl,-z,lazy", "-L.", "-lc1"
    )
    workshop.library("liba.so", CALLING_RESOLVER, "-Wl,-z,lazy", "-L.", "-lb")
    path = workshop.program("int f(void); int main(){return f() != 2;}", "-la", "-lb", "-lc1")
    agree(path)
    assert subprocess.run([path], check=False).returncode == 0


CALLING_RESOLVER = """
    int pick(int), calls;
    static double sum(double a, double b) { return a + b; }
    static void *resolve_add(void) { calls++; return sum; }
    double add(double, double) __attribute__((ifunc("resolve_add")));
    double (*also)(double, double) = add;
    static int one(void) { return 1; }
    static int two(void) { return 2; }
    static volatile double a = 1.5, b = 2.5;
    static void *resolve(void) { return pick(6) == 7 && add(a, b) == 4.0 ? two : one; }
    __attribute__((visibility("hidden"))) int chosen(void) __attribute__((ifunc("resolve")));
    int f(void) { return chosen(); }
"""


def test_each_reference_to_an_ifunc_is_a_call_of_its_resolver(
    workshop: Workshop, agree: Agree
) -> None:
    workshop.library(
        "liba.so",
        "int calls; static int one(void){return 1;} static void *pick(void){calls++; return one;}"
        'int f(void) __attribute__((ifunc("pick"))); int g(void){return f();}'
        "int (*pointers[])(void) = {f, f, f};",
    )
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    agree(path)


def test_packed_relative_relocations(workshop: Workshop, agree: Agree) -> None:
    lines = ", ".join("&target" if i % 3 else "0" for i in range(300))
    workshop.library(
        "liba.so", f"static int target; int *table[] = {{{lines}}};", "-Wl,-z,pack-relative-relocs"
    )
    path = workshop.program(
        "extern int *table[]; int main(){return table[1] == 0;}", "-la", "-fPIC"
    )
    agree(path)


def test_text_relocations(workshop: Workshop, agree: Agree) -> None:
    source = (
        '__asm__(".text\\n.globl code\\ncode: movabs $data, %rax\\nret\\n'
        '.data\\ndata: .long 5\\n.text");'
    )
    workshop.library("liba.so", source, "-Wl,-z,notext", "-nostdlib")
    path = workshop.program("extern int *code(void); int main(){return *code() != 5;}", "-la")
    agree(path)


def test_an_object_with_only_the_old_hash_table(workshop: Workshop, agree: Agree) -> None:
    workshop.library(
        "liba.so", "int f(void){return 1;} int g(void){return f();}", "-Wl,--hash-style=sysv"
    )
    path = workshop.program("int f(void), g(void); int main(){return f() + g();}", "-la")
    agree(path)


def test_large_segment_alignment(workshop: Workshop, agree: Agree) -> None:
    workshop.library(
        "liba.so",
        "int f(void){return 1;} int data = 3;",
        "-Wl,-z,max-page-size=65536",
        "-Wl,-z,common-page-size=65536",
    )
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    agree(path)
