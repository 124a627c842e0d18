"""Reading small files of /proc, and how much of what was asked for could be had.

A process may exit between any two system calls of ours, and its memory may be none of our
business. Neither is an error of a capture: the process is left out and counted. `Tally` is
that count; a report names it in one line.
"""

import os

from samepage.records import fields, record

READ_SIZE = 1 << 16
SHORT_SIZE = 1 << 12


@record(eq=False)
class Tally:
    """What happened to the processes that were asked for. All values count processes."""

    captured: int = 0
    without_memory: int = 0
    """Kernel threads and zombies: they have no address space."""
    denied: int = 0
    """Another user's, or one with capabilities that we lack (ptrace access mode READ); also
    those of which a file could not be read for any other reason."""
    vanished: int = 0
    """Exited, or replaced by exec twice, while they were read."""
    appeared: int = 0
    """Started after the list of processes was taken: not captured."""
    changed: int = 0
    """Changed their mappings while they were read: pages outside any VMA were left out."""
    stuck: int = 0
    """Could not be read within the time limit (a lock held by a thread in D state)."""
    malformed: int = 0
    """Had lines in `maps` that cannot be right; those lines were left out."""

    def add(self, other: "Tally") -> None:
        """Add the counts of another part of the same capture."""
        for name in fields(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def read_file(path: str) -> bytes:
    """Return a whole file of /proc. Raises `OSError` (ESRCH or ENOENT: the process is gone)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Return what is left to read from `fd`. Raises `OSError`."""
    first = os.read(fd, READ_SIZE)
    if not first:
        return first
    # A seq_file hands out less than was asked for before its end, so only an empty read ends.
    parts = [first]
    while part := os.read(fd, READ_SIZE):
        parts.append(part)
    return b"".join(parts)


def read_short(path: str) -> bytes:
    """Return a whole file of /proc that is made in one piece. Raises `OSError`.

    Such a file comes with the first read as far as there is room, so one that fills less than
    the room is at its end, and the read that would return 0 can be left out.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first = os.read(fd, SHORT_SIZE)
        return first if len(first) < SHORT_SIZE else first + read_all(fd)
    finally:
        os.close(fd)


def list_pids(proc: str) -> list[int]:
    """Return the ids of all processes (thread group leaders), ascending."""
    return sorted(int(name) for name in os.listdir(proc) if name.isascii() and name.isdigit())
