"""The environment in which all sides run a program: the same, and one the model can obey.

A C library picks its string functions by what the CPU offers, and a program that runs
other code touches other pages. The engine's CPU lacks what a server's CPU has, so these
features are hidden from the live run: from glibc by GLIBC_TUNABLES, from OpenSSL by
OPENSSL_ia32cap. Perl and Python seed their hash tables at random, which moves what they
allocate; they get a fixed seed. All variables are set on all sides, since the bytes of the
environment lie on the stack.
"""

from __future__ import annotations

from samepage.cpu import engines
from samepage.errors import SamepageError

HIDDEN_CPU_FEATURES = engines.hidden_features()
"""In the form of `glibc.cpu.hwcaps`: what the live CPU may have and the engine's has not."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CWD = "/"


def environment(hidden: str = HIDDEN_CPU_FEATURES) -> dict[str, str]:
    """What every compared program gets, with some CPU features hidden from it ("" hides
    none)."""
    variables = {"PATH": SEARCH_PATH, "HOME": "/", "LC_ALL": "C", "TERM": "dumb"}
    if hidden:
        variables["GLIBC_TUNABLES"] = f"glibc.cpu.hwcaps={hidden}"
        variables["OPENSSL_ia32cap"] = "0:0"
    return {**variables, "PERL_HASH_SEED": "0", "PYTHONHASHSEED": "0"}


ENVIRONMENT = environment()


def find_program(name: str) -> str:
    """The path that `execve` gets for a program's name, as a shell finds it.

    Raises `SamepageError` with exit status 2 if there is none.
    """
    if "/" in name:
        return name
    import shutil  # takes as long to import as a command to start

    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise SamepageError(f"{name}: not found in {SEARCH_PATH}")
    return path
