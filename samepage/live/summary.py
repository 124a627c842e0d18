"""The answers about a capture: per process, per file, per container and user, and in all.

It is what the reports of a live system show, computed from the capture's own columns: no
table of a snapshot is made for it, so it is there a few milliseconds after the capture. The
records are named tuples: a data class takes eight times as long to make when it is imported.

    RSS     pages that a process has
    PSS     each of them divided by how often the system maps it; adds up to frames
    USS     those that nobody else maps: what its end would free
    saved   RSS of all less the frames they are: what it would cost more without sharing
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE as PAGE_SIZE
from samepage.abi.pagemap import PSS_SHIFT
from samepage.live.accounting import Counts, VmaSums, account
from samepage.live.arrays import distinct
from samepage.live.inodes import File
from samepage.live.processes import Process
from samepage.live.system import Capture
from samepage.snapshot.kinds import FrameKind

__all__ = ["PAGE_SIZE", "FileSum", "GroupSum", "Lost", "ProcessSum", "Summary", "Total"]


class ProcessSum(NamedTuple):
    """One process. In pages, but `pss`, which is in bytes."""

    process: Process
    rss: int
    pss: int
    uss: int
    dirty: int
    anonymous: int
    swapped: int
    number: int
    """Its position in the capture."""


class FileSum(NamedTuple):
    """One mapped inode. In pages, but `pss`, which is in bytes.

    Invariant: `frames` is at most `mapped`, but where the kernel tells no frames (0).
    """

    file: File
    processes: int
    mapped: int
    """Pages of the page cache that its mappings have, each as often as it is mapped."""
    frames: int
    copied: int
    """Private copies (copy-on-write) in its mappings."""
    pss: int
    number: int
    """Its position in the capture."""


class GroupSum(NamedTuple):
    """The processes of a container or user together. In pages, but `pss` in bytes."""

    name: str
    processes: int
    rss: int
    pss: int
    frames: int
    own: int
    """Frames that nothing outside the group maps: what the group's end would free."""


class Lost(NamedTuple):
    """One content (build-id and size) that is in memory under several inodes."""

    files: list[FileSum]
    frames: int
    saved: int
    """How many frames fewer one inode would need."""


class Total(NamedTuple):
    """All captured processes. In pages."""

    rss: int
    frames: int
    swapped: int
    copied: int

    @property
    def saved(self) -> int:
        """Frames that would be needed more if nothing were shared."""
        return self.rss - self.frames


