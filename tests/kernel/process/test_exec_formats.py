"""What `exec` takes, and which error it gives for files that it cannot take.

Programs of all kinds that gcc makes run as natively. For files that are no programs, the
oracle is the live kernel where it can be asked without danger: the errno of `execve`.
"""

import errno
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage import Machine
from samepage.errors import SamepageError
from tests.kernel.programs import ENVIRONMENT, Outcome, run_natively, run_on_model

SOURCE = r"""
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
static char zeros[40000];
static char data[] = "data";
__thread int local = 7;
int main(int argc, char **argv) {
    unsigned long sum = 0;
    for (unsigned i = 0; i < sizeof zeros; i++) sum += zeros[i];
    memset(zeros, 1, sizeof zeros);
    printf("%d %s %lu %s %d %lu %lu %d\n", argc, argv[argc - 1], sum, data, local,
           getauxval(AT_PHNUM), getauxval(AT_PHENT), getauxval(AT_BASE) != 0);
    printf("%p %p %lx\n", (void *)main, (void *)zeros, getauxval(AT_ENTRY));
    return 42;
}
"""
BARE = r"""
__asm__(".globl _start\n_start: mov $60, %eax\nmov $7, %edi\nsyscall");
"""
KINDS = {
    "ET_EXEC": ["-no-pie"],
    "PIE": ["-pie", "-fPIE"],
    "static": ["-static", "-no-pie"],
    "static-pie": ["-static-pie", "-fPIE"],
    "large pages": ["-pie", "-fPIE", "-Wl,-z,max-page-size=0x200000"],
    "executable stack": ["-no-pie", "-Wl,-z,execstack"],
}


