"""Freestanding programs on the model, started by our linker and, natively, by ld.so."""

import subprocess

import pytest

from samepage.kernel.mm.frames import FrameKind
from samepage.linker.errors import LinkError
from samepage.model import Machine
from samepage.model.builtin_loader import link_guest
from tests.linker.conftest import workshop  # noqa: F401
from tests.linker.workshop import Workshop

SYSCALL = """
static long sys3(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return r;
}
"""
LIBRARY = (
    SYSCALL
    + """
int started, target, data[3000] = {1, 2, 3}; int *table[] = {&target, &started, data};
__thread int value = 5; __thread char big[500];
static int two(void) { return 2; }
static void *pick(void) { return two; }
int chosen(void) __attribute__((ifunc("pick")));
int pointer_result(void) { int (*p)(void) = chosen; return p(); }
__attribute__((constructor)) static void first(int argc, char **argv, char **envp) {
    started = argc * 10 + (argv[argc] == 0) + (envp != 0);
    *table[0] = 3;
}
void say(const char *s) { int n = 0; while (s[n]) n++; sys3(1, 1, (long)s, n); }
void leave(int c) { sys3(231, c, 0, 0); }
"""
)
PROGRAM = """
extern int started, data[], *table[]; extern __thread int value;
int chosen(void), pointer_result(void); void say(const char *), leave(int);
static __thread int own = 7;
__attribute__((force_align_arg_pointer)) void _start(void) {
    say(started == 12 ? "started " : "not started ");
    say(table[2] == data ? "bound\\n" : "not bound\\n");
    leave(value + own + chosen() + pointer_result() + *table[0] + data[2]);
}
"""


@pytest.mark.parametrize(
    "flags",
    [(), ("-Wl,-z,now",), ("-no-pie", "-fno-pie"), ("-Wl,-z,pack-relative-relocs",)],
)
def test_a_freestanding_program_runs_as_with_ldso(
    workshop: Workshop,  # noqa: F811
    flags: tuple[str, ...],
) -> None:
    workshop.library("libfree.so", LIBRARY, "-nostdlib", *[f for f in flags if "relocs" in f])
    interpreter = "-Wl,-dynamic-linker,/lib64/ld-linux-x86-64.so.2"
    path = workshop.program(PROGRAM, "-nostdlib", "-lfree", interpreter, *flags)
    native = subprocess.run([path], capture_output=True, check=False)
    machine = Machine()
    guest = machine.spawn([path], env={"A": "b"})
    result = link_guest(guest, {})
    assert result is not None
    assert machine.run(guest) == native.returncode == 5 + 7 + 2 + 2 + 3 + 3
    assert guest.stdout == native.stdout == b"started bound\n"
    assert not any("ld-linux" in mapping.name for mapping in guest.vmas)


def test_libraries_come_from_the_guest_and_are_shared(
    workshop: Workshop,  # noqa: F811
) -> None:
    workshop.library("libfree.so", LIBRARY, "-nostdlib")
    interpreter = "-Wl,-dynamic-linker,/lib64/ld-linux-x86-64.so.2"
    path = workshop.program(PROGRAM, "-nostdlib", "-lfree", interpreter)
    machine = Machine()
    guests = []
    for _ in range(2):
        guest = machine.spawn([path], env={})
        link_guest(guest, {})
        machine.run(guest)
        guests.append(guest)
    frames = [
        {page.frame for page in guest.pages("libfree.so") if page.kind is FrameKind.FILE}
        for guest in guests
    ]
    assert frames[0]
    assert frames[0] == frames[1]


def test_glibc_programs_are_refused_with_the_reason() -> None:
    guest = Machine().spawn(["/bin/true"], env={})
    with pytest.raises(LinkError, match=r"needs glibc, whose libc\.so\.6"):
        link_guest(guest, {})


def test_static_programs_run_as_they_are(workshop: Workshop) -> None:  # noqa: F811
    source = SYSCALL + "void _start(void) { sys3(231, 9, 0, 0); }"
    path = workshop.build("static", source, "-static", "-nostdlib")
    machine = Machine()
    guest = machine.spawn([path], env={})
    assert link_guest(guest, {}) is None
    assert machine.run(guest) == 9
