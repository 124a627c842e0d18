"""What an ordinary user can see of their own processes: one software event, and pagemap without
frame numbers.

PAGE_FAULTS_MIN is raised for each minor fault in user mode, and does not show what became of it.
pagemap shows a user whether a page is mapped by one process only. So a fault is taken for a write
if the page is mapped here alone at the second reading, and is no page of a file; and that for a
copy if the page was present before the fault: at the first reading, or because this process or
one that it descends from had a fault there already. Other faults were reads.

Two things remain unknown, and the answer names them: a write by the last owner, which copies
nothing, is counted as a copy; and what the kernel writes into buffers is not seen.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from samepage.abi.perf_event import SW_PAGE_FAULTS_MIN, EventType, Flag, Sample
from samepage.live.private_frames import ONLY_HERE
from samepage.snapshot.writes import Frames, WriteKind
from samepage.trace.perf.event import EventSpec
from samepage.trace.perf.tasks import TASK_FLAGS, Tasks
from samepage.trace.stack_words import KEPT
from samepage.trace.writes import FINISHED, Writes

MISSING = (
    "without root (CAP_PERFMON, CAP_SYS_ADMIN): the kernel's own writes into buffers, and frame "
    "numbers; a write by a page's last owner is counted as a copy"
)
RING_PAGES = 128
"""What kernel.perf_event_mlock_kb (516) allows each user for each CPU, with the control page."""


def user_events() -> list[EventSpec]:
    """The events that need no right but that to trace the process."""
    sample = Sample.IP | Sample.TID | Sample.TIME | Sample.ADDR
    flags = Flag.EXCLUDE_HV | Flag.EXCLUDE_KERNEL | TASK_FLAGS
    return [EventSpec(FINISHED, EventType.SOFTWARE, SW_PAGE_FAULTS_MIN, sample, flags)]


def find_user_writes(
    faults: list[npt.NDArray[np.void]],
    lost: int,
    before: Mapping[int, Frames],
    after: Mapping[int, Frames],
    tasks: Tasks,
    *,
    page_shift: int,
) -> Writes:
    """The writes among the minor faults that were recorded."""
    fields = ["pid", "tid", "time", "addr", "ip"]
    rows = (
        np.concatenate([part[fields] for part in faults])
        if faults
        else np.zeros(0, [("pid", "<u4"), ("tid", "<u4"), *((n, "<u8") for n in fields[2:])])
    )
    rows = rows[np.argsort(rows["time"], kind="stable")]
    page = rows["addr"] >> np.uint64(page_shift)
    known = _Known(before, tasks, rows["pid"], rows["time"], page)
    kind = np.full(len(rows), _NO_WRITE, np.int16)
    for pid in np.unique(rows["pid"]).tolist():
        if pid in after:
            mine = rows["pid"] == pid
            kind[mine] = _kinds(page[mine], known.at_start(pid), after[pid])
    kept = kind != _NO_WRITE
    rows, page = rows[kept], page[kept]
    count = len(rows)
    return Writes(
        pid=rows["pid"],
        tid=rows["tid"],
        time=rows["time"],
        page=page,
        address=rows["addr"],
        ip=rows["ip"],
        kind=kind[kept].astype(np.uint8),
        from_kernel=np.zeros(count, np.bool_),
        frame=np.full(count, -1, np.int64),
        callers=np.zeros((count, KEPT), np.uint64),
        lost=lost,
    )


_NO_WRITE = -1


def _kinds(
    page: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64], now: Frames
) -> npt.NDArray[np.int16]:
    """What the faults of one process on `page`, in the order of time, did."""
    frames = now.at(page)
    own = (frames >= 0) & (frames & ONLY_HERE != 0) & ~now.file_pages_at(page)
    again = np.ones(len(page), np.bool_)
    again[np.unique(page, return_index=True)[1]] = False
    present = again | np.isin(page, known)
    written = np.where(present, WriteKind.COPY, WriteKind.FIRST_TOUCH)
    return np.where(own, written, _NO_WRITE).astype(np.int16)


class _Known:
    """The pages that a process was born with, as far as they are known."""

    def __init__(
        self,
        before: Mapping[int, Frames],
        tasks: Tasks,
        pid: npt.NDArray[np.uint32],
        time: npt.NDArray[np.uint64],
        page: npt.NDArray[np.uint64],
    ) -> None:
        self._before, self._tasks = before, tasks
        self._pid, self._time, self._page = pid, time, page

    def at_start(self, pid: int) -> npt.NDArray[np.uint64]:
        """Those of the first reading, or of its parent at the fork."""
        if pid in self._tasks.execs:
            return np.zeros(0, np.uint64)
        if pid in self._before:
            return self._before[pid].page
        if pid not in self._tasks.forks:
            return np.zeros(0, np.uint64)
        parent, forked = self._tasks.forks[pid]
        touched = self._page[(self._pid == parent) & (self._time < forked)]
        return np.concatenate([self.at_start(parent), touched])
