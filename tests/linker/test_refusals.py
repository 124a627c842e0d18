"""What ld.so refuses, warns of, or dies of: the real one's last line is the oracle."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samepage.errors import SamepageError
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.search import LinkerConfig
from samepage.linker.secure import is_secure
from samepage.records import replace
from samepage.verify.linking import Comparison, compare
from tests.linker.workshop import Workshop

Agree = Callable[..., Comparison]

PROTECTED = '__attribute__((visibility("protected"))) '
USES = "extern int v; int f(void); int main(){int (*volatile p)(void) = f; return v + p();}"


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"no {program}")


def link(path: str, **options: object) -> LinkResult:
    config = replace(LinkerConfig(), **options)  # type: ignore[arg-type]
    return Linker(ImageMemory(), config, keep_going=True).link(path)


def refused(path: str, bind_now: bool = True, **environment: str) -> Comparison:
    """Both linkers refuse the program, for the same reason."""
    found = compare(path, {"PATH": "/usr/bin", **environment}, bind_now=bind_now)
    assert found.theirs
    assert found.ours
    assert found.agrees, found
    return found


def test_versions_of_a_library_that_is_no_longer_needed(
    workshop: Workshop, needs_ptrace: None
) -> None:
    """What `patchelf --remove-needed` of version 0.14 leaves."""
    needs("patchelf")
    script = workshop.directory / "versions"
    script.write_text("V1 { global: *; };")
    library = workshop.library(
        "liba.so", "int f(void){return 1;}", f"-Wl,--version-script={script}"
    )
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    subprocess.run(["patchelf", "--remove-needed", "liba.so", path], check=True)
    assert "needed != NULL" in refused(path).theirs
    assert "needed != NULL" in refused(path, bind_now=False).theirs
    assert any("_dl_check_map_versions" in error for error in link(path).errors)
    # A preload is known by the name that it was asked for, not by its DT_SONAME.
    refused(path, LD_PRELOAD=library)
    found = compare(
        path,
        {"LD_PRELOAD": "liba.so", "LD_LIBRARY_PATH": str(workshop.directory)},
        bind_now=True,
    )
    assert found.agrees
    assert not found.theirs


def protected_pair(workshop: Workshop, *flags: str) -> str:
    """A program that was linked when the library's symbols were not protected yet."""
    source = "int v = 5; int f(void){return v;}"
    workshop.library("liba.so", source)
    path = workshop.program(USES, "-la", "-fno-pie", "-no-pie")
    workshop.library(
        "liba.so", f"{PROTECTED}int v = 5; {PROTECTED}int f(void){{return 1;}}", *flags
    )
    return path


def test_protected_symbols_that_the_program_has_taken_over(
    workshop: Workshop, agree: Agree
) -> None:
    path = protected_pair(workshop)
    agree(path)
    warnings = " ".join(link(path, bind_now=True).warnings)
    assert "copy relocation against non-copyable protected symbol `v'" in warnings
    assert "direct reference to protected function `f'" in warnings


def test_indirect_external_access_is_an_error(workshop: Workshop, needs_ptrace: None) -> None:
    try:
        path = protected_pair(workshop, "-Wl,-z,indirect-extern-access")
    except subprocess.CalledProcessError:
        pytest.skip("the linker does not know -z indirect-extern-access")
    assert "GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS" in refused(path).theirs


RESOLVER = """
    int helper(void);
    static int one(void) { return 1; }
    static int two(void) { return 2; }
    static void *pick(void) { return helper() ? one : two; }
    int f(void) __attribute__((ifunc("pick")));
    int (*pointer)(void) = f;
"""


def test_a_resolver_that_uses_a_lazy_plt_too_early(workshop: Workshop, needs_ptrace: None) -> None:
    """A pointer to the function is in DT_RELA, before the PLT's slots have their base."""
    workshop.library("libb.so", "int helper(void){return 1;}")
    workshop.library("liba.so", RESOLVER, "-L.", "-lb", "-Wl,-z,lazy", "-fplt")
    path = workshop.program("int f(void); int main(){return f();}", "-la", "-lb")
    found = refused(path, bind_now=False)
    assert found.theirs.startswith("SIGSEGV")
    assert refused(path).theirs.startswith("SIGSEGV")


def test_a_resolver_in_an_object_that_is_relocated_later(workshop: Workshop, agree: Agree) -> None:
    workshop.library(
        "libb.so",
        "static int g(void){return 3;} static void *pick(void){return g;}"
        'int f(void) __attribute__((ifunc("pick")));',
    )
    workshop.library("liba.so", "int f(void); int a(void){return f();}", "-Wl,-z,now")
    path = workshop.program("int a(void); int main(){return a();}", "-lb", "-la")
    agree(path)
    assert any("Relink `" in text for text in link(path).warnings)


def test_a_resolver_in_the_program_for_a_library(workshop: Workshop, needs_ptrace: None) -> None:
    workshop.library("liba.so", "int f(void); int a(void){return f();}", "-Wl,-z,now")
    path = workshop.program(
        "static int g(void){return 3;} static void *pick(void){return g;}"
        'int f(void) __attribute__((ifunc("pick"))); int a(void); int main(){return a();}',
        "-la",
        "-rdynamic",
    )
    assert "unsatisfiable circular dependency" in refused(path).theirs


