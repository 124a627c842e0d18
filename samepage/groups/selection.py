"""Which processes a command line means: the same rules for the running system and a snapshot.

`PID|NAME`, `--cgroup`, `--unit`, `--pod`, `--container`, `--user` and `--tree` may each be given
more than once. A process is chosen if it is one of *each* kind that is given, as with pgrep:
`nginx worker --user www-data` are the processes called nginx or worker that www-data runs.

A process is called by three names, and may have changed two of them: `comm`, the kernel's name,
which a thread sets by prctl(PR_SET_NAME); `argv[0]`, which may be a title that the program wrote
over its arguments ("puma 6.4.3 (tcp://127.0.0.1:9292) [shop]"); and its executable, which it
cannot change, but which may have another file name than the one it was called by (ruby is a
link to ruby3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from samepage.errors import SamepageError
from samepage.groups.control_group import find_pod, is_within, units
from samepage.groups.names import name_in_id
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Chosen(Protocol):
        """What is known of a process before any of its memory is."""

        @property
        def pid(self) -> int: ...
        @property
        def ppid(self) -> int: ...
        @property
        def argv(self) -> tuple[str, ...]: ...
        @property
        def comm(self) -> str: ...
        @property
        def exe(self) -> str: ...
        @property
        def uid(self) -> int: ...
        @property
        def cgroup(self) -> str: ...
        @property
        def container(self) -> str: ...
        @property
        def container_name(self) -> str: ...
        @property
        def pod(self) -> str: ...


KINDS = ("target", "cgroup", "unit", "pod", "container", "user", "tree")
"""The kinds of what may be asked for; the first is PID|NAME."""

_LEAST_ID = 4
"""Digits of an id that must be given at least, for "a" to be a name and no id."""
_MOUNTS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")


@record(frozen=True)
class Selection:
    """What was asked for: (kind, value) pairs, of `KINDS`."""

    wanted: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, targets: Iterable[str], options: Iterable[tuple[str, str]] = ()) -> Selection:
        """Return the selection of arguments PID|NAME and of options."""
        return cls((*(("target", target) for target in targets), *options))

    def __bool__(self) -> bool:
        return bool(self.wanted)

    def values(self, kind: str) -> list[str]:
        """Return what was asked for of one kind."""
        return [value for each, value in self.wanted if each == kind]

    def asks(self, *kinds: str) -> bool:
        """Whether anything of these kinds was asked for."""
        return any(kind in kinds for kind, _ in self.wanted)


Runs = Callable[[str, int], bool]


def user_number(name: str) -> int | None:
    """Return the number of a user of this machine by name, None if there is none."""
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def choose(
    selection: Selection,
    processes: Sequence[Chosen],
    *,
    user_number: Callable[[str], int | None],
    runs: Runs = lambda name, pid: False,
) -> list[int]:
    """Return the pids of the processes that are asked for, ascending; of all if nothing is.

    `user_number` returns the number of a user by name, None if there is none; `runs` whether a
    process runs the program that a name without a slash means on this system. Raises
    `SamepageError` if a value means no process, or no process is of each kind.
    """
    left = {process.pid for process in processes}
    for kind in KINDS:
        values = selection.values(kind)
        if values:
            left &= _of_kind(kind, values, processes, user_number, runs)
    if selection and not left:
        raise SamepageError(f"no process is {' and '.join(_described(selection))}")
    return sorted(left)


def _of_kind(
    kind: str,
    values: list[str],
    processes: Sequence[Chosen],
    user_number: Callable[[str], int | None],
    runs: Runs,
) -> set[int]:
    """Return the pids of those that are one of `values`. Raises `SamepageError`."""
    found: set[int] = set()
    for value in values:
        if kind in ("target", "tree"):
            mine = {process.pid for process in processes if _is_called(process, value, runs)}
            if kind == "tree":
                mine |= _descendants(processes, mine)
        elif kind == "user":
            number = int(value) if _is_number(value) else user_number(value)
            if number is None:
                raise SamepageError(f"there is no user {value}")
            mine = {process.pid for process in processes if process.uid == number}
        else:
            matches = _MATCHES[kind]
            mine = {process.pid for process in processes if matches(process, value)}
        if not mine:
            raise SamepageError(_nothing(kind, value))
        found |= mine
    return found


def _nothing(kind: str, value: str) -> str:
    if kind in ("target", "tree"):
        if _is_number(value):
            return f"there is no process {value}"
        return f"no process is called {value}"
    return f"no process is {_PHRASES[kind]} {value}"


_PHRASES = {
    "target": "called",
    "tree": "in the tree of",
    "cgroup": "in the control group",
    "unit": "of the unit",
    "pod": "in the pod",
    "container": "in the container",
    "user": "of the user",
}


def _described(selection: Selection) -> Iterator[str]:
    for kind in KINDS:
        if values := selection.values(kind):
            yield f"{_PHRASES[kind]} {' or '.join(values)}"


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit()


def _is_called(process: Chosen, target: str, runs: Runs) -> bool:
    if _is_number(target):
        return process.pid == int(target)
    return target in set(names_of(process)) or ("/" not in target and runs(target, process.pid))


def names_of(process: Chosen) -> Iterator[str]:
    """Yield what a process is called: names, and the first words of them."""
    title = process.argv[0] if process.argv else ""
    for name in (process.comm, title):
        word = name.partition(" ")[0].removesuffix(":")
        # A slash in the kernel's name separates nothing: kworker/0:1.
        more = (name.rpartition("/")[2], word.rpartition("/")[2]) if name is title else ()
        yield from filter(None, (name, word, *more))
    if process.exe:
        yield process.exe.removesuffix(" (deleted)").rpartition("/")[2]


def _descendants(processes: Sequence[Chosen], roots: set[int]) -> set[int]:
    """Return the pids of all that descend from `roots`."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child not in found:
                found.add(child)
                ahead.append(child)
    return found


def group_path(value: str) -> str:
    """Return what is meant by a path of a control group, also where it is mounted.

    >>> group_path("/sys/fs/cgroup/system.slice/"), group_path("system.slice"), group_path("/")
    ('/system.slice', '/system.slice', '/')
    """
    for mount in (*_MOUNTS, "/sys/fs/cgroup"):
        if is_within(value, mount):
            value = value.removeprefix(mount)
            break
    return "/" + value.strip("/")


def _in_cgroup(process: Chosen, value: str) -> bool:
    return process.cgroup != "" and is_within(process.cgroup, group_path(value))


def _of_unit(process: Chosen, value: str) -> bool:
    names = (value, f"{value}.service")
    return any(fnmatchcase(unit, name) for unit in units(process.cgroup) for name in names)


def _in_pod(process: Chosen, value: str) -> bool:
    number = find_pod(process.cgroup)
    names = {process.pod, process.pod.rpartition("/")[2]} - {""}
    return any(fnmatchcase(name, value) for name in names) or _is_id(number, value)


def _in_container(process: Chosen, value: str) -> bool:
    container = process.container
    names = {process.container_name, name_in_id(container)} - {""}
    if any(fnmatchcase(name, value) for name in names):
        return True
    return container == value or _is_id(container.partition(":")[2], value)


def _is_id(number: str, value: str) -> bool:
    return len(value) >= _LEAST_ID and number.startswith(value)


_MATCHES: dict[str, Callable[[Chosen, str], bool]] = {
    "cgroup": _in_cgroup,
    "unit": _of_unit,
    "pod": _in_pod,
    "container": _in_container,
}
