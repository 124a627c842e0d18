"""A snapshot on disk: one Parquet file per table, in a directory that changes as a whole.

This is the only module that imports Arrow, which takes as long to import as the whole system
takes to read. `docs/snapshot.md` describes the tables. Pages are written and read in bounded
pieces, since they take 22 bytes each in a table and six in memory.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samepage.errors import SamepageError
from samepage.snapshot.check import broken, check_frame_numbers, check_pids, refuse
from samepage.snapshot.columns import (
    SCHEMA_VERSION,
    SMAPS_SUMS,
    Cgroup,
    Event,
    File,
    Frames,
    Mapping,
    Process,
    SmapsSums,
    Snapshot,
    Vmas,
    place,
)
from samepage.snapshot.directory import reading, replacing
from samepage.snapshot.frame_index import FrameIndex
from samepage.snapshot.pages import Pages, PagesBuilder, runs_of
from samepage.snapshot.writes import WriteTable

PROCESSES = pa.schema(
    [
        ("pid", pa.int32()),
        ("ppid", pa.int32()),
        ("argv", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("comm", "exe")),
        ("uid", pa.int32()),
        *((name, pa.string()) for name in ("cgroup", "container")),
        ("mnt_ns", pa.int64()),
        ("exit_code", pa.int32()),  # null while it runs
        *((name, pa.int64()) for name in ("minor_faults", "major_faults")),
        ("start_time", pa.int64()),  # null if not known
        *((name, pa.string()) for name in ("container_name", "pod", "memory_cgroup")),
    ]
)

VMAS = pa.schema(
    [
        ("pid", pa.int32()),
        *((name, pa.uint64()) for name in ("start", "end")),
        ("perms", pa.string()),
        ("offset", pa.uint64()),
        ("file", pa.int32()),
        ("name", pa.string()),
        *((name, pa.int64()) for name in SMAPS_SUMS),  # `Snapshot.smaps`; else null
    ]
)

PAGES = pa.schema(
    [
        ("pid", pa.int32()),
        ("vpage", pa.uint64()),
        ("frame", pa.uint64()),  # its number; 0 if not known
        ("flags", pa.uint16()),
    ]
)

FRAMES = pa.schema(
    [
        ("frame", pa.uint64()),
        ("kind", pa.uint8()),
        ("file", pa.int32()),
        ("index", pa.int64()),
        ("mapcount", pa.int32()),
        ("flags", pa.uint32()),
        ("charged", pa.int32()),  # row of cgroups, -1 if not known
    ]
)

CGROUPS = pa.schema(
    [
        ("path", pa.string()),
        ("inode", pa.uint64()),
        ("version", pa.int32()),
    ]
)

COUNTERS = pa.schema(
    [
        ("cgroup", pa.string()),  # its path; "" is the machine
        ("key", pa.string()),
        ("value", pa.int64()),
    ]
)

FILES = pa.schema(
    [
        ("file", pa.int32()),  # the row's own number
        *((name, pa.uint64()) for name in ("dev", "ino")),
        ("path", pa.string()),
        ("deleted", pa.bool_()),
        ("size", pa.int64()),  # null if it could not be read
        ("build_id", pa.string()),  # null if there is none
        ("version", pa.int32()),
    ]
)

EVENTS = pa.schema(
    [
        ("order", pa.int64()),
        ("pid", pa.int32()),
        ("kind", pa.string()),
        ("address", pa.uint64()),
        ("pages", pa.int64()),
        ("frame", pa.uint64()),
        ("file", pa.int32()),
        ("index", pa.int64()),
        ("cached", pa.bool_()),
        ("ip", pa.uint64()),
        ("symbol", pa.string()),
    ]
)

WRITES = pa.schema(
    [
        ("pid", pa.int32()),
        ("vpage", pa.uint64()),
        ("kind", pa.uint8()),  # WriteKind
        ("epoch", pa.uint32()),
        ("address", pa.uint64()),
        ("instruction", pa.uint64()),
        *((name, pa.string()) for name in ("function", "function_file")),
        *((name, pa.string()) for name in ("script", "script_file")),  # null if not known
        ("area", pa.string()),
        ("file_page", pa.int64()),  # -1: none
        ("frame", pa.int64()),  # -1: none was allocated
    ]
)

META = pa.schema([("key", pa.string()), ("value", pa.string())])

TABLES: dict[str, pa.Schema] = {
    "processes": PROCESSES,
    "vmas": VMAS,
    "pages": PAGES,
    "frames": FRAMES,
    "files": FILES,
    "events": EVENTS,
    "cgroups": CGROUPS,
    "counters": COUNTERS,
    "meta": META,
}
"""The tables that every snapshot has."""
_WRITES_FILE = "writes.parquet"
"""A further one, of snapshots that `samepage why` took."""

_NULLABLE = {
    *(("processes", name) for name in ("exit_code", "start_time")),
    *(("vmas", name) for name in SMAPS_SUMS),
    *(("files", name) for name in ("size", "build_id")),
    *(("events", name) for name in ("cached", "symbol")),
}
_ADDED: dict[str, dict[str, object]] = {
    "processes": {"start_time": None, "container_name": "", "pod": "", "memory_cgroup": ""},
    "frames": {"charged": -1},
    "files": {"version": 0},
    "vmas": dict.fromkeys(SMAPS_SUMS),
}
"""Columns that files of the same version may lack, since they were added later, and what they
hold then."""

_LATER = ("cgroups", "counters")
"""Tables that snapshots of the same version may lack: no rows then."""

ROW_GROUP = 1 << 18
"""Rows that are encoded at once: the writer's memory is some multiple of them."""


