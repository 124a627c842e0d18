"""Libraries loaded into a running process by our linker. Each test is its own process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.linker.workshop import Workshop

LIBZ = "/lib/x86_64-linux-gnu/libz.so.1"


def run(code: str, *arguments: str) -> str:
    """Run Python code in a fresh process; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", "from samepage.linker import dlopen\n" + code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture
def libz(tmp_path: Path) -> str:
    """A copy of libz: some builds of Python are linked with the system's, and have used it."""
    if not os.path.exists(LIBZ):
        pytest.skip("no libz")
    return shutil.copy(LIBZ, tmp_path / "libz.so.1")


def test_no_page_of_text_is_resident_before_the_first_call(libz: str) -> None:
    output = run(
        "import sys, zlib\n"
        "z = dlopen(sys.argv[1])\n"
        "print(z.resident()['text'][0], z.resident()['rodata'][0])\n"
        "print((z.crc32(0, b'samepage', 8) & 0xFFFFFFFF) == zlib.crc32(b'samepage'))\n"
        "print(z.resident()['text'][0] > 0)\n"
        "print(any(str(hex(z.base))[2:] in line for line in open('/proc/self/maps')))\n"
        "print({page.section for page in z.pages() if page.private} <= {'relro', 'data'})\n",
        libz,
    )
    assert output.split() == ["0", "0", "True", "True", "True", "True"]


def test_the_pages_of_the_text_are_those_that_other_processes_use(libz: str) -> None:
    """Our own mapping of a library shares the page cache with ld.so's mapping of it."""
    output = run(
        "import ctypes, sys\n"
        "theirs = ctypes.CDLL(sys.argv[1])\n"
        "theirs.zlibVersion()\n"
        "ours = dlopen(sys.argv[1])\n"
        "ours.zlibVersion()\n"
        "maps = open('/proc/self/maps').readlines()\n"
        "print(sum(sys.argv[1] in line and ' r-xp ' in line for line in maps))\n",
        libz,
    )
    assert output.split() == ["2"]


def test_constructors_destructors_and_dependencies(workshop: Workshop) -> None:
    log = "void log_it(const char *); __attribute__((constructor)) static void in(void)"
    workshop.library(
        "liblog.so",
        "#include <stdio.h>\nvoid log_it(const char *s){fputs(s, stdout); fflush(stdout);}",
    )
    for name, needs in (("b", []), ("a", ["-lb"])):
        workshop.library(
            f"lib{name}.so",
            f'{log}{{log_it("+{name} ");}} __attribute__((destructor)) static void out(void)'
            f'{{log_it("-{name} ");}} int f{name}(void){{return 5;}}',
            "-Wl,--no-as-needed",
            "-L.",
            "-llog",
            *needs,
            "-Wl,-rpath,$ORIGIN",
        )
    output = run(
        "import sys\n"
        "a = dlopen(sys.argv[1])\n"
        "print('loaded', end=' ', flush=True)\n"
        "print(a.fa() + a.fb(), end=' ', flush=True)\n"
        "a.close()\n"
        "a.close()\n"
        "print(any('liba.so' in l and ' r-xp ' in l for l in open('/proc/self/maps')))\n",
        str(workshop.directory / "liba.so"),
    )
    assert output.split() == ["loaded", "+b", "+a", "10", "-a", "-b", "False"]


def test_ifunc_copy_on_write_and_callbacks(workshop: Workshop) -> None:
    path = workshop.library(
        "liba.so",
        "static int one(void){return 41;} static void *pick(void){return one;}"
        'int f(void) __attribute__((ifunc("pick"))); int g(void){return f() + 1;}'
        "int call(int (*back)(int)){return back(6);}"
        "int counter; int count(void){return ++counter;}",
    )
    output = run(
        "import sys, ctypes\n"
        "a = dlopen(sys.argv[1])\n"
        "back = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda value: value * 7)\n"
        "print(a.f(), a.g(), a.call(back), a.count(), a.count())\n",
        path,
    )
    assert output.split() == ["41", "42", "42", "1", "2"]


