"""Every wait for a real program is bounded, and what ended it has a name."""

import time
from pathlib import Path

import pytest

from samepage.errors import SamepageError
from samepage.trace.ldso import EndedInLdso, observe
from tests.linker.workshop import Workshop

THREAD = """
#include <pthread.h>
#include <semaphore.h>
static sem_t ready;
static void *work(void *p) { sem_post(&ready); return p; }
__attribute__((constructor)) static void start(void) {
    pthread_t thread;
    sem_init(&ready, 0, 0);
    pthread_create(&thread, 0, work, 0);
    sem_wait(&ready);
}
int a(void) { return 0; }
"""


def build(directory: Path, source: str, *flags: str) -> str:
    workshop = Workshop(directory)
    workshop.library("liba.so", source, *flags)
    return workshop.program("int a(void); int main(){return a();}", "-la")


def test_a_constructor_may_start_a_thread_and_wait_for_it(tmp_path: Path) -> None:
    path = build(tmp_path, THREAD)
    run = observe(path, {}, bind_now=True, timeout=20)
    assert any("calling init" in line for line in run.debug)


def test_a_constructor_may_start_a_process_and_wait_for_it(tmp_path: Path) -> None:
    path = build(
        tmp_path,
        "#include <stdlib.h>\n"
        '__attribute__((constructor)) static void c(void){system("true");} int a(void){return 0;}',
    )
    observe(path, {"PATH": "/bin"}, bind_now=True, timeout=20)


def test_a_constructor_that_waits_for_ever_is_reported(tmp_path: Path) -> None:
    path = build(
        tmp_path,
        "#include <unistd.h>\n"
        "__attribute__((constructor)) static void c(void){for (;;) pause();}"
        "int a(void){return 0;}",
    )
    begin = time.monotonic()
    with pytest.raises(SamepageError, match=r"after 0\.5 s .*libc"):
        observe(path, {}, bind_now=True, timeout=0.5)
    assert time.monotonic() - begin < 10


def test_what_ended_the_program_has_a_name(tmp_path: Path) -> None:
    path = build(
        tmp_path,
        "__attribute__((constructor)) static void c(void){*(volatile int *)8 = 1;}"
        "int a(void){return 0;}",
    )
    with pytest.raises(EndedInLdso, match=r"SIGSEGV in .*liba\.so at 0x"):
        observe(path, {}, bind_now=True)
