"""Dynamic programs of musl, whose libc is their loader: with ours in its place."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from samepage import Machine
from samepage.elf.file import ElfFile
from samepage.elf.notes import build_id
from samepage.errors import SamepageError
from samepage.machine import StopAt
from samepage.machine.loader import musl, musl_layout

INTERPRETER = "/lib/ld-musl-x86_64.so.1"


def _is_known() -> bool:
    return os.path.exists(INTERPRETER) and build_id(ElfFile.open(INTERPRETER)) in musl_layout.BUILDS


pytestmark = [
    pytest.mark.skipif(not shutil.which("musl-gcc"), reason="no musl-gcc"),
    pytest.mark.skipif(not _is_known(), reason="the variables of this musl are not known"),
]


class Workshop:
    """Compiles for musl in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def build(self, output: str, source: str, *flags: str) -> str:
        path = self.directory / (output + ".c")
        path.write_text(source)
        result = str(self.directory / output)
        run = f"-Wl,-rpath,{self.directory}"
        command = ["musl-gcc", "-w", "-O1", "-o", result, str(path), "-L.", run, *flags]
        subprocess.run(command, check=True, cwd=self.directory)
        return result

    def library(self, name: str, source: str, *flags: str) -> str:
        return self.build(name, source, "-shared", "-fPIC", *flags)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def same(program: str, *arguments: str) -> bytes:
    """Run natively and here; return what both printed."""
    done = subprocess.run([program, *arguments], capture_output=True, check=False, timeout=20)
    machine = Machine("256M", timeout=30)
    guest = machine.spawn([program, *arguments], loader="builtin")
    assert (machine.run(guest), guest.stdout) == (done.returncode, done.stdout)
    return done.stdout


def test_stdio_malloc_environment_and_exit_status(workshop: Workshop) -> None:
    program = workshop.build(
        "hello",
        """
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <errno.h>
        static void last(void) { puts("last"); }
        int main(int argc, char **argv)
        {
            atexit(last);
            char *text = strdup("copied");
            char *big = calloc(1, 1 << 20);
            big = realloc(big, 1 << 21);
            errno = 0;
            fopen("/no/such/file", "r");
            printf("%s %d %d %s %d\\n", text, big[5], errno, argv[1], getenv("PATH") != 0);
            free(big);
            return argc;
        }
        """,
    )
    assert same(program, "x") == b"copied 0 2 x 1\nlast\n"


def test_libraries_constructors_and_destructors_in_order(workshop: Workshop) -> None:
    for name, needs in (("a", ()), ("b", ("-la",)), ("z", ("-lb", "-la")), ("y", ())):
        workshop.library(
            f"lib{name}.so",
            f"""
            #include <stdio.h>
            int {name}(void) {{ return 1; }}
            __attribute__((constructor)) static void up(void) {{ puts("{name} up"); }}
            __attribute__((destructor)) static void down(void) {{ puts("{name} down"); }}
            """,
            "-Wl,--no-as-needed",
            *needs,
        )
    program = workshop.build(
        "program",
        "int z(void), y(void), a(void); int main(void) { return z() + y() + a(); }",
        "-lz",
        "-ly",
        "-la",
    )
    assert same(program).startswith(b"a up\nb up\nz up\ny up\n")


@pytest.mark.parametrize("room", [1, 1000])
def test_threads_and_tls_of_several_objects(workshop: Workshop, room: int) -> None:
    workshop.library(
        "libt.so",
        f"__thread int shared = 9; static __thread char room[{room}] = {{1}};"
        "int next(void) { room[0]++; return ++shared + room[0]; }",
    )
    workshop.library(
        "libu.so", "static __thread long aligned __attribute__((aligned(64))) = 3;"
        "int other(void) { return aligned++ + ((long)&aligned & 63); }",
    )  # fmt: skip
    program = workshop.build(
        "program",
        """
        #include <pthread.h>
        #include <stdio.h>
        extern __thread int shared;
        static __thread int mine = 5;
        int next(void), other(void);
        static void *work(void *ignored) { mine++; other(); return (void *)(long)(next() + mine); }
        int main(void)
        {
            pthread_t threads[3];
            long total = 0;
            for (int i = 0; i < 3; i++) pthread_create(threads + i, 0, work, 0);
            for (int i = 0; i < 3; i++) { void *r; pthread_join(threads[i], &r); total += (long)r; }
            printf("%ld %d %d %d\\n", total, shared, next(), other());
            return mine;
        }
        """,
        "-lt",
        "-lu",
    )
    same(program)


