"""How both kernels fill in a snapshot: rows for what is few, arrays for what is many.

There are few processes, VMAs and files; they are added one by one, with plain Python
values. There are millions of pages and frames; they are added as arrays (NumPy, or
`array.array`, or a list in a test), and no Python object per page is ever made. An array
that has the column's type already is used as it is, not copied: do not change it afterwards.

    builder = SnapshotBuilder("live", kernel=os.uname().release)
    libc = builder.add_file(dev, ino, "/lib/x86_64-linux-gnu/libc.so.6", size=1922136)
    builder.add_process(42, argv=["sleep", "9"])
    builder.add_vma(42, 0x7ffff7c00000, 0x7ffff7c26000, "r--p", 0, libc, "/lib/...")
    builder.add_pages(42, vpages, frames, flags)
    builder.add_frames(frames, kinds, files, indexes, mapcounts, flags)
    snapshot = builder.build()
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from samepage.snapshot.schema import SCHEMA_VERSION, TABLES, TOLD
from samepage.snapshot.tables import UNIMPLEMENTED_PREFIX, Snapshot

_KEYS = {"processes": 1, "vmas": 2, "events": 1}
"""How many of the first columns of a table are its key."""
_PAGE_TYPES = (np.uint64, np.uint64, np.uint16)
_FRAME_TYPES = (np.uint64, np.uint8, np.int32, np.int64, np.int32, np.uint32)


class SnapshotBuilder:
    """Collects rows in any order; `build` sorts them.

    Invariants: `_file_ids` has one entry for each row of `files`; all columns of one table
    have the same length.
    """

    def __init__(self, source: str, **meta: str) -> None:
        """`source` is "model" or "live"; `meta` is anything else worth keeping (kernel, time)."""
        self._rows: dict[str, list[list[Any]]] = {
            name: [[] for _ in schema] for name, schema in TABLES.items()
        }
        self._file_ids: dict[tuple[int, int], int] = {}
        self._pages: dict[int, list[list[npt.NDArray[Any]]]] = {}
        self._frames: list[list[npt.NDArray[Any]]] = []
        self._meta = {"version": str(SCHEMA_VERSION), "source": source, **meta}

    def add_meta(self, key: str, value: str) -> None:
        """Keep one fact about the whole snapshot; a second value replaces the first."""
        self._meta[key] = text(value)

    def add_unimplemented_syscall(self, name: str, count: int) -> None:
        """Keep how often a program asked for a system call that the model does not have."""
        self._meta[UNIMPLEMENTED_PREFIX + name] = str(count)

    def add_process(
        self,
        pid: int,
        *,
        ppid: int = 0,
        argv: Sequence[str] = (),
        comm: str = "",
        exe: str = "",
        uid: int = 0,
        cgroup: str = "",
        container: str = "",
        mnt_ns: int = 0,
        exit_code: int | None = None,
        minor_faults: int = 0,
        major_faults: int = 0,
        start_time: int | None = None,
    ) -> None:
        """Add a process; `exit_code` is None while it runs, `start_time` where it is not known."""
        words = [text(word) for word in argv]
        who = (pid, ppid, words, text(comm), text(exe), uid)
        where = (text(cgroup), text(container), mnt_ns)
        self._add("processes", (*who, *where, exit_code, minor_faults, major_faults, start_time))

    def add_file(
        self,
        dev: int,
        ino: int,
        path: str,
        *,
        deleted: bool = False,
        size: int | None = None,
        build_id: str | None = None,
    ) -> int:
        """Return the number of the file with this device and inode, added if it is new.

        The page cache belongs to the inode, so a second path of it (a hard link, another
        mount) is the same file: the path that came first stays.
        """
        known = self._file_ids.get((dev, ino))
        if known is not None:
            return known
        number = self._file_ids[dev, ino] = len(self._file_ids)
        self._add("files", (number, dev, ino, text(path), deleted, size, build_id))
        return number

    def file_id(self, dev: int, ino: int) -> int | None:
        """Return the number of a file that was added before, or None."""
        return self._file_ids.get((dev, ino))

    def add_vma(
        self,
        pid: int,
        start: int,
        end: int,
        perms: str,
        offset: int,
        file: int,
        name: str,
        told: Sequence[int] | None = None,
    ) -> None:
        """Add a VMA: addresses and offset in bytes, `file` from `add_file` or -1.

        `told` are the kernel's own sums (`TOLD`), where the pages do not tell them.
        """
        sums = (None,) * len(TOLD) if told is None else told
        self._add("vmas", (pid, start, end, perms, offset, file, text(name), *sums))

    def add_pages(self, pid: int, vpages: Any, frames: Any, flags: Any) -> None:
        """Add virtual pages of one process: arrays of the same length, see `PageFlags`.

        Very many should be added in parts, which stay as they are if they do not overlap.
        """
        arrays = _arrays((vpages, frames, flags), _PAGE_TYPES)
        if len(arrays[0]):
            self._pages.setdefault(pid, []).append(arrays)

    def add_frames(
        self, frames: Any, kinds: Any, files: Any, indexes: Any, mapcounts: Any, flags: Any
    ) -> None:
        """Add frames: arrays of the same length, see `FrameKind` and `FrameFlags`.

        A frame may be added more than once (by each process that has it): the first counts.
        """
        arrays = _arrays((frames, kinds, files, indexes, mapcounts, flags), _FRAME_TYPES)
        if len(arrays[0]):
            self._frames.append(arrays)

    def add_event(
        self,
        order: int,
        pid: int,
        kind: str,
        *,
        address: int = 0,
        pages: int = 0,
        frame: int = 0,
        file: int = -1,
        index: int = -1,
        cached: bool | None = None,
        ip: int = 0,
        symbol: str | None = None,
    ) -> None:
        """Add an event; what does not apply to its kind stays at the default."""
        row = (order, pid, kind, address, pages, frame, file, index, cached, ip, symbol)
        self._add("events", row)

    def build(self, *, check: bool = True) -> Snapshot:
        """Return the snapshot, sorted; with `check`, raise `SamepageError` if it is not sound.

        The builder must not be used afterwards: its arrays now belong to the snapshot.
        """
        rows = {
            name: _sorted_by(columns, _KEYS.get(name, 0)) for name, columns in self._rows.items()
        }
        rows["meta"] = [list(self._meta), list(self._meta.values())]
        tables = {
            name: pa.table(columns, schema=TABLES[name])
            for name, columns in rows.items()
            if name not in ("pages", "frames")
        }
        snapshot = Snapshot(**tables, pages=self._pages_table(), frames=self._frames_table())
        if check:
            snapshot.check()
        return snapshot

    def _add(self, table: str, row: tuple[Any, ...]) -> None:
        for values, value in zip(self._rows[table], row, strict=True):
            values.append(value)

    def _pages_table(self) -> pa.Table:
        schema = TABLES["pages"]
        batches = []
        for pid in sorted(self._pages):
            parts = _in_order(self._pages[pid])
            # All batches of a process share one column of its pid: four bytes less per page.
            pids = np.full(max(len(part[0]) for part in parts), pid, dtype=np.int32)
            for part in parts:
                columns = [pa.array(values) for values in (pids[: len(part[0])], *part)]
                batches.append(pa.record_batch(columns, schema=schema))
        return pa.Table.from_batches(batches, schema=schema)

    def _frames_table(self) -> pa.Table:
        if not self._frames:
            return TABLES["frames"].empty_table()
        arrays = _joined(self._frames)
        numbers = arrays[0]
        if (numbers[1:] <= numbers[:-1]).any():
            _, first = np.unique(numbers, return_index=True)
            arrays = [values[first] for values in arrays]
        return pa.table([pa.array(values) for values in arrays], schema=TABLES["frames"])


def text(value: str) -> str:
    r"""Return a string that Arrow can hold: bytes that are not UTF-8 become `\xNN`.

    File names and arguments are bytes on Linux; Python hands those that are not UTF-8 out
    as lone surrogates (PEP 383), which no Arrow string may contain.
    """
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _arrays(columns: Sequence[Any], types: Sequence[Any]) -> list[npt.NDArray[Any]]:
    arrays = [
        np.ascontiguousarray(values, dtype=dtype)
        for values, dtype in zip(columns, types, strict=True)
    ]
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"columns of different lengths: {[len(array) for array in arrays]}")
    return arrays


def _joined(parts: list[list[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    if len(parts) == 1:
        return parts[0]
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


def _sorted_by(columns: list[list[Any]], keys: int) -> list[list[Any]]:
    """Return the columns of a small table in the order of the first `keys` of them.

    Arrow could do it too, but the part of it that sorts takes 20 MB.
    """
    order = list(zip(*columns[:keys], strict=True))
    if all(low <= high for low, high in itertools.pairwise(order)):
        return columns
    rows = sorted(range(len(order)), key=order.__getitem__)
    return [[column[row] for row in rows] for column in columns]


def _in_order(parts: list[list[npt.NDArray[Any]]]) -> list[list[npt.NDArray[Any]]]:
    """Return the parts so that the first column ascends from one to the next.

    They stay apart, and are not copied, if each ascends and none lies within another.
    """
    parts.sort(key=lambda part: int(part[0][0]))
    ends = [int(part[0][-1]) for part in parts[:-1]]
    apart = all(end < part[0][0] for end, part in zip(ends, parts[1:], strict=True))
    if apart and all((part[0][1:] > part[0][:-1]).all() for part in parts):
        return parts
    arrays = _joined(parts)
    order = np.argsort(arrays[0], kind="stable")
    return [[values[order] for values in arrays]]
