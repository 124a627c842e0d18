"""Which processes a command means: ids and names, found without reading any memory."""

import os
from collections.abc import Iterator, Sequence

from samepage.errors import SamepageError
from samepage.live.procfs import list_pids, read_file


def find_processes(targets: Sequence[str], proc: str = "/proc") -> list[int]:
    """Return the pids that `targets` name, ascending.

    A target of digits is a pid; anything else is the name of a program: the kernel's name of
    the process, or the file name of its executable or first argument. This process itself
    is never found by name. Raises `SamepageError` if there is no such process.
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
    ours = os.getpid()
    for pid in list_pids(proc):
        if pid == ours:
            continue
        called = set(_names_of(f"{proc}/{pid}/"))
        for name in names:
            if name in called:
                found.add(pid)
                missing.discard(name)
    if missing:
        raise SamepageError(f"no process is called {sorted(missing)[0]}")
    return found


def _names_of(base: str) -> Iterator[str]:
    for path in ("comm", "cmdline"):
        try:
            text = read_file(base + path).decode("utf-8", "surrogateescape")
        except OSError:
            continue
        name = text.partition("\0")[0].rstrip("\n").rpartition("/")[2]
        if name:  # a kernel thread has no arguments
            yield name
    try:
        yield os.readlink(base + "exe").rpartition("/")[2]
    except OSError:
        pass