class Summary:
    """Everything about one capture; each part is computed when it is asked for."""

    def __init__(self, capture: Capture, proc: str = "/proc") -> None:
        self.capture = capture
        if capture.frames_visible:
            self.sums: VmaSums = account(capture)
        else:
            from samepage.live.smaps import account_by_smaps

            self.sums = account_by_smaps(capture, proc)

    @cached_property
    def processes(self) -> list[ProcessSum]:
        """All processes, the largest PSS first."""
        sums, owner = self.sums, self.capture.vmas.process
        count = len(self.capture.processes)
        columns = zip(
            self.capture.processes,
            _sum(owner, sums.rss, count),
            _sum(owner, sums.pss, count),
            _sum(owner, sums.uss, count),
            _sum(owner, sums.private_dirty + sums.shared_dirty, count),
            _sum(owner, sums.anonymous, count),
            _sum(owner, sums.swapped, count),
            range(count),
            strict=True,
        )
        found = [
            ProcessSum(process, rss, pss >> PSS_SHIFT, *pages)
            for process, rss, pss, *pages in columns
        ]
        return sorted(found, key=lambda row: (-row.pss, row.process.pid))

    @cached_property
    def files(self) -> list[FileSum]:
        """All mapped files, the most saved by sharing first."""
        sums, count = self.sums, len(self.capture.files)
        of_vma = self.capture.vma_file()
        mine = np.flatnonzero(of_vma >= 0)
        file = of_vma[mine]
        pairs = distinct(file.astype(np.int64) << 32 | self.capture.vmas.process[mine]) >> 32
        frames = self.capture.frames
        # A frame of a file that only copies of it mention belongs to no mapping here.
        cached = frames.file[frames.resident & (frames.file >= 0)]
        columns = zip(
            self.capture.files,
            np.bincount(pairs, minlength=count).tolist(),
            _sum(file, (sums.rss - sums.anonymous)[mine], count),
            np.bincount(cached, minlength=count).tolist(),
            _sum(file, sums.anonymous[mine], count),
            _sum(file, sums.pss[mine], count),
            range(count),
            strict=True,
        )
        found = [
            FileSum(path, processes, mapped, unique, copied, pss >> PSS_SHIFT, number)
            for path, processes, mapped, unique, copied, pss, number in columns
        ]
        return sorted(found, key=lambda row: (row.frames - row.mapped, -row.pss, row.file.path))

    @cached_property
    def total(self) -> Total:
        """The sum over all processes."""
        sums = self.sums
        return Total(
            int(sums.rss.sum()),
            int(self.capture.frames.resident.sum()),
            int(sums.swapped.sum()),
            int(sums.anonymous[self.capture.vma_file() >= 0].sum()),
        )

    @cached_property
    def containers(self) -> list[GroupSum]:
        """The containers that were recognised, the largest PSS first."""
        return self.groups(lambda process: process.container)

    @cached_property
    def users(self) -> list[GroupSum]:
        """The users by number, the largest PSS first."""
        return self.groups(lambda process: str(process.uid))

    def groups(self, key: Callable[[Process], str]) -> list[GroupSum]:
        """Return the groups that `key` makes, the largest PSS first; "" is no group."""
        members: dict[str, list[ProcessSum]] = {}
        for row in self.processes:
            name = key(row.process)
            if name:
                members.setdefault(name, []).append(row)
        found = [self._group(name, rows) for name, rows in members.items()]
        return sorted(found, key=lambda row: (-row.pss, row.name))

    def _group(self, name: str, rows: list[ProcessSum]) -> GroupSum:
        frames, pages = self.capture.frames, self.capture.pages.frame
        slices = [self.capture.process_pages(row.number) for row in rows]
        mine = np.concatenate([pages[first:last] for first, last in slices])
        times = np.bincount(mine, minlength=len(frames) + 1)[:-1]
        used = (times > 0) & frames.resident
        return GroupSum(
            name,
            len(rows),
            sum(row.rss for row in rows),
            sum(row.pss for row in rows),
            int(used.sum()),
            int((used & (times >= frames.mapcount)).sum()),
        )

    @cached_property
    def lost(self) -> list[Lost]:
        """Contents with lost sharing, the largest saving first."""
        twins: dict[tuple[str, int | None], list[FileSum]] = {}
        for row in self.files:
            if row.file.build_id and row.frames:
                twins.setdefault((row.file.build_id, row.file.size), []).append(row)
        found = [self._lost(rows) for rows in twins.values() if len(rows) > 1]
        return sorted(
            (lost for lost in found if lost.saved),
            key=lambda lost: (-lost.saved, lost.files[0].file.path),
        )

    def _lost(self, rows: list[FileSum]) -> Lost:
        frames = self.capture.frames
        cached = (frames.kind == FrameKind.FILE) & frames.resident
        mine = np.isin(frames.file, [row.number for row in rows]) & cached
        count = int(mine.sum())
        # The one to keep: on disk still, and the most of it in memory.
        rows = sorted(rows, key=lambda row: (row.file.deleted, -row.frames, row.file.path))
        return Lost(rows, count, count - len(distinct(frames.index[mine])))

    def containers_of(self, file: int) -> list[str]:
        """Return the containers whose processes map the file, ascending; "" for none."""
        owners = np.unique(self.capture.vmas.process[self.capture.vma_file() == file]).tolist()
        return sorted({self.capture.processes[number].container for number in owners})

    def degrees(self, file: int) -> dict[int, int]:
        """Return how many frames of the file are mapped how often by the system."""
        frames = self.capture.frames
        values, counts = np.unique(
            frames.mapcount[(frames.file == file) & frames.resident], return_counts=True
        )
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _sum(
    group: npt.NDArray[np.int32], values: Counts | npt.NDArray[np.uint64], count: int
) -> list[int]:
    sums = np.zeros(count, dtype=values.dtype)
    np.add.at(sums, group, values)
    result: list[int] = sums.tolist()
    return result