def test_exceptions_inside_a_library_are_unwound(workshop: Workshop) -> None:
    path = workshop.library(
        "liba.so++",
        'extern "C" int f(int x)'
        "{ try { if (x) throw x; } catch (int y) { return y + 1; } return 0; }",
        "-static-libstdc++",
    )
    code = (
        "import sys\n"
        "from samepage.linker.errors import LinkError\n"
        "import ctypes; ctypes.CDLL('libstdc++.so.6', ctypes.RTLD_GLOBAL)\n"
        "try:\n"
        "    print(dlopen(sys.argv[1]).f(4))\n"
        "except LinkError as error:\n"
        "    print('refused' if 'thread-local' in error.message else error.message)\n"
    )
    assert run(code, path).split() in (["5"], ["refused"])


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("__thread int a; int f(void){return a;}", (), "thread-local storage"),
        (
            "__thread int a; int f(void){return a;}",
            ("-ftls-model=initial-exec",),
            "thread-local storage",
        ),
        ("int g(void); int f(void){return g();}", (), "undefined symbol: g"),
        ("int f(void){return 1;}", ("-Wl,-z,execstack",), "executable stack"),
    ],
)
def test_what_cannot_be_given_is_refused_with_the_reason(
    workshop: Workshop, source: str, flags: tuple[str, ...], message: str
) -> None:
    path = workshop.library("liba.so", source, *flags)
    output = run(
        "import sys\n"
        "from samepage.linker.errors import LinkError\n"
        "try:\n"
        "    dlopen(sys.argv[1])\n"
        "except LinkError as error:\n"
        "    print(error.message)\n"
        "maps = open('/proc/self/maps').readlines()\n"
        "print(sum('r-xp' in line and 'liba.so' in line for line in maps))\n",
        path,
    )
    assert message in output
    assert output.split()[-1] == "0"


def test_scopes_of_dlopen(workshop: Workshop) -> None:
    """RTLD_LOCAL hides, RTLD_GLOBAL offers, RTLD_DEEPBIND looks at home first."""
    workshop.library("libp.so", "int value(void){return 1;}")
    workshop.library("libq.so", "int value(void){return 2;} int ask(void){return value();}")
    code = (
        "import sys\n"
        "from samepage.linker.inprocess.library import Mode\n"
        "dlopen(sys.argv[1] + '/libp.so', Mode.NOW | int(sys.argv[2]))\n"
        "print(dlopen(sys.argv[1] + '/libq.so', Mode.NOW | int(sys.argv[3])).ask())\n"
    )
    directory = str(workshop.directory)
    assert run(code, directory, "0", "0").strip() == "2"
    assert run(code, directory, str(0x100), "0").strip() == "1"
    assert run(code, directory, str(0x100), "8").strip() == "2"


MAPPED = (
    "import os, sys, ctypes\n"
    "from samepage.linker.errors import LinkError\n"
    "from samepage.linker.inprocess.library import Mode\n"
    "there = sys.argv[1] + '/'\n"
    "def mapped():\n"
    "    lines = [line for line in open('/proc/self/maps') if there in line and 'r-xp' in line]\n"
    "    return ','.join(sorted({line.split('/')[-1].strip()[3:-3] for line in lines})) or '-'\n"
)
"""`mapped()` names the libraries of the directory whose text is mapped."""


def test_a_library_stays_until_its_last_user_has_closed_it(workshop: Workshop) -> None:
    """Another handle, a library that needs it, or one that is bound to it."""
    workshop.library("libc1.so", "int c(void){return 3;}")
    for name in ("a", "b"):
        workshop.library(
            f"lib{name}.so",
            f"int c(void); int {name}(void){{return c() + 1;}}",
            "-L.",
            "-lc1",
            "-Wl,-rpath,$ORIGIN",
        )
    workshop.library("libq.so", "int c(void); int q(void){return c() + 2;}")
    output = run(
        MAPPED + "a, again = dlopen(there + 'liba.so'), dlopen(there + 'liba.so')\n"
        "b = dlopen(there + 'libb.so')\n"
        "a.close()\n"
        "a.close()\n"
        "print(again.a(), mapped())\n"
        "again.close()\n"
        "print(b.b(), mapped())\n"
        "c = dlopen(there + 'libc1.so', Mode.NOW | Mode.GLOBAL)\n"
        "q = dlopen(there + 'libq.so')\n"
        "c.close(), b.close()\n"
        "print(q.q(), mapped())\n"
        "q.close()\n"
        "print(mapped())\n"
        "try:\n"
        "    q.q()\n"
        "except LinkError as error:\n"
        "    print(error.message.removeprefix(there))\n",
        str(workshop.directory),
    )
    assert output.splitlines() == ["4 a,b,c1", "4 b,c1", "5 c1,q", "-", "libq.so: has been closed"]


def test_open_and_close_leave_nothing_behind(workshop: Workshop) -> None:
    workshop.library("liba.so", "int f(void){return 1;}")
    workshop.library("libt.so", "__thread int t; int f(void){return t;}")
    output = run(
        MAPPED + "def left():\n"
        "    return len(os.listdir('/proc/self/fd')), len(list(open('/proc/self/maps')))\n"
        "for count in range(30):\n"
        "    if count == 10:\n"
        "        before = left()\n"
        "    library = dlopen(there + 'liba.so')\n"
        "    library.f()\n"
        "    library.close()\n"
        "    try:\n"
        "        dlopen(there + 'libt.so')\n"
        "    except LinkError:\n"
        "        pass\n"
        "fds, maps = left()\n"
        "print(fds - before[0], maps - before[1] < 10)\n",
        str(workshop.directory),
    )
    assert output.split() == ["0", "True"]


