"""Running one command line natively and on the model, with the same surroundings."""

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass

from samepage import Machine

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "GIT_PAGER": "cat",
}


@dataclass(frozen=True)
class Outcome:
    """What a program did, as its caller sees it."""

    exit_code: int
    stdout: bytes


_SYS_RT_SIGACTION = 13
_LIBC = ctypes.CDLL(None)
_DEFAULT_ACTION = ctypes.create_string_buffer(32)


def _default_signals() -> None:
    """Ignored signals are inherited, also those that glibc keeps to itself and that only the
    system call can set; a guest starts with none ignored."""
    for signal in range(1, 65):
        _LIBC.syscall(_SYS_RT_SIGACTION, signal, _DEFAULT_ACTION, None, 8)


def run_natively(argv: list[str], stdin: bytes = b"", cwd: str | None = None) -> Outcome:
    """On the host's kernel, without ASLR, since some programs print addresses."""
    done = subprocess.run(
        ["setarch", "-R", *argv],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=cwd,
        check=False,
        timeout=60,
        preexec_fn=_default_signals,
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Outcome(code, done.stdout)


def run_on_model(
    argv: list[str], stdin: bytes = b"", cwd: str | None = None, machine: Machine | None = None
) -> Outcome:
    """On a new machine, or on one that is there."""
    machine = machine or Machine("2G", timeout=60)
    with open(os.devnull, "wb") as null:
        guest = machine.spawn(argv, env=ENVIRONMENT, cwd=cwd, stdin=stdin, stderr=null.fileno())
        code = machine.run(guest)
    for line in machine.log:
        print(line, file=sys.stderr)
    if machine.unimplemented_syscalls:
        print("unimplemented:", machine.unimplemented_syscalls, file=sys.stderr)
    assert code is not None
    return Outcome(code, guest.stdout)
