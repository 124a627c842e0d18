"""Libraries loaded into a running process by our linker. Each test is its own process."""

import os
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


@pytest.mark.skipif(not os.path.exists(LIBZ), reason="no libz")
def test_no_page_of_text_is_resident_before_the_first_call() -> None:
    output = run(
        "import zlib\n"
        "z = dlopen('libz.so.1')\n"
        "print(z.resident()['text'][0], z.resident()['rodata'][0])\n"
        "print((z.crc32(0, b'samepage', 8) & 0xFFFFFFFF) == zlib.crc32(b'samepage'))\n"
        "print(z.resident()['text'][0] > 0)\n"
        "print(any(str(hex(z.base))[2:] in line for line in open('/proc/self/maps')))\n"
        "print({page.section for page in z.pages() if page.private} <= {'relro', 'data'})\n"
    )
    assert output.split() == ["0", "0", "True", "True", "True", "True"]


@pytest.mark.skipif(not os.path.exists(LIBZ), reason="no libz")
def test_the_pages_of_the_text_are_those_that_other_processes_use() -> None:
    """Our own mapping of a library shares the page cache with ld.so's mapping of it."""
    output = run(
        "import ctypes\n"
        "theirs = ctypes.CDLL('libz.so.1')\n"
        "theirs.zlibVersion()\n"
        "ours = dlopen('libz.so.1')\n"
        "ours.zlibVersion()\n"
        "maps = open('/proc/self/maps').readlines()\n"
        "print(sum('libz.so' in line and ' r-xp ' in line for line in maps))\n"
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
        "from samepage.linker.library import Mode\n"
        "dlopen(sys.argv[1] + '/libp.so', Mode.NOW | int(sys.argv[2]))\n"
        "print(dlopen(sys.argv[1] + '/libq.so', Mode.NOW | int(sys.argv[3])).ask())\n"
    )
    directory = str(workshop.directory)
    assert run(code, directory, "0", "0").strip() == "2"
    assert run(code, directory, str(0x100), "0").strip() == "1"
    assert run(code, directory, str(0x100), "8").strip() == "2"
