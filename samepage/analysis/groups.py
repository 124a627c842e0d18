"""The cost of several processes together: a unit's, a container's, a user's, a program's.

A group's frames are more than the sum of its USS: some are shared by its own processes only. So
each group's frames are counted as one set: `frames` is the set's size, `own_frames` are those in
it that nothing outside the group maps, and `freed_frames` those that would be free if the group
ended. The latter are fewer: the page cache of a file outlives its mappings. What goes is anonymous
memory, and files without a name (deleted ones, memfd, shared anonymous memory) once nothing maps
them; System V segments, which maps shows as deleted, stay until they are removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from samepage.analysis.shares import Share, together
from samepage.analysis.sharing import ProcessUse, Sharing
from samepage.groups.control_group import unit
from samepage.snapshot.arrays import counted
from samepage.snapshot.columns import Marks, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fractions import Fraction

Key = Callable[[ProcessUse], str]
"""What group a process is in, "" for none."""


class GroupUse(NamedTuple):
    """What the processes of one group have together, in pages.

    Invariant: freed_frames <= own_frames <= pss <= frames <= rss, but for pages whose frame is not
    known.
    """

    name: str
    processes: tuple[ProcessUse, ...]
    rss: int
    share: Share
    """The sum of their PSS."""
    frames: int
    own_frames: int
    freed_frames: int

    @property
    def pss(self) -> Fraction:
        """The sum of their PSS, exactly."""
        return self.share.exact()


def by_program(use: ProcessUse) -> str:
    """Return a process's executable, or what it calls itself if that is not known."""
    return use.process.exe or use.process.comm


def by_container(use: ProcessUse) -> str:
    """Return a process's container; "" if it is in none."""
    return use.process.container


def by_user(use: ProcessUse) -> str:
    """Return a process's user, by number: a snapshot may be of another machine."""
    return str(use.process.uid)


def by_unit(use: ProcessUse) -> str:
    """Return a process's unit of systemd, the innermost one; "" if it is in none."""
    return unit(use.process.cgroup)


def by_pod(use: ProcessUse) -> str:
    """Return a process's pod; "" if it is in none."""
    return use.process.pod


def by_tree(snapshot: Snapshot) -> Key:
    """Return the key that is the pid of the root of a process's tree.

    The root is the oldest ancestor whose parent is process 1, or is not in the snapshot.
    """
    parents = {process.pid: process.ppid for process in snapshot.processes}
    roots: dict[int, int] = {}

    def root(pid: int) -> int:
        way = []
        while pid not in roots:
            parent = parents.get(pid, 0)
            if parent <= 1 or parent not in parents or parent in way:
                roots[pid] = pid
            else:
                way.append(pid)
                pid = parent
        for each in way:
            roots[each] = roots[pid]
        return roots[pid]

    return lambda use: str(root(use.process.pid))


def key_of(kind: str, snapshot: Snapshot) -> Key:
    """Return the key of one of `KINDS`."""
    return by_tree(snapshot) if kind == "tree" else _KEYS[kind]


_KEYS: dict[str, Key] = {
    "program": by_program,
    "unit": by_unit,
    "pod": by_pod,
    "container": by_container,
    "user": by_user,
}
KINDS = (*_KEYS, "tree")
"""The ways in which processes are grouped."""


def groups(sharing: Sharing, key: Key) -> list[GroupUse]:
    """Return the groups that `key` makes of the processes, the most expensive (PSS) first."""
    bounds, goes = sharing.snapshot.process_bounds().tolist(), _goes(sharing.snapshot)
    found = [
        _group(sharing, name, uses, bounds, goes) for name, uses in members(sharing, key).items()
    ]
    return sorted(found, key=lambda group: (-group.share.near, group.name))


def members(sharing: Sharing, key: Key) -> dict[str, list[ProcessUse]]:
    """Return the processes of each group by its name."""
    found: dict[str, list[ProcessUse]] = {}
    for use in sharing.processes:
        found.setdefault(key(use), []).append(use)
    return found


def _goes(snapshot: Snapshot) -> Marks:
    """Return which frames are freed when nothing maps them any more."""
    nameless = [file.deleted and not file.path.startswith("/SYSV") for file in snapshot.files]
    of_file = np.array([*nameless, False], dtype=bool)[snapshot.frames.file]
    goes: Marks = of_file | snapshot.frames.anonymous()
    return goes


def _group(
    sharing: Sharing, name: str, uses: list[ProcessUse], bounds: list[int], goes: Marks
) -> GroupUse:
    snapshot = sharing.snapshot
    pages = [snapshot.pages.frame[bounds[use.number] : bounds[use.number + 1]] for use in uses]
    frames, times = counted(np.concatenate(pages).astype(np.int64), len(snapshot.frames) + 1)
    known = frames < len(snapshot.frames)
    frames, times = frames[known], times[known]
    resident = sharing.counted.mapped[frames] > 0
    own = resident & (times >= sharing.counted.degree[frames])
    return GroupUse(
        name,
        tuple(uses),
        sum(use.usage.rss for use in uses),
        together(use.share for use in uses),
        int(resident.sum()),
        int(own.sum()),
        int((own & goes[frames]).sum()),
    )