def test_the_first_undefined_symbol_is_that_of_the_first_entry(
    workshop: Workshop, needs_ptrace: None
) -> None:
    symbols = [f"s{number}" for number in range(20)]
    source = "".join(f"extern int {name};" for name in symbols)
    uses = "+".join(f"(long)&{name}" for name in reversed(symbols))
    workshop.library("liba.so", f"{source} long a(void){{return {uses};}} int *p = &s7;")
    path = workshop.program(
        "long a(void); int main(){return a();}", "-la", "-Wl,--unresolved-symbols=ignore-all"
    )
    assert "undefined symbol: s" in refused(path).theirs


def test_auditors_are_named(workshop: Workshop) -> None:
    auditor = workshop.library("libaudit.so", "unsigned la_version(unsigned v){return v;}")
    path = workshop.build("audited", "int main(){return 0;}", f"-Wl,--audit={auditor}")
    assert any(f"'{auditor}' from DT_AUDIT audits" in text for text in link(path).warnings)
    assert any("from LD_AUDIT" in text for text in link("/bin/true", audit=auditor).warnings)
    with pytest.raises(SamepageError, match="auditor"):
        compare(path, {}, bind_now=True)


def test_an_auditor_that_is_not_there(agree: Agree) -> None:
    agree("/bin/true", LD_AUDIT="/does/not/exist.so")


@pytest.fixture
def open_workshop() -> Iterator[Workshop]:
    """A workshop in a directory that other users may enter."""
    with tempfile.TemporaryDirectory(prefix="samepage-") as directory:
        Path(directory).chmod(0o755)
        yield Workshop(Path(directory))


def test_set_user_id_programs(open_workshop: Workshop, needs_ptrace: None) -> None:
    """The real ld.so in secure mode: the program prints whether the library was found."""
    workshop = open_workshop
    if os.getuid() != 0 or os.statvfs(workshop.directory).f_flag & os.ST_NOSUID:
        pytest.skip("needs root, and a file system without nosuid")
    workshop.library("lib/liba.so", "int a(void){return 0;}")
    preload = workshop.library("libp.so", "int a(void){return 9;}")
    source = "int a(void); int main(){return a();}"
    by_origin = workshop.build("by_origin", source, "-Llib", "-la", "-Wl,-rpath,$ORIGIN/lib")
    by_path = workshop.build("by_path", source, "-Llib", "-la")
    absolute = workshop.build(
        "absolute", source, "-Llib", "-la", f"-Wl,-rpath,{workshop.directory}/lib"
    )
    environment = {"LD_LIBRARY_PATH": f"{workshop.directory}/lib", "LD_PRELOAD": preload}
    for path in (by_origin, by_path, absolute):
        for secure in (False, True):
            if secure:
                os.chown(path, 1, -1)
                Path(path).chmod(0o4755)
            assert is_secure(path) is secure
            real = subprocess.run([path], env=environment, capture_output=True, check=False)
            config = replace(LinkerConfig.from_environment(environment), secure=secure)
            ours = Linker(ImageMemory(), config, keep_going=True).link(path)
            assert bool(ours.errors) == (real.returncode == 127), path
            if not ours.errors:
                names = [os.path.basename(item.name) for item in ours.search_list]
                assert ("libp.so" in names) == (real.returncode == 9)
        # The comparison is of the same file at its place, without its rights.
        assert compare(path, environment, bind_now=True).agrees


def test_a_constructor_that_ends_the_program_without_a_word(
    workshop: Workshop, needs_ptrace: None
) -> None:
    """How it ended is reported: a status, or a signal that stops nothing."""
    source = "#include <unistd.h>\n__attribute__((constructor)) void c(void){_exit(5);}"
    workshop.library("libquit.so", source)
    path = workshop.program("int main(){return 0;}", "-lquit")
    assert compare(path, bind_now=True).theirs == "it exits with status 5"
    source = "#include <signal.h>\n__attribute__((constructor)) void c(void){raise(SIGKILL);}"
    workshop.library("libquit.so", source)
    assert compare(path, bind_now=True).theirs == "it is killed by SIGKILL"


def test_a_constructor_with_threads_that_waits_for_them(agree: Agree, workshop: Workshop) -> None:
    """Arrow's pool: threads that are started by a constructor, and one that outlives it."""
    source = """
    #include <pthread.h>
    #include <unistd.h>
    static void *work(void *a) { return a; }
    static void *stay(void *a) { for (;;) pause(); }
    __attribute__((constructor)) void start(void) {
        pthread_t t, u;
        pthread_create(&u, 0, stay, 0);
        for (int i = 0; i < 8; i++) {
            pthread_create(&t, 0, work, 0);
            pthread_join(t, 0);
        }
    }"""
    workshop.library("libpool.so", source, "-pthread")
    agree(workshop.program("int main(){return 0;}", "-lpool"))


def test_a_constructor_that_waits_for_ever_ends_with_a_message(
    workshop: Workshop, needs_ptrace: None
) -> None:
    source = """
    #include <pthread.h>
    #include <unistd.h>
    static void *stay(void *a) { for (;;) pause(); }
    __attribute__((constructor)) void start(void) {
        pthread_t t;
        pthread_create(&t, 0, stay, 0);
        pthread_join(t, 0);
    }"""
    workshop.library("libstuck.so", source, "-pthread")
    path = workshop.program("int main(){return 0;}", "-lstuck")
    with pytest.raises(SamepageError, match=r"not at its entry point after 1 s \(--timeout\)"):
        compare(path, bind_now=True, timeout=1.0)