def test_what_defines_a_unique_symbol_stays_as_with_ldso(workshop: Workshop) -> None:
    source = (
        "template<class T> struct S { static int v; }; template<class T> int S<T>::v = 42;"
        'extern "C" int get(){ return S<int>::v; } extern "C" void set(int x){ S<int>::v = x; }'
    )
    for name in ("liba.so++", "libb.so++"):
        workshop.library(name, source)
    code = (
        MAPPED + "import _ctypes\n"
        "if sys.argv[2] == 'ld.so':\n"
        "    open_it, close_it = ctypes.CDLL, lambda library: _ctypes.dlclose(library._handle)\n"
        "else:\n"
        "    open_it, close_it = dlopen, lambda library: library.close()\n"
        "a = open_it(there + 'liba.so')\n"
        "a.set(7)\n"
        "close_it(a)\n"
        "print(open_it(there + 'libb.so').get(), mapped())\n"
    )
    ours, theirs = (run(code, str(workshop.directory), who) for who in ("ours", "ld.so"))
    assert ours == theirs
    assert ours.split() == ["7", "a,b"]


def test_a_function_by_name_is_of_the_default_version(workshop: Workshop) -> None:
    """Not of the oldest, which a relocation without version is bound to."""
    (workshop.directory / "map").write_text("V1 {}; V2 {global: *;} V1;")
    path = workshop.library(
        "liba.so",
        "int f1(void){return 1;} int f2(void){return 2;}"
        '__asm__(".symver f1,f@V1"); __asm__(".symver f2,f@@V2");',
        "-Wl,--version-script=map",
    )
    assert run("import sys; print(dlopen(sys.argv[1]).f())", path).strip() == "2"
    assert run("import sys, ctypes; print(ctypes.CDLL(sys.argv[1]).f())", path).strip() == "2"


def test_one_file_is_one_library_and_is_not_loaded_with_noload(workshop: Workshop) -> None:
    path = workshop.library("liba.so", "int f(void){return 1;}")
    (workshop.directory / "other.so").symlink_to(path)
    output = run(
        MAPPED + "try:\n"
        "    dlopen(there + 'liba.so', Mode.NOW | Mode.NOLOAD)\n"
        "except LinkError as error:\n"
        "    print('not loaded' in error.message, mapped())\n"
        "a = dlopen(there + 'liba.so')\n"
        "print(dlopen(there + 'other.so').base == a.base)\n"
        "print(dlopen(there + 'other.so', Mode.NOW | Mode.NOLOAD).base == a.base)\n"
        "libc = os.path.realpath(dlopen('libc.so.6').path)\n"
        "print(dlopen(libc).base == dlopen('libc.so.6').base)\n",
        str(workshop.directory),
    )
    assert output.split() == ["True", "-", "True", "True", "True"]


def test_constructors_of_all_that_a_library_uses_run_before_it(workshop: Workshop) -> None:
    """Also of what another `dlopen` has mapped, and which has not been used yet."""
    ready = "static int ready; __attribute__((constructor)) static void start(void){ready = 1;}"
    workshop.library("libp.so", ready + "int p(void){return ready;}")
    workshop.library("libq.so", "int p(void); int q(void){return p();}")
    workshop.library("libr.so", "int p(void); int r(void){return p();}", "-L.", "-lp")
    code = (
        MAPPED + "dlopen(there + 'libp.so', Mode.NOW | Mode.GLOBAL)\n"
        "print(getattr(dlopen(there + sys.argv[2]), sys.argv[2][3])())\n"
    )
    for user in ("libq.so", "libr.so"):
        assert run(code, str(workshop.directory), user).strip() == "1"


def test_a_program_is_not_mapped_over_the_process(workshop: Workshop) -> None:
    path = workshop.build("program", "int main(){return 0;}", "-no-pie")
    output = run(
        "import sys\n"
        "from samepage.linker.errors import LinkError\n"
        "try:\n"
        "    dlopen(sys.argv[1])\n"
        "except LinkError as error:\n"
        "    print(error.message)\n"
        "print(sys.argv[1] in open('/proc/self/maps').read())\n",
        path,
    )
    assert output.splitlines() == [f"{path}: cannot dynamically load executable", "False"]


def test_threads_may_open_and_close_at_once(workshop: Workshop) -> None:
    for number in range(4):
        workshop.library(f"lib{number}.so", f"int f(void){{return {number};}}")
    output = run(
        MAPPED + "from concurrent.futures import ThreadPoolExecutor\n"
        "def use(number):\n"
        "    library = dlopen(f'{there}lib{number % 4}.so')\n"
        "    value = library.f()\n"
        "    library.close()\n"
        "    return value == number % 4\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(all(pool.map(use, range(200))), mapped())\n",
        str(workshop.directory),
    )
    assert output.split() == ["True", "-"]
