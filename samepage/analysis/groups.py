"""The cost of several processes together: a container's, a user's.

A group's frames are more than the sum of its USS: what only its own processes share is freed
too when the group ends. So each group's frames are counted as one set: `frames` is the
set's size, and `own_frames` are those in it that nothing outside the group maps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from samepage.analysis.sharing import ProcessUse, Sharing, sum_fractions


@dataclass(frozen=True, slots=True)
class GroupUse:
    """What the processes of one group have together, in pages.

    Invariant: own_frames <= pss <= frames <= rss, but for pages without frame number.
    """

    name: str
    pids: tuple[int, ...]
    rss: int
    pss: Fraction
    frames: int
    own_frames: int


def by_container(process: ProcessUse) -> str:
    """Name a process's container; "" if it is in none."""
    return process.container


def by_user(process: ProcessUse) -> str:
    """Name a process's user, by number: a snapshot may be of another machine."""
    return str(process.uid)


def group_use(sharing: Sharing, key: Callable[[ProcessUse], str]) -> list[GroupUse]:
    """Return the groups that `key` makes of the processes, the most expensive (PSS) first.

    Reads the pages once more, group by group; memory is bounded by the largest group.
    """
    members: dict[str, list[ProcessUse]] = {}
    for process in sharing.processes:
        members.setdefault(key(process), []).append(process)
    rows = _resident_rows(sharing, {p.pid: name for name, ps in members.items() for p in ps})
    groups = [
        _group(sharing, name, processes, rows.pop(name, [])) for name, processes in members.items()
    ]
    return sorted(groups, key=lambda group: (-group.pss, group.name))


def _group(
    sharing: Sharing, name: str, processes: list[ProcessUse], rows: list[npt.NDArray[np.int32]]
) -> GroupUse:
    frames, times = np.unique(np.concatenate(rows or [np.empty(0, np.int32)]), return_counts=True)
    own = times == sharing.counted.frames.degree[frames]
    return GroupUse(
        name=name,
        pids=tuple(process.pid for process in processes),
        rss=sum(process.usage.rss for process in processes),
        pss=sum_fractions(process.pss for process in processes),
        frames=len(frames),
        own_frames=int(own.sum()),
    )


def _resident_rows(
    sharing: Sharing, group_of: dict[int, str]
) -> dict[str, list[npt.NDArray[np.int32]]]:
    """Return the frame rows of all resident pages, group by group."""
    rows: dict[str, list[npt.NDArray[np.int32]]] = {}
    for pages in sharing.counted.reader:
        known = pages.resident & (pages.row >= 0)
        for pid, run in pages.batch.runs():
            rows.setdefault(group_of[pid], []).append(pages.row[run][known[run]])
    return rows