def compile_c(source: str, target: Path, *flags: str) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    command = ["gcc", "-O1", "-w", *flags, "-x", "c", "-", "-o", str(target)]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"gcc {' '.join(flags)}: {done.stderr.decode().splitlines()[-1]}")
    return str(target)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static program of a few instructions, to be damaged."""
    target = tmp_path_factory.mktemp("small") / "small"
    return Path(compile_c(BARE, target, "-static", "-nostdlib")).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_program_runs_as_natively(kind: str, tmp_path: Path) -> None:
    program = compile_c(SOURCE, tmp_path / "program", *KINDS[kind])
    native = run_natively([program, "a", "b c"])
    assert native.exit_code == 42
    assert run_on_model([program, "a", "b c"]) == native


@pytest.mark.parametrize(
    "flags",
    [
        ["-static"],
        ["-static", "-Wl,-N"],
        ["-static", "-Wl,-Ttext-segment=0x7f0000000000"],
        ["-static-pie"],
        ["-pie", "-Wl,--no-dynamic-linker"],
    ],
)
def test_a_program_without_an_interpreter_runs(flags: list[str], tmp_path: Path) -> None:
    program = compile_c(BARE, tmp_path / "bare", "-nostdlib", *flags)
    assert run_on_model([program]) == run_natively([program]) == Outcome(7, b"")


def test_the_loader_runs_as_a_program_of_its_own() -> None:
    argv = ["/lib64/ld-linux-x86-64.so.2", "/bin/echo", "x"]
    assert run_on_model(argv) == Outcome(0, b"x\n")


# --- scripts ---


def write_script(path: Path, first_line: bytes, rest: bytes = b"") -> str:
    path.write_bytes(first_line + b"\n" + rest)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "line",
    [
        b"#!/bin/sh",
        b"#! \t/bin/sh",
        b"#!/bin/sh -e",
        b"#!/bin/sh  -e \t ",
        b"#!/usr/bin/env sh",
        b"#!/usr/bin/env -S sh -e -u",
        b"#!/usr/bin/printf [%s]",
        b"#!/usr/bin/printf [%s] two words",
        b"#!/bin/echo",
        b"#!/bin/echo " + b"x" * 200,
        b"#!/bin/echo " + b"x" * 300,
        b"#!" + b" " * 240 + b"/bin/echo",
        b"#!" + b" " * 300 + b"/bin/echo",
        b"#!/bin/" + b"e" * 300,
        b"#!",
        b"#!   ",
    ],
    ids=range(16),
)
def test_a_script_gets_its_arguments_as_natively(line: bytes, tmp_path: Path) -> None:
    script = write_script(tmp_path / "script", line, b'echo "$0" "$@"\n')
    argv = [script, "one", "two words"]
    expected = native_exec(argv)
    if isinstance(expected, int):
        assert spawn_error(argv)[0] == shell_status(expected)
    else:
        assert run_on_model(argv) == expected


def native_exec(argv: list[str]) -> Outcome | int:
    """What the live kernel does with it: the outcome, or the errno of `execve`."""
    try:
        done = subprocess.run(
            argv,
            env=ENVIRONMENT,
            capture_output=True,
            check=False,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return error.errno or 0
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Outcome(code, done.stdout)


def shell_status(number: int) -> int:
    """What a shell makes of an error of `execve`."""
    return 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126


def spawn_error(argv: list[str]) -> tuple[int, str]:
    """The exit status and the line of a program that cannot be started."""
    started = time.monotonic()
    machine = Machine("64M", timeout=20)
    with pytest.raises(SamepageError) as error:
        machine.spawn(argv, env=ENVIRONMENT)
    assert time.monotonic() - started < 5
    message = error.value.message
    assert "\n" not in message
    assert message.startswith(f"{argv[0]}: ")
    return error.value.exit_status, message


@pytest.mark.parametrize("depth", [2, 4, 5, 6, 7])
def test_scripts_may_be_nested_as_deep_as_natively(depth: int, tmp_path: Path) -> None:
    script = write_script(tmp_path / "0", b"#!/bin/echo -n")
    for level in range(1, depth):
        script = write_script(tmp_path / str(level), f"#!{script} {level}".encode())
    expected = native_exec([script, "end"])
    if isinstance(expected, int):
        assert expected == errno.ELOOP
        assert spawn_error([script, "end"])[0] == 126
    else:
        assert run_on_model([script, "end"]) == expected


def test_a_script_that_is_its_own_interpreter_ends(tmp_path: Path) -> None:
    path = tmp_path / "script"
    script = write_script(path, f"#!{path}".encode())
    assert native_exec([script]) == errno.ELOOP
    assert spawn_error([script])[0] == 126


@pytest.mark.parametrize(
    ("interpreter", "status"),
    [("/nowhere/sh", 127), ("/etc/passwd/sh", 127), ("/etc/passwd", 126), ("/tmp", 126)],
)
def test_a_script_without_a_usable_interpreter_is_an_error(
    interpreter: str, status: int, tmp_path: Path
) -> None:
    script = write_script(tmp_path / "script", f"#!{interpreter}".encode())
    native = native_exec([script])
    assert isinstance(native, int)
    assert shell_status(native) == status
    assert spawn_error([script])[0] == status


# --- files that cannot be run ---


def program_of(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\0" * 4096, "zeros"),
        (b"echo hello\n", "text"),
        (b"MZ" + b"\0" * 1000, "DOS"),
        (b"\x7fELF", "the magic number only"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 57, "an empty ELF header"),
        (b"!<arch>\n", "an archive"),
    ],
)
def test_a_file_that_is_no_program_is_refused_as_natively(
    data: bytes, what: str, tmp_path: Path
) -> None:
    program = program_of(data, tmp_path / "file")
    assert native_exec([program]) == errno.ENOEXEC
    assert spawn_error([program])[0] == 126


def test_a_directory_a_missing_file_and_one_without_permission_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"#!/bin/sh\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o777)
    for path in (tmp_path, plain, fifo, tmp_path / "missing", plain / "below", Path("/dev/null")):
        native = native_exec([str(path)])
        assert isinstance(native, int)
        assert spawn_error([str(path)])[0] == shell_status(native)


EHDR = {
    "type": (16, "H"),
    "machine": (18, "H"),
    "version": (20, "I"),
    "entry": (24, "Q"),
    "phoff": (32, "Q"),
    "phentsize": (54, "H"),
    "phnum": (56, "H"),
}
PHDR = {
    "type": (0, "I"),
    "flags": (4, "I"),
    "offset": (8, "Q"),
    "vaddr": (16, "Q"),
    "filesz": (32, "Q"),
    "memsz": (40, "Q"),
    "align": (48, "Q"),
}


def with_header(data: bytes, **values: int) -> bytes:
    mutant = bytearray(data)
    for name, value in values.items():
        offset, form = EHDR[name]
        struct.pack_into("<" + form, mutant, offset, value)
    return bytes(mutant)


def load_index(data: bytes, executable: bool = True) -> int:
    """The index of the first PT_LOAD (that can be executed)."""
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for index in range(phnum):
        kind, flags = struct.unpack_from("<II", data, phoff + 56 * index)
        if kind == 1 and (flags & 1 or not executable):
            return index
    raise AssertionError


def with_segment(data: bytes, index: int, **values: int) -> bytes:
    mutant = bytearray(data)
    phoff = struct.unpack_from("<Q", data, 32)[0]
    for name, value in values.items():
        offset, form = PHDR[name]
        struct.pack_into("<" + form, mutant, phoff + 56 * index + offset, value)
    return bytes(mutant)


def text(data: bytes, **values: int) -> bytes:
    return with_segment(data, load_index(data), **values)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "32-bit": lambda d: d[:4] + b"\x01" + d[5:],
    "big-endian": lambda d: d[:5] + b"\x02" + d[6:],
    "for ARM": lambda d: with_header(d, machine=183),
    "for i386": lambda d: with_header(d, machine=3),
    "for no machine": lambda d: with_header(d, machine=0),
    "an object file": lambda d: with_header(d, type=1),
    "a core dump": lambda d: with_header(d, type=4),
    "type 0": lambda d: with_header(d, type=0),
    "phnum 0": lambda d: with_header(d, phnum=0),
    "phnum 65535": lambda d: with_header(d, phnum=65535),
    "phnum too large": lambda d: with_header(d, phnum=1000),
    "phentsize 0": lambda d: with_header(d, phentsize=0),
    "phentsize 32": lambda d: with_header(d, phentsize=32),
    "phoff past the end": lambda d: with_header(d, phoff=1 << 20),
    "phoff negative": lambda d: with_header(d, phoff=(1 << 64) - 1),
    "phoff huge": lambda d: with_header(d, phoff=(1 << 63) - 64),
    "phoff odd": lambda d: with_header(d, phoff=65),
    "entry 0": lambda d: with_header(d, entry=0),
    "entry in the kernel": lambda d: with_header(d, entry=0xFFFF_8000_0000_0000),
    "entry not canonical": lambda d: with_header(d, entry=0x1234_5678_9ABC_DEF0),
    "entry in data": lambda d: with_header(d, entry=0x400000),
    "offset past the end": lambda d: text(d, offset=1 << 30),
    "offset huge": lambda d: text(d, offset=(1 << 63) - 4096),
    "offset negative": lambda d: text(d, offset=(1 << 64) - 4096),
    "offset not congruent": lambda d: text(d, offset=1),
    "filesz over memsz": lambda d: text(d, filesz=8192, memsz=4096),
    "filesz past the end": lambda d: text(d, filesz=1 << 24, memsz=1 << 24),
    "filesz huge": lambda d: text(d, filesz=1 << 46, memsz=1 << 46),
    "filesz 0": lambda d: text(d, filesz=0),
    "memsz huge": lambda d: text(d, memsz=1 << 46),
    "memsz beyond": lambda d: text(d, memsz=1 << 48),
    "memsz wraps": lambda d: text(d, memsz=(1 << 64) - 4096),
    "memsz of 100 TiB": lambda d: text(d, memsz=100 << 40),
    "vaddr 0": lambda d: text(d, vaddr=0),
    "vaddr in the kernel": lambda d: text(d, vaddr=0xFFFF_FFFF_8000_0000),
    "vaddr at the top": lambda d: text(d, vaddr=0x7FFF_FFFF_F000),
    "vaddr at the stack": lambda d: text(d, vaddr=0x7FFF_FFFD_E000),
    "vaddr wraps": lambda d: text(d, vaddr=(1 << 64) - 4096),
    "overlapping": lambda d: text(d, vaddr=0x400000),
    "align not a power of two": lambda d: text(d, align=3),
    "align huge": lambda d: text(d, align=1 << 63),
    "no permission": lambda d: text(d, flags=0),
    "write only": lambda d: text(d, flags=2),
    "no load": lambda d: with_segment(
        text(d, type=0), load_index(text(d, type=0), executable=False), type=0
    ),
}


def judge(program: str) -> None:
    """The model does with it what the live kernel does: the errno, or the same end."""
    expected = native_exec([program])
    if isinstance(expected, int):
        assert spawn_error([program])[0] == shell_status(expected)
        return
    started = time.monotonic()
    try:
        outcome = run_on_model([program], machine=Machine("64M", timeout=20))
    except SamepageError as failure:
        error = failure
    else:
        assert outcome == expected
        return
    assert time.monotonic() - started < 5
    assert "\n" not in error.message
    # After the point of no return the live kernel kills it; we can still give the reason.
    assert expected.exit_code == 128 + 11
    assert error.exit_status == 126


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_lying_header_ends_as_natively(damage: str, small: bytes, tmp_path: Path) -> None:
    judge(program_of(DAMAGE[damage](small), tmp_path / "damaged"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_lying_header_of_a_position_independent_program_ends_as_natively(
    damage: str, tmp_path: Path
) -> None:
    data = Path(compile_c(BARE, tmp_path / "pie", "-static-pie", "-nostdlib")).read_bytes()
    judge(program_of(DAMAGE[damage](data), tmp_path / "damaged"))


@pytest.mark.parametrize(
    "size",
    [1, 3, 4, 5, 15, 16, 31, 32, 51, 52, 63, 64, 65, 119, 120, 200, 400, 4095, 4096, 4100, 5000],
)
def test_a_truncated_program_ends_as_natively(size: int, small: bytes, tmp_path: Path) -> None:
    judge(program_of(small[:size], tmp_path / "truncated"))


def dynamic(tmp_path: Path) -> tuple[bytes, int, int]:
    """A dynamic program; the index of its PT_INTERP, and the offset of the string."""
    data = Path(compile_c(SOURCE, tmp_path / "dynamic")).read_bytes()
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for index in range(phnum):
        at = phoff + 56 * index
        if struct.unpack_from("<I", data, at)[0] == 3:
            return data, index, struct.unpack_from("<Q", data, at + 8)[0]
    raise AssertionError


@pytest.mark.parametrize(
    ("values", "string"),
    [
        ({}, b"/nowhere/ld.so\0"),
        ({}, b"/etc/passwd\0"),
        ({}, b"/tmp\0"),
        ({}, b"\0"),
        ({}, b"relative\0"),
        ({"filesz": 5}, b""),
        ({"filesz": 0}, b""),
        ({"filesz": 1}, b""),
        ({"filesz": 4096}, b""),
        ({"filesz": 4097}, b""),
        ({"filesz": 1 << 40}, b""),
        ({"filesz": (1 << 64) - 1}, b""),
        ({"offset": 1 << 40}, b""),
        ({"offset": (1 << 64) - 2}, b""),
        ({"offset": (1 << 63) - 1}, b""),
    ],
    ids=range(15),
)
def test_a_lying_interpreter_is_refused_as_natively(
    values: dict[str, int], string: bytes, tmp_path: Path
) -> None:
    data, index, at = dynamic(tmp_path)
    data = with_segment(data, index, **values)
    program = program_of(data[:at] + string + data[at + len(string) :], tmp_path / "damaged")
    expected = native_exec([program])
    if not isinstance(expected, int):
        # There is a zero at the end of the longer string by chance.
        assert run_on_model([program]) == run_natively([program])
        return
    status, message = spawn_error([program])
    assert status == shell_status(expected)
    if b"nowhere" in string:
        assert "/nowhere/ld.so" in message


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_interpreter_is_refused_or_dies_as_natively(
    damage: str, small: bytes, tmp_path: Path
) -> None:
    data, index, at = dynamic(tmp_path)
    path = Path(f"/tmp/.{os.getpid():x}.so")
    name = os.fsencode(path) + b"\0"
    data = with_segment(data, index, filesz=len(name))
    program = program_of(data[:at] + name + data[at + len(name) :], tmp_path / "program")
    try:
        program_of(DAMAGE[damage](small), path)
        judge(program)
    finally:
        path.unlink()


def test_the_command_line_shows_one_line_and_the_shells_status(tmp_path: Path) -> None:
    for data, status in ((b"\x7fELF", 126), (b"#!/nowhere", 127)):
        program = program_of(data, tmp_path / "file")
        done = subprocess.run(
            [sys.executable, "-m", "samepage", "run", program],
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == status
        assert done.stdout == b""
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"samepage: {program}: ")


def test_a_guest_learns_the_errno_and_lives_on(small: bytes, tmp_path: Path) -> None:
    damaged = program_of(DAMAGE["filesz over memsz"](small), tmp_path / "damaged")
    fatal = f"bash -c 'exec \"$0\"' {damaged}; echo $?"
    native = run_natively(["bash", "-c", fatal])
    assert run_on_model(["bash", "-c", fatal]) == native
    refused = program_of(DAMAGE["for ARM"](small), tmp_path / "refused")
    source = f"import os\ntry: os.execv({refused!r}, ['x'])\nexcept OSError as e: print(e.errno)"
    assert run_on_model(["/usr/bin/python3", "-S", "-c", source]) == Outcome(0, b"8\n")
