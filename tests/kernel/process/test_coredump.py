"""Core dumps: the same segments and notes as the live kernel writes, and what a debugger reads."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from samepage import Machine
from tests.kernel.programs import run_on_model

PROGRAM = """
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

char marker[] = "not written";
static void *sleeper(void *argument) { pause(); return argument; }

void fail(int depth) { if (depth) fail(depth - 1); else *(volatile int *)8 = 1; }

int main(int argc, char **argv) {
    struct rlimit limit = {strtoul(argv[2], 0, 0), RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &limit);
    if (chdir(argv[1])) return 1;
    pid_t child = fork();
    if (!child) {
        char *private = mmap(0, 5 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *shared = mmap(0, 2 * 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        mmap(0, 7 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *hidden = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(hidden, 4096, MADV_DONTDUMP);
        private[5000] = shared[1] = hidden[0] = 'x';
        marker[0] = 'N';
        pthread_t thread;
        pthread_create(&thread, 0, sleeper, 0);
        usleep(20000);
        fail(3);
    }
    int status;
    siginfo_t info = {0};
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    waitpid(child, &status, 0);
    printf("%x %d %d\\n", status, info.si_code, info.si_status);
}
"""
UNLIMITED = str((1 << 64) - 1)
_NAME_OF_FILES = Path("/proc/sys/kernel/core_pattern")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None or shutil.which("readelf") is None:
        pytest.skip("there is no C compiler, or no readelf")
    folder = tmp_path_factory.mktemp("coredump")
    (folder / "dumps.c").write_text(PROGRAM)
    command = ["gcc", "-g", "-O0", "-w", "-no-pie", "-pthread", "dumps.c", "-o", "dumps"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "dumps")


def on_model(program: str, folder: Path, limit: str) -> tuple[bytes, Path]:
    """What it prints, and where its core is, if it has one."""
    (folder / "place").mkdir()
    machine = Machine("1G", timeout=30)
    done = run_on_model([program, str(folder / "place"), limit], machine=machine)
    machine.export(str(folder / "exported"))
    return done.stdout, folder / "exported" / str(folder / "place").lstrip("/") / "core"


def natively(program: str, folder: Path, limit: str) -> tuple[bytes, Path]:
    if _NAME_OF_FILES.read_text().strip() != "core":
        pytest.skip("this system's core files are not called core")
    (folder / "place").mkdir()
    command = [program, str(folder / "place"), limit]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    cores = [*(folder / "place").glob("core*")]
    return out, cores[0] if cores else folder / "place" / "core"


def segments(core: Path) -> list[tuple[str, ...]]:
    """Size in the file, size and flags of each, in order."""
    text = subprocess.run(["readelf", "-lW", core], stdout=subprocess.PIPE, check=True, text=True)
    found = re.findall(
        r"LOAD\s+\S+ (\S+) \S+ (\S+) (\S+) (.{3}) ", text.stdout.replace("  E", " --E")
    )
    return [row[1:] for row in found if int(row[0], 16) < 1 << 47]


def notes(core: Path) -> list[str]:
    """The kinds of the notes that are not about registers which only some CPUs have."""
    text = subprocess.run(["readelf", "-nW", core], stdout=subprocess.PIPE, check=True, text=True)
    return re.findall(r"^\s+CORE\s+\S+\s+(NT_\w+)", text.stdout, re.MULTILINE)


def test_a_core_has_the_segments_and_notes_that_linux_writes(
    program: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out, core = on_model(program, tmp_path_factory.mktemp("model"), UNLIMITED)
    native_out, native = natively(program, tmp_path_factory.mktemp("native"), UNLIMITED)
    assert out == native_out == b"8b 3 11\n"
    assert segments(core) == segments(native)
    assert notes(core) == notes(native)


@pytest.mark.parametrize("limit", ["0", "4095", "4096", "20000"])
def test_a_core_ends_where_the_limit_does(
    program: str, tmp_path_factory: pytest.TempPathFactory, limit: str
) -> None:
    out, core = on_model(program, tmp_path_factory.mktemp("model"), limit)
    native_out, native = natively(program, tmp_path_factory.mktemp("native"), limit)
    assert out == native_out
    assert core.exists() == native.exists() == (int(limit) >= 4096)


def test_a_debugger_finds_stack_threads_and_data_in_it(program: str, tmp_path: Path) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("there is no gdb")
    _, core = on_model(program, tmp_path, UNLIMITED)
    commands = ["bt", "print marker", "info threads"]
    arguments = [part for command in commands for part in ("-ex", command)]
    command = ["gdb", "-nx", "-batch", *arguments, program, str(core)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Program terminated with signal SIGSEGV" in shown
    assert re.findall(r"^#\d .*fail \(depth=(\d)\)", shown, re.MULTILINE)[-4:] == list("0123")
    assert '"Not written"' in shown
    assert len(re.findall(r"LWP \d+", shown)) >= 2
