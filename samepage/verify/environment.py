"""The environment in which both sides run a program: the same, and one the model can obey.

A C library picks its string functions by what the CPU offers, and a program that runs
other code touches other pages. The model's CPU (Unicorn's default) lacks what a server's
CPU has, so the live run is told to do without it: glibc by GLIBC_TUNABLES, OpenSSL by
OPENSSL_ia32cap. Perl and Python seed their hash tables at random, which moves what they
allocate; they are told not to. All variables are set on both sides, since the bytes of the
environment lie on the stack.
"""

import shutil

from samepage.errors import SamepageError

HIDDEN_CPU_FEATURES = (
    "-AVX2,-AVX,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM,-BMI2,-SSE4_2,-SSE4_1,-SSSE3,-XSAVE,"
    "-XSAVEC,-AVX_Fast_Unaligned_Load,-MOVBE,-POPCNT,-LZCNT"
)
"""In the form of `glibc.cpu.hwcaps`: what the live CPU may have and the model's has not."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

ENVIRONMENT = {
    "PATH": SEARCH_PATH,
    "HOME": "/",
    "LC_ALL": "C",
    "TERM": "dumb",
    "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={HIDDEN_CPU_FEATURES}",
    "OPENSSL_ia32cap": "0:0",
    "PERL_HASH_SEED": "0",
    "PYTHONHASHSEED": "0",
}
"""What every compared program gets; `--env` adds to it."""

CWD = "/"


def find_program(name: str) -> str:
    """The path that `execve` gets for a program's name, as a shell finds it.

    Raises `SamepageError` with exit status 2 if there is none.
    """
    if "/" in name:
        return name
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise SamepageError(f"{name}: not found in {SEARCH_PATH}")
    return path
