"""What `follow` follows: processes and their descendants, cgroups, a command that it starts.

A `Target` knows which processes belong to it at the moment, and puts events on them and on
whatever joins them later. samepage itself, and what it starts for its own purposes, belongs to
none.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from samepage.errors import SamepageError
from samepage.live.process_files import parse_stat
from samepage.live.procfs import list_pids
from samepage.trace.perf.session import Session

_GATE = 'read -r _ <&3; exec 3<&-; exec "$@"'
"""What a shell does in place of the command until it is let go."""
_PATIENCE = 10.0
"""Seconds that a command has to end after SIGINT, and again after SIGTERM."""


class Target(Protocol):
    """Processes to follow."""

    def attach(self, session: Session) -> None:
        """Open the events. Raises `SamepageError`."""

    def begin(self) -> None:
        """Everything is recorded now."""

    def pids(self) -> list[int]:
        """The processes that belong to it and live, ascending."""

    @property
    def running(self) -> bool:
        """False when there will be nothing more to see."""

    def end(self) -> None:
        """The watching is over."""


class Family:
    """Processes, and all that they have forked and fork meanwhile."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._roots = list(pids)
        self._known: list[int] = list(pids)

    def attach(self, session: Session) -> None:
        """As `Target.attach`."""
        session.add_processes(self.pids())

    def begin(self) -> None:
        """As `Target.begin`."""

    def pids(self) -> list[int]:
        """As `Target.pids`; one that was adopted by init belongs to it still."""
        self._known = family([*self._known, *self._roots])
        return self._known

    @property
    def running(self) -> bool:
        """As `Target.running`."""
        return any(os.path.exists(f"/proc/{pid}") for pid in self._known)

    def end(self) -> None:
        """As `Target.end`."""


class Cgroups:
    """The processes of some cgroups and of those below them."""

    def __init__(self, directories: Sequence[str]) -> None:
        """`directories` of the cgroup file system."""
        self._directories = list(directories)

    def attach(self, session: Session) -> None:
        """As `Target.attach`: the kernel knows cgroups, so newcomers need nothing. Where events
        belong to another hierarchy (v1's perf_event), the processes are attached to."""
        pids = self.pids()
        if not pids:
            raise SamepageError(f"no process is in {', '.join(self._directories)}")
        if not all(session.add_cgroup(directory) for directory in self._directories):
            session.add_processes(pids)

    def begin(self) -> None:
        """As `Target.begin`."""

    def pids(self) -> list[int]:
        """As `Target.pids`."""
        found: set[int] = set()
        for directory in (below for top in self._directories for below, _, _ in os.walk(top)):
            with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs") as file:
                found.update(int(line) for line in file)
        return sorted(found - set(family([os.getpid()], ours=True)) - {0})

    @property
    def running(self) -> bool:
        """As `Target.running`: processes may join them at any time."""
        return any(os.path.exists(directory) for directory in self._directories)

    def end(self) -> None:
        """As `Target.end`."""


class Command:
    """A command that is started, with all that it forks. What it prints goes to our stderr.

    It runs in a process group of its own, so that Ctrl-C ends the watching, and the command
    only after that: with SIGINT, then SIGTERM, then SIGKILL.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start a shell that waits, and becomes the command at `begin`; `env` in place of our
        environment. Raises `SamepageError`."""
        _check(argv[0])
        reader, self._gate = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        self._pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _GATE, "sh", *argv],
            os.environ if env is None else env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null if os.isatty(0) else 0, 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
                (os.POSIX_SPAWN_DUP2, reader, 3),
            ],
            setpgroup=0,
        )
        os.close(null)
        os.close(reader)
        self._family = Family([self._pid])
        self._ended = False

    def attach(self, session: Session) -> None:
        """As `Target.attach`."""
        self._family.attach(session)

    def begin(self) -> None:
        """As `Target.begin`: let it go."""
        os.write(self._gate, b"\n")
        os.close(self._gate)
        self._gate = -1

    def pids(self) -> list[int]:
        """As `Target.pids`."""
        return self._family.pids()

    @property
    def running(self) -> bool:
        """As `Target.running`."""
        self._reap()
        return not self._ended or self._family.running

    def end(self) -> None:
        """As `Target.end`: end the command, and wait for it."""
        if self._gate >= 0:
            os.close(self._gate)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if not self._signal(number):
                break
            until = time.monotonic() + _PATIENCE
            while self._signal(0) and time.monotonic() < until:
                time.sleep(0.01)

    def _signal(self, number: int) -> bool:
        """Whether there was a process to send it to."""
        self._reap()
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            return False
        return True

    def _reap(self) -> None:
        if not self._ended:
            self._ended = os.waitpid(self._pid, os.WNOHANG)[0] != 0


def family(pids: Sequence[int], *, ours: bool = False) -> list[int]:
    """These processes, as far as they live, and all their descendants, ascending; without
    this one and what it starts, which may be among them, unless `ours`."""
    children: dict[int, list[int]] = {}
    alive = set(list_pids("/proc"))
    for pid in alive:
        children.setdefault(parent_of(pid), []).append(pid)
    if not ours:
        alive.discard(os.getpid())
    found: set[int] = set()
    todo = [pid for pid in pids if pid in alive]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += (child for child in children.get(pid, []) if child in alive)
    return sorted(found)


def parent_of(pid: int) -> int:
    """The parent of a process, 0 if there is none or it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return parse_stat(file.read())[1]
    except OSError:
        return 0


def _check(program: str) -> None:
    from shutil import which

    if which(program) is None:
        if "/" in program and os.path.exists(program):
            raise SamepageError(f"{program}: not executable", 126)
        raise SamepageError(f"{program}: command not found", 127)