def write(
    snapshot: Snapshot, directory: str | os.PathLike[str], writes: WriteTable | None = None
) -> None:
    """Write a snapshot to `directory`, replacing a snapshot that is there, as a whole.

    With `writes`, what led to it is kept too. Raises `SamepageError` if it is not sound or
    cannot be written (the old one is then untouched), or if `directory` holds something that
    is not a snapshot.
    """
    snapshot.check()
    with replacing(directory, [*_file_names(), _WRITES_FILE]) as temporary:
        for name, batches in _batches(snapshot).items():
            _write_table(TABLES[name], batches, os.path.join(temporary, f"{name}.parquet"))
        if writes is not None:
            _write_table(WRITES, [_writes_batch(writes)], os.path.join(temporary, _WRITES_FILE))


def read(directory: str | os.PathLike[str]) -> Snapshot:
    """Return the snapshot in `directory`, checked.

    Raises `SamepageError` if it is missing, is no snapshot, lacks a table, was written by a
    newer samepage, or is damaged; the message names the file.
    """
    shown = os.fspath(directory)
    with reading(directory, _file_names(), [f"{name}.parquet" for name in _LATER]) as files:
        meta = _meta(_read_rows(files["meta.parquet"], "meta", shown), shown)
        tables = {
            name: _read_rows(files.get(f"{name}.parquet"), name, shown)
            for name in TABLES
            if name not in ("meta", "pages")
        }
        try:
            snapshot = _snapshot(meta, tables, files["pages.parquet"], shown)
            snapshot.check()
        except SamepageError as error:
            if not error.message.startswith("snapshot: "):
                raise
            raise SamepageError(f"{shown}: damaged {error.message}") from error
    return snapshot


def is_snapshot(directory: str | os.PathLike[str]) -> bool:
    """Return whether `directory` looks like a snapshot: it has the `meta` table."""
    return os.path.isfile(os.path.join(directory, "meta.parquet"))


def _file_names() -> list[str]:
    # `meta` marks a snapshot, so it is looked for first.
    return [f"{name}.parquet" for name in dict.fromkeys(["meta", *TABLES])]


# Writing


