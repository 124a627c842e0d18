"""The second act: a library and two programs in C, so that the reader knows every name.

`a_function` lies far from either end of the text, so that no earlier fault maps its page
along; it reads `a_data`, which fills a page of its own. `a_write` writes that page; only the
second program calls it. The second program needs the mathematics library too, and before
`a.so`, which puts `a.so` at another address there.
"""

import os
import shutil
import subprocess

from samepage.demo.programs import Choice, Program, describe, imported_functions
from samepage.errors import SamepageError

_SOURCES = {
    "a.c": """
__attribute__((aligned(4096))) int a_data[1024] = {1};
__asm__(".text\\n.skip 0x40000, 0x90");
__attribute__((aligned(4096))) int a_function(int x) { return a_data[0] + x; }
__asm__(".text\\n.skip 0x40000, 0x90");
void a_write(int value) { a_data[0] = value; }
""",
    "first.c": """
int a_function(int);
int main(void) { return a_function(41) - 42; }
""",
    "second.c": """
int a_function(int);
void a_write(int);
int main(void) { if (a_function(41) != 42) return 1; a_write(7); return a_function(0) - 7; }
""",
}
_ABOUT = (
    "They were compiled just now: a_function reads a_data, a_write changes it. The first program "
    "calls a_function, the second one both."
)
_COMMANDS = (
    ("-shared", "-fPIC", "-o", "a.so", "a.c"),
    ("-o", "first", "first.c", "a.so", "-Wl,-rpath,$ORIGIN"),
    ("-o", "second", "second.c", "-Wl,--no-as-needed", "-lm", "a.so", "-Wl,-rpath,$ORIGIN"),
)


def compiler() -> str | None:
    """The C compiler's path, or None if there is none."""
    return shutil.which(os.environ.get("CC") or "cc")


def build(directory: str, cc: str) -> Choice:
    """Compile the three files in a directory. Raises `SamepageError` if that fails."""
    for name, text in _SOURCES.items():
        with open(os.path.join(directory, name), "w", encoding="ascii") as file:
            file.write(text)
    for arguments in _COMMANDS:
        result = subprocess.run(
            [cc, "-O1", *arguments], cwd=directory, capture_output=True, text=True, check=False
        )
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise SamepageError(f"{cc} could not compile the example: {reason}")
    library = os.path.realpath(os.path.join(directory, "a.so"))
    first, second = (os.path.realpath(os.path.join(directory, n)) for n in ("first", "second"))
    return Choice(
        describe(library),
        Program(first, ["first"]),
        Program(second, ["second"]),
        imported_functions(first, library),
        _ABOUT,
    )
