"""One side of a comparison: a snapshot, looked at by process, ready to be compared.

A comparison pairs processes of two snapshots that were made by different kernels: pids,
frame numbers and file numbers differ by nature. `Side` turns them into what can be set
side by side: processes by their position in the list of pairs, files by their identity,
pages as arrays over all processes in that order.

Two files are the same if device and inode are; where one of the kernels does not know the
other's devices (an in-memory overlay, for example) the path decides. Several System V segments have
one path, and what a removed file was called is often random: these are the same if they are
mapped at the same place.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.snapshot.columns import Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

U64 = npt.NDArray[np.uint64]

EXCLUDED_VMAS = {
    "[vvar]": "its pages hold the kernel's clock; which of them are touched depends on time",
    "[vvar_vclock]": "as [vvar]: the pages of a hypervisor's clock",
    "[vsyscall]": "not part of the address space, the same fixed page in every process",
}
"""Mappings that are not compared, with the reason, which every report names."""


class VmaRow(NamedTuple):
    """A VMA as `/proc/PID/maps` prints it; `file` is its file's number in its snapshot."""

    start: int
    end: int
    perms: str
    offset: int
    file: int
    name: str


@dataclass(slots=True)
class ProcessPages:
    """The present pages of one process, ascending; all arrays have the same length.

    `vma` is the position of each page's VMA in `Side.vmas[process]`; `kind`, `file` and
    `index` are those of its frame (`FrameKind.UNKNOWN`, -1, -1 where the frame is unknown).
    """

    vpage: U64
    frame: U64
    flags: npt.NDArray[np.uint16]
    kind: npt.NDArray[np.uint8]
    file: npt.NDArray[np.int32]
    index: npt.NDArray[np.int64]
    vma: npt.NDArray[np.int32]

    def take(self, rows: npt.NDArray[Any]) -> "ProcessPages":
        """The pages at these positions, or where a mask is true."""
        columns = (self.vpage, self.frame, self.flags, self.kind, self.file, self.index, self.vma)
        return ProcessPages(*(values[rows] for values in columns))

    def find(self, vpage: int) -> int:
        """The position of a page, or -1 if it is not present."""
        at = int(np.searchsorted(self.vpage, np.uint64(vpage)))
        return at if at < len(self.vpage) and int(self.vpage[at]) == vpage else -1


class Side:
    """A snapshot seen as the list `pids` of its processes; excluded VMAs are left out."""

    def __init__(self, snapshot: Snapshot, pids: list[int]) -> None:
        self.snapshot = snapshot
        self.pids = pids
        self.paths = [file.path for file in snapshot.files]
        self.deleted = [file.deleted for file in snapshot.files]
        self.identities = [(file.dev, file.ino) for file in snapshot.files]
        numbers = {process.pid: number for number, process in enumerate(snapshot.processes)}
        self._numbers = [numbers[pid] for pid in pids]
        self.vmas: list[list[VmaRow]] = []
        self.pages: list[ProcessPages] = []
        self.excluded: list[set[str]] = []
        for number in self._numbers:
            vmas = _vmas_of(snapshot, number)
            kept = np.array([vma.name not in EXCLUDED_VMAS for vma in vmas], dtype=bool)
            here = _pages_of(snapshot, number)
            if len(here.vpage):
                here = here.take(kept[here.vma])
                here.vma = (np.cumsum(kept) - 1).astype(np.int32)[here.vma]
            self.vmas.append([vma for vma, keep in zip(vmas, kept, strict=True) if keep])
            self.excluded.append({vma.name for vma in vmas} & EXCLUDED_VMAS.keys())
            self.pages.append(here)

    def process(self, position: int) -> Process:
        """The process at this position."""
        return self.snapshot.processes[self._numbers[position]]


def same_files(ours: Side, theirs: Side) -> npt.NDArray[np.int32]:
    """For each file of `ours`, the number of the same file in `theirs`, or -1.

    One more entry, the last, is -1: so that "no file" (-1) maps to itself.
    """
    by_identity = {identity: n for n, identity in enumerate(theirs.identities)}
    by_path: dict[str, list[int]] = {}
    for number, path in enumerate(theirs.paths):
        by_path.setdefault(path, []).append(number)
    beside = _files_beside(ours, theirs)
    numbers: list[int] = []
    for number, (identity, path) in enumerate(zip(ours.identities, ours.paths, strict=True)):
        found = by_identity.get(identity, -1)
        if found < 0:
            candidates = by_path.get(path, [])
            there = beside.get(number, -1)
            nameless = ours.deleted[number] and there >= 0 and theirs.deleted[there]
            if len(candidates) == 1:
                found = candidates[0]
            elif there in candidates or (nameless and theirs.paths[there] not in ours.paths):
                found = there if there not in numbers else -1
        numbers.append(found)
    return np.array([*numbers, -1], dtype=np.int32)


def _files_beside(ours: Side, theirs: Side) -> dict[int, int]:
    """For each file of `ours`, the one that `theirs` has where it is first mapped."""
    places = {
        (position, vma.start): vma.file
        for position, vmas in enumerate(theirs.vmas)
        for vma in vmas
        if vma.file >= 0
    }
    found: dict[int, int] = {}
    for position, vmas in enumerate(ours.vmas):
        for vma in vmas:
            if vma.file >= 0 and (position, vma.start) in places:
                found.setdefault(vma.file, places[position, vma.start])
    return found


def _vmas_of(snapshot: Snapshot, process: int) -> list[VmaRow]:
    vmas = snapshot.vmas
    mine = vmas.of(process)
    columns = (vmas.start[mine].tolist(), vmas.end[mine].tolist(), vmas.mapping[mine].tolist())
    return [
        VmaRow(start, end, *vmas.mappings[mapping])
        for start, end, mapping in zip(*columns, strict=True)
    ]


def _pages_of(snapshot: Snapshot, process: int) -> ProcessPages:
    """The present pages; kind, file and index of a frame that is not known are those of none."""
    mine, vmas, frames = snapshot.pages_of(process), snapshot.vmas.of(process), snapshot.frames
    rows, bounds = snapshot.pages.frame[mine], snapshot.bounds[vmas.start : vmas.stop + 1]
    pages = ProcessPages(
        snapshot.pages.vpages(mine.start, mine.stop),
        snapshot.frame_numbers(mine),
        snapshot.pages.flags[mine],
        np.append(frames.kind, np.uint8(FrameKind.UNKNOWN))[rows],
        np.append(frames.file, np.int32(-1))[rows],
        np.append(frames.index, np.int64(-1))[rows],
        np.repeat(np.arange(vmas.stop - vmas.start, dtype=np.int32), bounds[1:] - bounds[:-1]),
    )
    return pages.take((pages.flags & np.uint16(PageFlags.PRESENT)) != 0)