def _batches(snapshot: Snapshot) -> dict[str, Iterable[pa.RecordBatch]]:
    """Return the rows of each table; each is made when it is written."""
    pids = np.array([process.pid for process in snapshot.processes], dtype=np.int32)
    frames = snapshot.frames
    columns = (frames.number, frames.kind, frames.file, frames.index, frames.mapcount, frames.flags)
    charged = snapshot.charged if len(snapshot.charged) else np.full(len(frames), -1, np.int32)
    counters = [("", snapshot.machine), *((g.path, g.counters) for g in snapshot.cgroups)]
    files = ((number, *file) for number, file in enumerate(snapshot.files))
    return {
        "processes": _of_rows("processes", snapshot.processes),
        "vmas": _vma_batches(snapshot, pids),
        "pages": _page_batches(snapshot, pids),
        "frames": [_batch("frames", [pa.array(values) for values in (*columns, charged)])],
        "cgroups": _of_rows("cgroups", (cgroup[:3] for cgroup in snapshot.cgroups)),
        "counters": _of_rows("counters", _flat(counters)),
        "files": _of_rows("files", files),
        "events": _of_rows("events", snapshot.events),
        "meta": _of_rows("meta", snapshot.meta.items()),
    }


def _flat(counters: Iterable[tuple[str, dict[str, int]]]) -> Iterator[tuple[str, str, int]]:
    for owner, rows in counters:
        for key, value in rows.items():
            yield owner, key, value


def _batch(table: str, columns: list[pa.Array]) -> pa.RecordBatch:
    return pa.record_batch(columns, schema=TABLES[table])


