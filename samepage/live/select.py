"""Which processes a command means: ids and names, found without reading any memory.

A process is called by three names, and may have changed two of them: `comm`, the kernel's name,
which a thread sets by prctl(PR_SET_NAME); `argv[0]`, which may be a title that the program wrote
over its arguments ("puma 6.4.3 (tcp://127.0.0.1:9292) [shop]"); and its executable, which it
cannot change, but which may have another file name than the one it was called by (ruby is a
link to ruby3.1).
"""

import os
from collections.abc import Iterator, Sequence

from samepage.errors import SamepageError
from samepage.live.procfs import list_pids, read_file


def find_processes(targets: Sequence[str], proc: str = "/proc") -> list[int]:
    """Return the pids that `targets` name, ascending.

    A target of digits is a pid; anything else is the name of a program: the kernel's name of
    the process or the first word of it, the file name or first word of its first argument, the
    file name of its executable, or a name that PATH resolves to this executable. This process
    itself is never found by name. Raises `SamepageError` if there is no such process.
    """
    found: set[int] = set()
    names = [target for target in targets if not _is_pid(target)]
    for target in targets:
        if _is_pid(target):
            if not os.path.exists(f"{proc}/{target}/stat"):
                raise SamepageError(f"there is no process {target}")
            found.add(int(target))
    if names:
        found |= _by_names(names, proc)
    return sorted(found)


def _is_pid(target: str) -> bool:
    return target.isascii() and target.isdigit()


def _by_names(names: list[str], proc: str) -> set[int]:
    found: set[int] = set()
    missing = set(names)
    import shutil  # which takes as long as all of the imports of this command's parser

    programs = {name: _inode(shutil.which(name) or "") for name in names if "/" not in name}
    ours = os.getpid()
    for pid in list_pids(proc):
        if pid == ours:
            continue
        called = set(_names_of(f"{proc}/{pid}/"))
        runs = _inode(f"{proc}/{pid}/exe") if any(programs.values()) else None
        for name in names:
            if name in called or (runs is not None and programs.get(name) == runs):
                found.add(pid)
                missing.discard(name)
    if missing:
        raise SamepageError(f"no process is called {sorted(missing)[0]}")
    return found


def _inode(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file, None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _names_of(base: str) -> Iterator[str]:
    for path in ("comm", "cmdline"):
        try:
            text = read_file(base + path).decode("utf-8", "surrogateescape")
        except OSError:
            continue
        name = text.partition("\0")[0].rstrip("\n")
        word = name.partition(" ")[0].removesuffix(":")
        names = {name, word}
        if path == "cmdline":  # a slash in the kernel's name separates nothing: kworker/0:1
            names |= {name.rpartition("/")[2], word.rpartition("/")[2]}
        yield from names - {""}  # a kernel thread has no arguments
    try:
        yield os.readlink(base + "exe").rpartition("/")[2]
    except OSError:
        pass
