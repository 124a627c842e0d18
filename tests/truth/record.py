"""Record what this kernel has in memory for the programs of this directory (needs root).

    python3 tests/truth/record.py

It writes `linux-RELEASE-memory.recording` (freestanding programs) and
`linux-RELEASE-library.recording` (programs of this system's C library) beside this file, both
with the programs, but without the C library; the
tests then compare the model with them on every machine. A program that is in DIRECTORY already
stays as it is, so that several kernels can be recorded with the same ones.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DIRECTORY = Path("/var/tmp/samepage-truth")
"""Where the programs are run: a program's path lies on its stack, so it is the same for all."""

_COMMON = ("-O1", "-Wall", "-Wextra", "-s")
_FREESTANDING = (
    *("-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
)


def programs() -> dict[str, tuple[str, ...]]:
    """The arguments of the compiler by the name of the program.

    With the C library's directory as RUNPATH ld.so finds it without /etc/ld.so.cache, the size of
    which would decide addresses.
    """
    libc = subprocess.run(
        ["cc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True
    )
    runpath = f"-Wl,-rpath,{os.path.dirname(os.path.realpath(libc.stdout.strip()))}"
    return {
        "memory": ("memory.c", *_FREESTANDING, "-static"),
        "memory-pie": ("memory.c", *_FREESTANDING, "-static-pie", "-fPIE"),
        "library": ("library.c", "-no-pie", "-pthread", runpath),
        "library-pie": ("library.c", "-pie", "-fPIE", "-pthread", runpath),
    }


def build(directory: Path) -> None:
    """Compile what is not there yet. Raises `subprocess.CalledProcessError`."""
    directory.mkdir(mode=0o755, exist_ok=True)
    for name, arguments in programs().items():
        if not (directory / name).exists():
            with tempfile.TemporaryDirectory() as place:
                made = f"{place}/{name}"
                subprocess.run(["cc", *_COMMON, "-o", made, *arguments], cwd=HERE, check=True)
                shutil.copy(made, directory / name)


def main() -> None:
    """Compile, and record each list of groups."""
    build(DIRECTORY)
    match = re.match(r"\d+\.\d+", os.uname().release)
    assert match is not None
    for name in ("memory", "library"):
        output = HERE / f"linux-{match[0]}-{name}.recording"
        command = [sys.executable, "-m", "samepage", "verify", "--record", str(output)]
        groups = str(HERE / f"{name}.txt")
        subprocess.run([*command, "--with-files", "programs", "--corpus", groups], check=True)
        print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
