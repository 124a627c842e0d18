"""The cost of several processes together: a program's, a container's, a user's.

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

    @property
    def frames_known(self) -> bool:
        """Tell whether the kernel told which frames its pages have."""
        return self.frames > 0 or not self.rss


def by_program(process: ProcessUse) -> str:
    """Name a process's executable, or what it calls itself if that is not known."""
    return process.exe or process.comm


def by_container(process: ProcessUse) -> str:
    """Name a process's container; "" if it is in none."""
    return process.container


def by_user(process: ProcessUse) -> str:
    """Name a process's user, by number: a snapshot may be of another machine."""
    return str(process.uid)


class Groups:
    """Groups the processes of a snapshot, in any number of ways after one look at the pages.

    Keeps four bytes per resident page.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._processes = sharing.processes
        self._degree = sharing.counted.frames.degree
        self._rows: dict[int, list[npt.NDArray[np.int32]]] = {}
        for pages in sharing.counted.reader:
            known = pages.resident & (pages.row >= 0)
            for pid, run in pages.batch.runs():
                self._rows.setdefault(pid, []).append(pages.row[run][known[run]])

    def by(self, key: Callable[[ProcessUse], str]) -> list[GroupUse]:
        """Return the groups that `key` makes of the processes, the most expensive (PSS) first."""
        members: dict[str, list[ProcessUse]] = {}
        for process in self._processes:
            members.setdefault(key(process), []).append(process)
        groups = [self._group(name, processes) for name, processes in members.items()]
        return sorted(groups, key=lambda group: (-group.pss, group.name))

    def _group(self, name: str, processes: list[ProcessUse]) -> GroupUse:
        rows = [part for process in processes for part in self._rows.get(process.pid, ())]
        all_rows = np.concatenate([np.empty(0, dtype=np.int32), *rows])
        frames, times = np.unique(all_rows, return_counts=True)
        own = times == self._degree[frames]
        return GroupUse(
            name=name,
            pids=tuple(process.pid for process in processes),
            rss=sum(process.usage.rss for process in processes),
            pss=sum_fractions(process.pss for process in processes),
            frames=len(frames),
            own_frames=int(own.sum()),
        )
