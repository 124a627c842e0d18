"""Is a snapshot sound? Each invariant of `Snapshot`, proved for all rows.

A snapshot may come from a file that someone else wrote, or from a kernel that changed while
it was read. What follows a broken reference gives wrong numbers, not an error, so the check
runs when one is read or written, and each complaint names table, row and value as they are in
the file.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from samepage.errors import SamepageError
from samepage.snapshot.columns import (
    PAGE_SHIFT,
    SMAPS_SUMS,
    UNIMPLEMENTED_PREFIX,
    Marks,
    Snapshot,
    place,
)


def check(snapshot: Snapshot) -> None:
    """Raise `SamepageError`, naming table and row, if an invariant does not hold."""
    _check_meta(snapshot)
    _check_keys(snapshot)
    _check_references(snapshot)
    _check_vmas(snapshot)
    _check_pages(snapshot)


def broken(table: str, row: int, why: str) -> NoReturn:
    """Raise the error that names a row of a table and what is wrong with it."""
    raise SamepageError(f"snapshot: table {table}, row {row}: {why}")


def refuse(table: str, wrong: Marks, why: Callable[[int], str]) -> None:
    """Raise the error for the first row that is wrong; `why` makes the text from its number."""
    if wrong.any():
        row = int(np.argmax(wrong))
        broken(table, row, why(row))


def _check_meta(snapshot: Snapshot) -> None:
    for key in ("version", "source"):
        if key not in snapshot.meta:
            raise SamepageError(f"snapshot: table meta has no row {key!r}")
    for key, value in snapshot.meta.items():
        if key.startswith(UNIMPLEMENTED_PREFIX) and not (value.isascii() and value.isdecimal()):
            raise SamepageError(f"snapshot: table meta: {key} is {value!r}, not a number of calls")


def _check_keys(snapshot: Snapshot) -> None:
    check_pids(np.array([process.pid for process in snapshot.processes], dtype=np.int64))
    check_frame_numbers(snapshot.frames.number)
    orders = np.array([event.order for event in snapshot.events], dtype=np.int64)
    _check_ascending("events", orders, "order")
    seen: dict[tuple[int, int, int], int] = {}
    for row, file in enumerate(snapshot.files):
        key = (file.dev, file.ino, file.version)
        if seen.setdefault(key, row) != row:
            broken("files", row, f"device and inode {key[:2]} are also those of row {seen[key]}")


def check_pids(pids: npt.NDArray[Any]) -> None:
    """Raise `SamepageError` if the pids of the processes do not ascend."""
    _check_ascending("processes", pids, "pid")


def check_frame_numbers(numbers: npt.NDArray[Any]) -> None:
    """Raise `SamepageError` if the numbers of the frames do not ascend, or one is 0."""
    _check_ascending("frames", numbers, "frame")
    refuse("frames", numbers == 0, lambda row: "frame 0 is the one that is not known")


def _check_ascending(table: str, keys: npt.NDArray[Any], name: str) -> None:
    wrong = np.zeros(len(keys), dtype=bool)
    wrong[1:] = keys[1:] <= keys[:-1]
    refuse(table, wrong, lambda row: f"{name} {keys[row]} does not come after {keys[row - 1]}")


def _check_references(snapshot: Snapshot) -> None:
    count = len(snapshot.files)
    of_events = np.array([event.file for event in snapshot.events], dtype=np.int64)
    for table, files in (
        ("vmas", snapshot.vmas.file()),
        ("frames", snapshot.frames.file),
        ("events", of_events),
    ):
        wrong = (files < -1) | (files >= count)
        if wrong.any():
            row = int(np.argmax(wrong))
            broken(table, row, f"file {files[row]} is in no row of files")
    groups, charged = len(snapshot.cgroups), snapshot.charged
    if len(charged) not in (0, len(snapshot.frames)):
        raise SamepageError("snapshot: table frames: not all have a control group")
    refuse(
        "frames",
        (charged < -1) | (charged >= groups),
        lambda row: f"charged to control group {charged[row]}, which is in no row of cgroups",
    )
    paths = [cgroup.path for cgroup in snapshot.cgroups]
    for row, (path, after) in enumerate(pairwise(paths), 1):
        if after <= path:
            broken("cgroups", row, f"path {after!r} does not come after {path!r}")
    known = set(paths)
    for row, process in enumerate(snapshot.processes):
        if process.memory_cgroup and process.memory_cgroup not in known:
            broken("processes", row, f"{process.memory_cgroup!r} is in no row of cgroups")
    for row, event in enumerate(snapshot.events):
        if event.pid <= 0:  # which may be the one of a process that has ended
            broken("events", row, f"pid {event.pid} is none")


def _check_vmas(snapshot: Snapshot) -> None:
    vmas = snapshot.vmas
    number, start, end = vmas.process, vmas.start, vmas.end
    refuse(
        "vmas",
        (number < 0) | (number >= len(snapshot.processes)),
        lambda row: "its process is in no row of processes",
    )
    page = np.uint64((1 << PAGE_SHIFT) - 1)
    refuse(
        "vmas",
        (start >= end) | ((start | end) & page != 0),
        lambda row: f"{start[row]:#x}-{end[row]:#x} is no range of whole pages",
    )
    wrong = np.zeros(len(vmas), dtype=bool)
    wrong[1:] = number[1:] < number[:-1]
    wrong[1:] |= (number[1:] == number[:-1]) & (start[1:] < end[:-1])

    def overlap(row: int) -> str:
        pid = snapshot.processes[number[row]].pid
        return f"{start[row]:#x} of pid {pid} overlaps or is out of order"

    refuse("vmas", wrong, overlap)
    for vma, values in zip(
        snapshot.smaps.vma.tolist(), snapshot.smaps.values.tolist(), strict=True
    ):
        if min(values) < 0:
            sums = dict(zip(SMAPS_SUMS, values, strict=True))
            broken("vmas", vma, f"{sums} are no sums of a VMA")


def _check_pages(snapshot: Snapshot) -> None:
    pages, vmas = snapshot.pages, snapshot.vmas
    process, vpage, first = pages.run_process, pages.run_vpage, pages.run_first
    refuse(
        "pages",
        (pages.frame < 0) | (pages.frame > len(snapshot.frames)),
        lambda row: "its frame is not in frames",
    )
    end = vpage + pages.lengths().astype(np.uint64)
    wrong = np.zeros(len(first), dtype=bool)
    wrong[1:] = process[1:] < process[:-1]
    wrong[1:] |= (process[1:] == process[:-1]) & (vpage[1:] < end[:-1])
    if wrong.any():
        row = int(first[np.argmax(wrong)])
        broken("pages", row, "rows are not in ascending order of pid and vpage")
    low, high = place(vmas, pages)
    if int((high - low).sum()) != len(pages):
        row = _outside(low, high, len(pages))
        run = int(np.searchsorted(first, row, side="right")) - 1
        address = int(vpage[run]) + row - int(first[run]) << PAGE_SHIFT
        pid = snapshot.processes[process[run]].pid
        broken("pages", row, f"{address:#x} of pid {pid} is in no VMA")
    if (np.append(low, len(pages)) != snapshot.bounds).any():
        raise SamepageError("snapshot: the pages of the VMAs are not at the rows of `page_start`")


def _outside(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], pages: int) -> int:
    """Return the first page that is in none of the ranges, which ascend and do not overlap."""
    position = 0
    for first, last in zip(low.tolist(), high.tolist(), strict=True):
        if first > position:
            break
        position = max(position, last)
    return min(position, pages - 1)
