"""glibc programs of the system, started by our linker: against their own ld.so."""

import shutil
from pathlib import Path

import pytest

from samepage import Machine
from samepage.errors import SamepageError
from samepage.machine import StopAt
from samepage.machine.guest import Guest
from samepage.machine.loader.ldso_layout import BUILDS
from tests.kernel.programs import ENVIRONMENT
from tests.linker.test_binding_rules import CALLING_RESOLVER
from tests.linker.workshop import Workshop

INTERPRETER = "/lib64/ld-linux-x86-64.so.2"


def _is_known() -> bool:
    from samepage.elf.file import ElfFile
    from samepage.elf.notes import build_id

    try:
        return build_id(ElfFile.open(INTERPRETER)) in BUILDS
    except OSError:
        return False


pytestmark = pytest.mark.skipif(
    not _is_known(), reason="the variables of this system's ld.so are not known"
)


def run_both(argv: list[str], *, lazy: bool = False) -> tuple[Guest, Guest]:
    """The program started by our linker, and by ld.so, on one machine."""
    machine = Machine("512M", timeout=60, epoch_ns=10**18)
    ours = machine.spawn(argv, env=ENVIRONMENT, loader="builtin", lazy=lazy)
    machine.run(ours)
    theirs = machine.spawn(argv, env=ENVIRONMENT)
    machine.run(theirs)
    return ours, theirs


PROGRAMS = [
    "true",
    "uname -a",
    "ls -l /etc",
    "cat /etc/passwd",
    "sort -r /etc/passwd",
    "sha256sum /etc/passwd",
    "date -u",
    "id",
    "env",
    "git --version",
    "perl -e print(join(',',sort(keys(%ENV))))",
    "awk BEGIN{print(2^10)}",
    "find /etc/apt",
    "getent passwd root",
    "tar cf - /etc/passwd",
    "bash -c type\tls;(exit\t7)",
    "sh -c ls|wc",
]


@pytest.mark.parametrize("lazy", [False, True], ids=["now", "lazy"])
@pytest.mark.parametrize("line", PROGRAMS)
def test_programs_do_the_same(line: str, lazy: bool) -> None:
    argv = [word.replace("\t", " ") for word in line.split(" ")]
    if not shutil.which(argv[0]):
        pytest.skip(f"no {argv[0]}")
    ours, theirs = run_both(argv, lazy=lazy)
    assert (ours.exit_code, ours.stdout) == (theirs.exit_code, theirs.stdout)


def test_dlopen_dlsym_threads_tls_and_exceptions(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    workshop = Workshop(tmp_path)
    workshop.library(
        "libplugin.so",
        "#include <stdio.h>\n"
        "static __thread int mine = 20;"
        '__attribute__((constructor)) static void up(void) { puts("plugin up"); }'
        '__attribute__((destructor)) static void down(void) { puts("plugin down"); }'
        "int next(void) { return ++mine; }",
    )
    program = workshop.program(
        """
        #include <cstdio>
        #include <dlfcn.h>
        #include <link.h>
        #include <pthread.h>
        #include <stdexcept>
        static int (*next)();
        static thread_local int here = 1;
        static void *work(void *) { here += next(); std::printf("%d\\n", here); return nullptr; }
        static int show(dl_phdr_info *info, size_t, void *)
        {
            std::printf("%s %d\\n", info->dlpi_name, info->dlpi_phnum > 0);
            return 0;
        }
        struct Bye { ~Bye() { std::puts("bye"); } } bye;
        int main()
        {
            dl_iterate_phdr(show, nullptr);
            void *plugin = dlopen("libplugin.so", RTLD_NOW);
            if (!plugin) { std::puts(dlerror()); return 1; }
            next = (int (*)())dlsym(plugin, "next");
            pthread_t thread;
            for (int i = 0; i < 2; i++) {
                pthread_create(&thread, nullptr, work, nullptr);
                pthread_join(thread, nullptr);
            }
            work(nullptr);
            Dl_info info;
            if (dladdr((void *)next, &info)) std::printf("%s\\n", info.dli_sname);
            try { throw std::runtime_error("thrown"); }
            catch (const std::exception &error) { std::puts(error.what()); }
            void *none = dlopen("libnone.so", RTLD_NOW);
            std::puts(none ? "found" : dlerror());
            void *z = dlopen("libm.so.6", RTLD_LAZY);
            std::printf("%d %d\\n", z != nullptr, dlclose(z));
            return here;
        }
        """,
        name="program++",
    )
    ours, theirs = run_both([program])
    assert ours.stdout == theirs.stdout
    assert b"plugin down" in ours.stdout
    assert ours.exit_code == theirs.exit_code == 22


@pytest.mark.parametrize("lazy", [False, True], ids=["now", "lazy"])
def test_resolvers_call_through_the_plt(tmp_path: Path, lazy: bool) -> None:
    """One runs while its object is relocated, another one at the first call, whose arguments
    it must not change."""
    workshop = Workshop(tmp_path)
    workshop.library("libb.so", "int pick(int a){return a + 1;}")
    workshop.library("liba.so", CALLING_RESOLVER, "-Wl,-z,lazy", "-L.", "-lb")
    path = workshop.program(
        "int f(void); double add(double, double); int main(int argc, char **argv)"
        "{return f() * 10 + add(argc, 3.5 * argc) * 2;}",
        "-la",
        "-lb",
        "-Wl,-z,lazy",
    )
    ours, theirs = run_both([path], lazy=lazy)
    assert ours.exit_code == theirs.exit_code == 29


def test_memory_at_the_entry_is_ldsos(tmp_path: Path) -> None:
    """Every writable page of the program and its libraries, byte for byte."""
    images = []
    for loader in ("builtin", "ldso"):
        machine = Machine("1G")
        guest = machine.spawn(["ls"], env={**ENVIRONMENT, "LD_BIND_NOW": "1"}, loader=loader)
        machine.run(guest, StopAt.ENTRY)
        images.append(_writable(guest))
    ours, theirs = images
    assert {name for name, _ in ours} == {name for name, _ in theirs}
    different = {}
    for key, (base, data) in theirs.items():
        if "ld-linux" in key[0]:
            continue
        my_base, mine = ours[key]
        assert my_base == base, "the same calls give the same addresses"
        different[key] = [i for i in range(0, len(data), 8) if mine[i : i + 8] != data[i : i + 8]]
    assert not any(different.values())


def _writable(guest: Guest) -> dict[tuple[str, int], tuple[int, bytes]]:
    found = {}
    for vma in guest.vmas:
        if vma.inode and any(page.dirty for page in guest.pages(vma.name)):
            data = guest.memory.read(vma.start, vma.end - vma.start)
            found[vma.name, vma.offset] = (vma.start, data)
    return found


def test_an_unknown_build_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from samepage.machine.loader import ldso

    monkeypatch.setattr(ldso, "BUILDS", {"00" * 20: None})
    with pytest.raises(SamepageError, match=r"build [0-9a-f]{40} of glibc's ld\.so"):
        Machine("256M").spawn(["true"], loader="builtin")
