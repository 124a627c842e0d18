"""Running one command line natively and on the model, with the same surroundings."""

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
