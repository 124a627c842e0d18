"""Is a snapshot sound? Each invariant of `Snapshot`, proved for all rows.

A snapshot may come from a file that someone else wrote, or from a kernel that changed while
it was read. What follows a broken reference gives wrong numbers, not an error, so the
check runs whenever one is read, and each complaint names table, row and value.
"""

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from samepage.errors import SamepageError
from samepage.snapshot.frame_index import FrameIndex
from samepage.snapshot.schema import TABLES, TOLD
from samepage.snapshot.tables import PAGE_SHIFT, UNIMPLEMENTED_PREFIX, PageBatch, Snapshot, column
from samepage.snapshot.vma_index import VmaIndex

_PAGES_AT_ONCE = 1 << 18

NULLABLE = {
    ("processes", "exit_code"),
    ("processes", "start_time"),
    *(("vmas", name) for name in TOLD),
    ("files", "size"),
    ("files", "build_id"),
    ("events", "cached"),
    ("events", "symbol"),
}
"""The columns in which null means "there is none" or "it could not be told"."""


def check(snapshot: Snapshot) -> None:
    """Raise `SamepageError`, naming table and row, if an invariant does not hold."""
    for name, table in snapshot.tables().items():
        check_types(name, table)
    _check_meta(snapshot)
    _check_keys(snapshot)
    _check_references(snapshot)
    _check_vmas(snapshot)
    _check_pages(snapshot)


def check_types(name: str, table: pa.Table) -> None:
    """Raise `SamepageError` if the table has not the columns and types of its schema."""
    expected = TABLES[name]
    for field in expected:
        position = table.schema.get_field_index(field.name)
        if position < 0:
            raise SamepageError(f"snapshot: table {name} has no column {field.name}")
        actual = table.schema.field(position).type
        if actual != field.type:
            raise SamepageError(
                f"snapshot: table {name}: column {field.name} is {actual}, not {field.type}"
            )
        values = table.column(position)
        if values.null_count and (name, field.name) not in NULLABLE:
            row = _first(values.is_null().to_numpy())
            _broken(name, row, f"{field.name} is null")
    if table.num_columns != len(expected):
        extra = sorted(set(table.column_names) - set(expected.names)) or "a column twice"
        raise SamepageError(f"snapshot: table {name} has a column too many: {extra}")


def _check_meta(snapshot: Snapshot) -> None:
    keys = snapshot.meta["key"].to_pylist()
    for needed in ("version", "source"):
        if needed not in keys:
            raise SamepageError(f"snapshot: table meta has no row {needed!r}")
    if len(set(keys)) != len(keys):
        row = next(row for row, key in enumerate(keys) if key in keys[:row])
        _broken("meta", row, f"key {keys[row]!r} occurs twice")
    for row, (key, value) in enumerate(zip(keys, snapshot.meta["value"].to_pylist(), strict=True)):
        if key.startswith(UNIMPLEMENTED_PREFIX) and not (value.isascii() and value.isdecimal()):
            _broken("meta", row, f"{key} is {value!r}, not a number of calls")


def _check_keys(snapshot: Snapshot) -> None:
    _check_ascending("processes", column(snapshot.processes, "pid"), "pid")
    _check_ascending("frames", column(snapshot.frames, "frame"), "frame")
    _check_ascending("events", column(snapshot.events, "order"), "order")
    if snapshot.frames.num_rows and column(snapshot.frames, "frame")[0] == 0:
        _broken("frames", 0, "frame 0 stands for a frame that is not known")
    numbers = column(snapshot.files, "file")
    wrong = numbers != np.arange(len(numbers))
    if wrong.any():
        row = _first(wrong)
        _broken("files", row, f"file is {numbers[row]}, not the row's own number")
    seen: dict[tuple[int, int], int] = {}
    inodes = zip(snapshot.files["dev"].to_pylist(), snapshot.files["ino"].to_pylist(), strict=True)
    for row, inode in enumerate(inodes):
        if seen.setdefault(inode, row) != row:
            _broken("files", row, f"device and inode {inode} are also those of row {seen[inode]}")