def test_dlopen_dlsym_dladdr_and_the_list_of_objects(workshop: Workshop) -> None:
    workshop.library("libn.so", "int needed(void) { return 4; }")
    workshop.library(
        "libp.so",
        "#include <stdio.h>\n"
        "static __thread int mine = 20; int needed(void);"
        '__attribute__((constructor)) static void up(void) { puts("plugin up"); }'
        "int next(void) { return ++mine + needed(); }",
        "-ln",
    )
    program = workshop.build(
        "program",
        """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <link.h>
        #include <stdio.h>
        #include <string.h>
        int needed(void);
        static int show(struct dl_phdr_info *info, size_t size, void *data)
        {
            printf("%s %d %d\\n", strrchr(info->dlpi_name, '/') ? strrchr(info->dlpi_name, '/')
                   : info->dlpi_name, info->dlpi_phnum, (int)info->dlpi_adds);
            return 0;
        }
        int main(void)
        {
            dl_iterate_phdr(show, 0);
            void *plugin = dlopen("libp.so", RTLD_NOW);
            int (*next)(void) = (int (*)(void))dlsym(plugin, "next");
            Dl_info info;
            if (dladdr((void *)next, &info)) printf("%s\\n", info.dli_sname);
            printf("%d %d\\n", next(), dlsym(RTLD_DEFAULT, "needed") == (void *)needed);
            printf("%d\\n", dlopen("libn.so", RTLD_NOW | RTLD_NOLOAD) != 0);
            if (!dlopen("libnone.so", RTLD_NOW)) puts(dlerror());
            dl_iterate_phdr(show, 0);
            return needed();
        }
        """,
        "-ln",
    )
    assert b"plugin up\nnext\n25 1\n" in same(program)


def test_a_programs_own_malloc_replaces_musls(workshop: Workshop) -> None:
    program = workshop.build(
        "program",
        """
        #include <string.h>
        #include <unistd.h>
        static char pool[1 << 16];
        static long used;
        void *malloc(unsigned long n) { long at = used; used += (n + 15) & -16; return pool + at; }
        void free(void *p) {}
        int main(void) { char *p = strdup("mine\\n"); write(1, p, 5); return p == pool; }
        """,
    )
    assert same(program) == b"mine\n"


def test_the_same_addresses_and_memory_as_with_musls_own_loader(workshop: Workshop) -> None:
    workshop.library("libq.so", "int v = 3; int *p = &v; int q(void) { return *p; }")
    program = workshop.build("program", "int q(void); int main(void) { return q(); }", "-lq")
    images = []
    for loader in ("builtin", "ldso"):
        machine = Machine("256M")
        guest = machine.spawn([program], env={}, loader=loader)
        machine.run(guest, StopAt.ENTRY)
        got = {}
        for name in ("program", "libq.so"):
            relro = [v for v in guest.vmas if v.name.endswith(name) and v.perms == "r--p"][-1]
            got[name] = (relro.start, guest.memory.read(relro.start, relro.end - relro.start))
        images.append(got)
    for name, (start, theirs) in images[1].items():
        ours_start, ours = images[0][name]
        assert ours_start == start
        # musl gives the gap before RELRO to malloc; the rest is the linker's work.
        assert ours[-0x200:] == theirs[-0x200:]


def test_a_missing_library_is_musls_message(workshop: Workshop) -> None:
    workshop.library("libm1.so", "int f(void) { return 1; }")
    program = workshop.build("program", "int f(void); int main(void) { return f(); }", "-lm1")
    (workshop.directory / "libm1.so").unlink()
    _refused_as_natively(program)


def test_a_missing_symbol_is_musls_message(workshop: Workshop) -> None:
    workshop.library("libm2.so", "int f(void) { return 1; }")
    program = workshop.build("program", "int f(void); int main(void) { return f(); }", "-lm2")
    workshop.library("libm2.so", "int g(void) { return 1; }")
    _refused_as_natively(program)


def _refused_as_natively(program: str) -> None:
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 127
    with pytest.raises(SamepageError) as caught:
        Machine("256M").spawn([program], loader="builtin")
    assert caught.value.exit_status == 127
    assert caught.value.message == done.stderr.splitlines()[0]


def test_an_unknown_build_is_refused_by_name(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = workshop.build("program", "int main(void) { return 0; }")
    monkeypatch.setattr(musl, "BUILDS", {})
    with pytest.raises(SamepageError, match=r"build [0-9a-f]{40} of musl"):
        Machine("256M").spawn([program], loader="builtin")
