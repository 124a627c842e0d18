"""Machines with too little RAM: a program gets the right data or is killed, and that soon.

Reclaim takes pages that programs have mapped and that the CPU's TLB knows. Whatever it
forgets there, a program sees as another's data.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from samepage import Machine
from tests.kernel.programs import ENVIRONMENT, run_natively

COMMANDS = (
    ("/usr/bin/python3", "-S", "-c", "print(1)"),
    ("/usr/bin/perl", "-e", "print join ',', sort map { $_ * 7 % 11 } 1 .. 500"),
    ("/usr/bin/sha256sum", "/usr/bin/perl"),
    ("/bin/sh", "-c", "sort /etc/services | tail -n 3; sed -n 2p /etc/services"),
)

MAPPED = r"""
/* mapped FILE PAGES MODE: reads pages of a mapped file, each of which begins with its number.
 * "grow" does so after each new page of its own, "stream" from start to end, three times,
 * "random" for ever. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static volatile unsigned *file;
static int pages;

static void check(int page) {
    unsigned found = file[page * 1024];
    if (found != page) {
        printf("page %d begins with %x\n", page, found);
        exit(1);
    }
}

int main(int argc, char **argv) {
    pages = atoi(argv[2]);
    file = mmap(NULL, pages * 4096L, PROT_READ, MAP_SHARED, open(argv[1], O_RDONLY), 0);
    madvise((void *)file, pages * 4096L, MADV_RANDOM);
    if (!strcmp(argv[3], "grow")) {
        char *own = mmap(NULL, 440 * 4096L, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < 440; i++) {
            memset(own + i * 4096L, 0xAA, 4096);
            for (int page = 0; page < pages; page++)
                check(page);
        }
    } else if (!strcmp(argv[3], "stream")) {
        for (int i = 0; i < 3 * pages; i++)
            check(i % pages);
    } else
        for (unsigned state = 1;; state = state * 1103515245 + 12345)
            check((state >> 8) % pages);
    puts("right");
    return 0;
}
"""


@pytest.mark.parametrize(
    ("argv", "ram"),
    [
        pytest.param(argv, ram, id=f"{Path(argv[0]).name}-{ram}")
        for argv in COMMANDS
        for ram in ("3M", "4M", "6M")
        if (argv, ram) != (COMMANDS[0], "3M")  # right too, after a thousand evictions a second
    ],
)
def test_real_programs_print_what_they_do_natively_or_are_killed(
    argv: tuple[str, ...], ram: str
) -> None:
    machine = Machine(ram, timeout=120)
    guest = machine.spawn(list(argv), env=ENVIRONMENT)
    status = machine.run(guest)
    if status == 137:
        assert machine.log[-1].startswith("Out of memory: Killed process")
        assert guest.stdout == b""
    else:
        native = run_natively(list(argv))
        assert (status, guest.stdout) == (native.exit_code, native.stdout)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    target = tmp_path_factory.mktemp("mapped") / "mapped"
    command = ["gcc", "-static", "-O1", "-x", "c", "-", "-o", str(target)]
    subprocess.run(command, input=MAPPED.encode(), check=True)
    return str(target)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("file") / "numbered"
    path.write_bytes(b"".join(n.to_bytes(4, "little") * 1024 for n in range(4096)))
    return str(path)


def run_mapped(mapped: str, file: str, ram: str, pages: int, mode: str) -> tuple[int, bytes, list]:
    machine = Machine(ram, timeout=60)
    guest = machine.spawn([mapped, file, str(pages), mode], env={})
    status = machine.run(guest)
    assert status is not None
    return status, guest.stdout, machine.log


def test_pages_that_the_tlb_knows_are_forgotten_when_they_are_reclaimed(
    mapped: str, numbered: str
) -> None:
    assert run_mapped(mapped, numbered, "2M", 64, "grow") == (0, b"right\n", [])


def test_reading_more_than_the_ram_holds_again_and_again_is_not_thrashing(
    mapped: str, numbered: str
) -> None:
    assert run_mapped(mapped, numbered, "2M", 4096, "stream") == (0, b"right\n", [])


def test_a_program_whose_pages_never_all_fit_is_killed_after_a_while(
    mapped: str, numbered: str
) -> None:
    status, _, log = run_mapped(mapped, numbered, "1M", 400, "random")
    assert status == 137
    assert "Out of memory: Killed process 2 (mapped)" in log[-1]