def _check_references(snapshot: Snapshot) -> None:
    files = snapshot.files.num_rows
    for name in ("vmas", "frames", "events"):
        numbers = column(getattr(snapshot, name), "file")
        wrong = (numbers < -1) | (numbers >= files)
        if wrong.any():
            row = _first(wrong)
            _broken(name, row, f"file {numbers[row]} is in no row of files")
    pids = column(snapshot.processes, "pid")
    for name in ("vmas", "events"):
        _check_pids(name, column(getattr(snapshot, name), "pid"), pids, 0)


def _check_vmas(snapshot: Snapshot) -> None:
    pid, start, end = (column(snapshot.vmas, name) for name in ("pid", "start", "end"))
    page = np.uint64((1 << PAGE_SHIFT) - 1)
    wrong = (start >= end) | ((start | end) & page != 0)
    if wrong.any():
        row = _first(wrong)
        _broken("vmas", row, f"{start[row]:#x}-{end[row]:#x} is no range of whole pages")
    wrong = (pid[1:] < pid[:-1]) | ((pid[1:] == pid[:-1]) & (start[1:] < end[:-1]))
    if wrong.any():
        row = _first(wrong) + 1
        _broken("vmas", row, f"{start[row]:#x} of pid {pid[row]} overlaps or is out of order")
    _check_told(snapshot.vmas)


def _check_told(vmas: pa.Table) -> None:
    """Check the kernel's own sums: all of a VMA or none, and none below 0."""
    if all(vmas[name].null_count == vmas.num_rows for name in TOLD):
        return
    rows = zip(*(vmas[name].to_pylist() for name in TOLD), strict=True)
    for row, values in enumerate(rows):
        told = [value for value in values if value is not None]
        if told and (len(told) != len(TOLD) or min(told) < 0):
            _broken("vmas", row, f"{dict(zip(TOLD, values, strict=True))} are no sums of a VMA")


def _check_pages(snapshot: Snapshot) -> None:
    pids = column(snapshot.processes, "pid")
    index = FrameIndex(column(snapshot.frames, "frame"))
    vmas = VmaIndex(snapshot)
    last_pid, last_page = -(1 << 31), 0
    for batch in snapshot.page_batches(_PAGES_AT_ONCE):
        _check_pids("pages", batch.pid, pids, batch.first)
        if (batch.pid[0], batch.vpage[0]) <= (last_pid, last_page):
            _broken("pages", batch.first, "rows are not in ascending order of pid and vpage")
        same = batch.pid[1:] == batch.pid[:-1]
        wrong = (batch.pid[1:] < batch.pid[:-1]) | (same & (batch.vpage[1:] <= batch.vpage[:-1]))
        if wrong.any():
            row = batch.first + _first(wrong) + 1
            _broken("pages", row, "rows are not in ascending order of pid and vpage")
        last_pid, last_page = batch.pid[-1], batch.vpage[-1]
        wrong = (index.rows(batch.frame) < 0) & (batch.frame != 0)
        if wrong.any():
            row = _first(wrong)
            _broken("pages", batch.first + row, f"frame {batch.frame[row]} is not in frames")
        _check_inside_vmas(vmas, batch)


def _check_inside_vmas(vmas: VmaIndex, batch: PageBatch) -> None:
    outside = vmas.rows(batch) < 0
    if outside.any():
        row = _first(outside)
        address = int(batch.vpage[row]) << PAGE_SHIFT
        _broken("pages", batch.first + row, f"{address:#x} of pid {batch.pid[row]} is in no VMA")


def _check_pids(
    table: str, values: npt.NDArray[np.int32], pids: npt.NDArray[np.int32], first: int
) -> None:
    # Runs of one pid are long: look up each run, not each row.
    if not len(values):
        return
    heads = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    for row in heads[~np.isin(values[heads], pids)]:
        _broken(table, first + int(row), f"pid {values[row]} is in no row of processes")


def _check_ascending(table: str, keys: npt.NDArray[Any], name: str) -> None:
    wrong = keys[1:] <= keys[:-1]
    if wrong.any():
        row = _first(wrong) + 1
        _broken(table, row, f"{name} {keys[row]} does not come after {keys[row - 1]}")


def _first(wrong: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(wrong))


def _broken(table: str, row: int, why: str) -> NoReturn:
    raise SamepageError(f"snapshot: table {table}, row {row}: {why}")