def _of_rows(table: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
    iterator = iter(rows)
    while part := list(islice(iterator, ROW_GROUP)):
        columns = zip(_columns_of(part), TABLES[table].types, strict=True)
        yield _batch(table, [pa.array(values, kind) for values, kind in columns])


def _columns_of(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows as columns."""
    return list(zip(*rows, strict=True))


def _vma_batches(snapshot: Snapshot, pids: Any) -> Iterator[pa.RecordBatch]:
    vmas = snapshot.vmas
    numbers = pa.array(vmas.mapping)
    of_mapping = _columns_of(vmas.mappings) if vmas.mappings else [()] * 4
    perms, offset, file, name = (
        pa.array(values, VMAS.field(column).type).take(numbers)
        for column, values in zip(Mapping._fields, of_mapping, strict=True)
    )
    sums = []
    for column in range(len(SMAPS_SUMS)):
        values = np.zeros(len(vmas), dtype=np.int64)
        missing = np.ones(len(vmas), dtype=bool)
        values[snapshot.smaps.vma] = snapshot.smaps.values[:, column]
        missing[snapshot.smaps.vma] = False
        sums.append(pa.array(values, mask=missing))
    addresses = (pa.array(pids[vmas.process]), pa.array(vmas.start), pa.array(vmas.end))
    yield _batch("vmas", [*addresses, perms, offset, file, name, *sums])


def _writes_batch(writes: WriteTable) -> pa.RecordBatch:
    functions = pa.array([function.name for function in writes.functions], pa.string())
    files = pa.array([function.file for function in writes.functions], pa.string())
    areas = pa.array([area.name for area in writes.areas], pa.string())
    script = pa.array(writes.script, mask=writes.script < 0)
    return pa.record_batch(
        [
            pa.array(writes.pid.astype(np.int32)),
            *map(pa.array, (writes.page, writes.kind, writes.epoch)),
            *map(pa.array, (writes.address, writes.instruction)),
            *(names.take(pa.array(writes.function)) for names in (functions, files)),
            *(names.take(script) for names in (functions, files)),
            areas.take(pa.array(writes.area)),
            *map(pa.array, (writes.file_page, writes.frame)),
        ],
        schema=WRITES,
    )


def _page_batches(snapshot: Snapshot, pids: Any) -> Iterator[pa.RecordBatch]:
    pages = snapshot.pages
    numbers = np.append(snapshot.frames.number, np.uint64(0))
    for first in range(0, len(pages), ROW_GROUP):
        last = min(first + ROW_GROUP, len(pages))
        columns = (
            pids[pages.processes(first, last)],
            pages.vpages(first, last),
            numbers[pages.frame[first:last]],
            pages.flags[first:last],
        )
        yield _batch("pages", [pa.array(values) for values in columns])


def _write_table(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: str) -> None:
    """Write one Parquet file, with a checksum on every page, down to the disk."""
    deltas = {name for name in ("vpage", "frame") if name in schema.names}
    with open(path, "wb") as file:
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name not in deltas],
            column_encoding=dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
            write_page_checksum=True,
        ) as writer:
            for batch in batches:
                writer.write_batch(batch, row_group_size=ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())


# Reading


def _read_rows(file: IO[bytes] | None, table: str, shown: str) -> pa.Table:
    """Return one table, its columns and types those of the schema; empty without a file."""
    if file is None:
        return TABLES[table].empty_table()
    batches = list(_read_batches(file, table, shown))
    return pa.Table.from_batches(batches, TABLES[table])


def _read_batches(file: IO[bytes], table: str, shown: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table, in pieces. Raises `SamepageError` that names the file."""
    path = os.path.join(shown, f"{table}.parquet")
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        there = _columns_there(table, parquet.schema_arrow)
        row = 0
        for batch in parquet.iter_batches(ROW_GROUP, columns=there):
            columns = [
                batch.column(name)
                if name in there
                else pa.repeat(pa.scalar(_ADDED[table][name], kind), batch.num_rows)
                for name, kind in zip(TABLES[table].names, TABLES[table].types, strict=True)
            ]
            completed = _batch(table, columns)
            completed.validate(full=table not in ("pages", "frames"))
            _check_nulls(completed, table, row)
            row += batch.num_rows
            yield completed
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SamepageError(f"{path}: damaged: {reason}") from error
    except SamepageError as error:
        raise SamepageError(f"{path}: {error.message.removeprefix('snapshot: ')}") from error


def _columns_there(table: str, schema: pa.Schema) -> list[str]:
    """Return the columns of a table that a file has; raise `SamepageError` for a wrong one.

    Columns that a later writer added are ignored.
    """
    there = []
    for field in TABLES[table]:
        if field.name not in schema.names:
            if field.name in _ADDED.get(table, ()):
                continue
            raise SamepageError(f"table {table} has no column {field.name}")
        actual = schema.field(field.name).type
        if actual != field.type:
            raise SamepageError(f"table {table}: column {field.name} is {actual}, not {field.type}")
        there.append(field.name)
    return there


def _check_nulls(batch: pa.RecordBatch, table: str, first: int) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count and (table, name) not in _NULLABLE:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            broken(table, first + row, f"{name} is null")


def _meta(table: pa.Table, shown: str) -> dict[str, str]:
    """Return the facts about the whole, if this version can read the rest."""
    keys, values = table["key"].to_pylist(), table["value"].to_pylist()
    meta = dict(zip(keys, values, strict=True))
    version = meta.get("version", "")
    if not version.isdecimal():
        raise SamepageError(f"{shown}/meta.parquet: damaged: no version")
    if int(version) > SCHEMA_VERSION:
        raise SamepageError(
            f"{shown}: a snapshot of version {version}, written by a newer samepage; this one "
            f"reads up to version {SCHEMA_VERSION}: upgrade samepage"
        )
    for row, key in enumerate(keys):
        if key in keys[:row]:
            raise SamepageError(
                f"{shown}: damaged snapshot: table meta, row {row}: key {key!r} occurs twice"
            )
    return meta


def _snapshot(
    meta: dict[str, str], tables: dict[str, pa.Table], pages_file: IO[bytes], shown: str
) -> Snapshot:
    """Return the tables as columns; what refers to no row of another table is an error."""
    processes = [Process(*row) for row in _rows(tables["processes"])]
    processes = [process._replace(argv=tuple(process.argv)) for process in processes]
    pids = _column(tables["processes"], "pid")
    check_pids(pids)
    vmas, smaps = _vmas(tables["vmas"], pids)
    numbers = _column(tables["frames"], "frame")
    check_frame_numbers(numbers)
    batches = _read_batches(pages_file, "pages", shown)
    pages, mapped = _pages(batches, pids, FrameIndex(numbers), len(numbers))
    kind, file, index, mapcount, flags = (
        _column(tables["frames"], name) for name in ("kind", "file", "index", "mapcount", "flags")
    )
    charged = _column(tables["frames"], "charged")
    if (charged == -1).all():
        charged = charged[:0]
    machine, cgroups = _cgroups(tables["cgroups"], tables["counters"])
    return Snapshot(
        meta,
        processes,
        vmas,
        pages,
        np.append(place(vmas, pages)[0], len(pages)),
        Frames(numbers, kind, file, index, mapcount, flags, mapped),
        _files(tables["files"]),
        [Event(*row) for row in _rows(tables["events"])],
        smaps,
        cgroups,
        charged,
        machine,
    )


def _cgroups(groups: pa.Table, counters: pa.Table) -> tuple[dict[str, int], list[Cgroup]]:
    """Return the counters of the machine, and the control groups with theirs."""
    found: dict[str, dict[str, int]] = {"": {}}
    for row, (path, *_) in enumerate(_rows(groups)):
        if path in found:
            broken("cgroups", row, f"path {path!r} occurs twice")
        found[path] = {}
    for row, (path, key, value) in enumerate(_rows(counters)):
        if path not in found:
            broken("counters", row, f"cgroup {path!r} is in no row of cgroups")
        found[path][key] = value
    return found[""], [
        Cgroup(path, inode, version, found[path]) for path, inode, version in _rows(groups)
    ]


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _column(table: pa.Table, name: str) -> Any:
    """Return a column without nulls as one NumPy array."""
    return table.column(name).combine_chunks().to_numpy(zero_copy_only=False).copy()


def _positions(pids: Any, values: Any) -> Any:
    """Return the positions of processes by pid, -1 where there is none."""
    if not len(pids):
        return np.full(len(values), -1, dtype=np.int32)
    places = np.minimum(np.searchsorted(pids, values), len(pids) - 1)
    return np.where(pids[places] == values, places, -1).astype(np.int32)


def _vmas(table: pa.Table, pids: Any) -> tuple[Vmas, SmapsSums]:
    owner = _column(table, "pid")
    process = _positions(pids, owner)
    refuse("vmas", process < 0, lambda row: f"pid {owner[row]} is in no row of processes")
    mappings: dict[tuple[Any, ...], int] = {}
    texts = (table[name].to_pylist() for name in Mapping._fields)
    mapping = [mappings.setdefault(text, len(mappings)) for text in zip(*texts, strict=True)]
    vmas = Vmas(
        process,
        _column(table, "start"),
        _column(table, "end"),
        np.array(mapping, dtype=np.int32),
        [Mapping(*text) for text in mappings],
    )
    known = np.stack([table[name].is_valid().to_numpy() for name in SMAPS_SUMS])
    some = known.any(axis=0)

    def not_all(row: int) -> str:
        sums = {name: table[name][row].as_py() for name in SMAPS_SUMS}
        return f"{sums} are no sums of a VMA"

    refuse("vmas", some != known.all(axis=0), not_all)
    values = [table[name].drop_null().to_numpy() for name in SMAPS_SUMS]
    return vmas, SmapsSums(np.flatnonzero(some), np.stack(values, axis=1))


def _pages(
    batches: Iterable[pa.RecordBatch], pids: Any, index: FrameIndex, unknown: int
) -> tuple[Pages, Any]:
    """Return the pages, and how many of them have each frame."""
    builder = PagesBuilder()
    mapped = np.zeros(unknown + 1, dtype=np.int32)
    for batch in batches:
        first = len(builder)
        pid, vpage, frame, flags = (column.to_numpy() for column in batch.columns)
        process = _positions(pids, pid)
        _refuse_page(process < 0, first, pid, "pid {} is in no row of processes")
        rows = index.rows(frame)
        _refuse_page((rows < 0) & (frame != 0), first, frame, "frame {} is not in frames")
        rows[rows < 0] = unknown
        np.add.at(mapped, rows, np.int32(1))
        begins = runs_of(process, vpage)
        builder.add(process[begins], vpage[begins], begins, rows, flags)
    return builder.build(), mapped[:-1]


def _refuse_page(wrong: Any, first: int, values: Any, why: str) -> None:
    """Raise the error for the first page of a batch that is wrong; row `first` begins it."""
    if wrong.any():
        row = int(np.argmax(wrong))
        broken("pages", first + row, why.format(values[row]))


def _files(table: pa.Table) -> list[File]:
    numbers = _column(table, "file")
    refuse(
        "files",
        numbers != np.arange(len(numbers)),
        lambda row: f"file is {numbers[row]}, not the row's own number",
    )
    return [File(*row) for _, *row in _rows(table)]
