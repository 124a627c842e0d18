"""A snapshot on disk: one Parquet file per table, in a directory that changes as a whole.

Somebody may read the directory while it is written again (a report over a capture that a
timer repeats), and a writer may be killed at any instant, or the disk be full. So:

1. The writer fills a temporary sibling directory, `.NAME.XXXX.tmp`, and flushes each file
   and the directory itself to the disk.
2. It then puts the new directory in the place of the old one by one system call:
   `renameat2` with RENAME_EXCHANGE if there is an old one, else with RENAME_NOREPLACE. What it
   displaced is removed afterwards.
3. The writer holds a lock (`flock`) on its temporary directory. The next writer removes
   each temporary sibling whose lock it can take: its writer was killed.
4. A reader opens the directory once, opens all files relative to it, and only then reads:
   what it has open stays whole though the names are gone. If a file is not there and
   the directory's name leads to another one by now, it starts again.

A file system without RENAME_EXCHANGE (NFS, for one) gets two plain renames, by way of
`.NAME.old`; a writer killed between the two leaves the old snapshot under that name, where
readers look when there is nothing at NAME, and the next writer puts it back.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samepage.abi.fcntl import AT_FDCWD, RENAME_EXCHANGE, RENAME_NOREPLACE
from samepage.errors import SamepageError
from samepage.snapshot.check import check_types
from samepage.snapshot.schema import SCHEMA_VERSION, TABLES, TOLD
from samepage.snapshot.tables import Snapshot

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

_ADDED = {"processes": ("start_time",), "vmas": TOLD}
"""Columns that files of the same version may lack, since they were added later: all null then."""

ROW_GROUP = 1 << 18
"""Rows that are encoded at once: the writer's memory is some multiple of them."""


def write(
    snapshot: Snapshot,
    directory: str | os.PathLike[str],
    *,
    pages: Iterable[pa.RecordBatch] | None = None,
) -> None:
    """Write the snapshot to `directory`, replacing a snapshot that is there, as a whole.

    `pages` takes the place of the snapshot's own table, which may be empty then: batches of it
    that are made as they are written. They are not checked; who makes them answers for them.

    Raises `SamepageError` if it cannot be written (the old one is then untouched), or if
    `directory` holds something that is not a snapshot.
    """
    target = os.path.realpath(directory)
    try:
        _refuse_other_contents(target)
        _remove_leftovers(target)
        with _temporary_sibling(target) as temporary:
            for name, table in snapshot.tables().items():
                batches = pages if name == "pages" and pages is not None else table.to_batches()
                _write_table(table.schema, batches, os.path.join(temporary, f"{name}.parquet"))
            _fsync(temporary)
            _swap(temporary, target)
            _fsync(os.path.dirname(target))
    except OSError as error:
        raise SamepageError(
            f"cannot write snapshot {os.fspath(directory)}: {error.strerror or error}"
        ) from error


def read(directory: str | os.PathLike[str]) -> Snapshot:
    """Return the snapshot in `directory`, checked.

    Raises `SamepageError` if it is missing, is no snapshot, lacks a table, was written by a
    newer samepage, or is damaged; the message names the file.
    """
    shown = os.fspath(directory)
    with contextlib.ExitStack() as stack:
        files = _open_tables(os.path.realpath(directory), shown, stack)
        meta = _read_table(files["meta"], "meta", shown)
        _check_version(meta, shown)
        tables = {
            name: meta if name == "meta" else _read_table(file, name, shown)
            for name, file in files.items()
        }
    snapshot = Snapshot(**tables)
    try:
        snapshot.check()
    except SamepageError as error:
        raise SamepageError(f"{shown}: damaged {error.message}") from error
    return snapshot


def is_snapshot(directory: str | os.PathLike[str]) -> bool:
    """Tell whether `directory` looks like a snapshot: it has the `meta` table."""
    return os.path.isfile(os.path.join(directory, "meta.parquet"))


# Writing


def _refuse_other_contents(target: str) -> None:
    """A directory of somebody's own files must not be swapped away and removed."""
    try:
        entries = os.listdir(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise SamepageError(f"cannot write snapshot {target}: it is a file") from None
    foreign = sorted(set(entries) - {f"{name}.parquet" for name in TABLES})
    if foreign:
        raise SamepageError(
            f"cannot write snapshot {target}: it holds {foreign[0]!r}, which is not part of a "
            "snapshot: choose another directory"
        )


@contextlib.contextmanager
def _temporary_sibling(target: str) -> Iterator[str]:
    """Make and lock a new directory beside `target`; remove what is there at the end."""
    parent, name = os.path.split(target)
    while True:
        path = os.path.join(parent, f".{name}.{secrets.token_hex(8)}.tmp")
        pathlib.Path(path).mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another writer took the new, not yet locked directory for a leftover
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_same(lock, path):
            break
        os.close(lock)
    try:
        yield path
    finally:
        # Either the half-written new one, or the old one that was swapped out.
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _remove_leftovers(target: str) -> None:
    parent, name = os.path.split(target)
    with os.scandir(parent) as entries:
        stale = [
            entry.path
            for entry in entries
            if entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp")
        ]
    for path in stale:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(lock, path):
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(lock)


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
            for rows in _row_groups(batches):
                writer.write_table(pa.Table.from_batches(rows, schema), row_group_size=ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield the batches, small ones together: the pages of one process are seldom a row group."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if waiting and rows + batch.num_rows > ROW_GROUP:
            yield waiting
            waiting, rows = [], 0
        waiting.append(batch)
        rows += batch.num_rows
    yield waiting


def _swap(temporary: str, target: str) -> None:
    """Put `temporary` in the place of `target`; what was there is then at `temporary`."""
    while True:
        try:
            _renameat2(temporary, target, RENAME_EXCHANGE)
            break
        except FileNotFoundError:
            pass  # there is none yet
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _swap_by_two_renames(temporary, target)
            break
        try:
            _renameat2(temporary, target, RENAME_NOREPLACE)
            break
        except FileExistsError:
            continue  # another writer was first: exchange with it
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _swap_by_two_renames(temporary, target)
            break


def _swap_by_two_renames(temporary: str, target: str) -> None:
    parent, old = os.path.dirname(target), _old_name(target)
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one writer at a time, all of one directory
        if os.path.exists(target):
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        # else a killed writer left the old one at `old`: it stays until the new one is there
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _renameat2(source: str, target: str, flags: int) -> None:
    """Call renameat2(2), which Python does not have; raise `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "no renameat2 in the C library") from None
    names = os.fsencode(source), os.fsencode(target)
    if call(AT_FDCWD, names[0], AT_FDCWD, names[1], ctypes.c_uint(flags)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _old_name(target: str) -> str:
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}.old")


def _fsync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


# Reading


def _open_tables(target: str, shown: str, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Open every table's file of one and the same directory."""
    while True:
        try:
            with contextlib.ExitStack() as attempt:
                directory = _open_directory(target, shown, attempt)
                try:
                    names = dict.fromkeys(["meta", *TABLES])  # without meta it is no snapshot
                    files = {name: _open_table(directory, name, attempt) for name in names}
                except FileNotFoundError as error:
                    if not _is_same(directory, target) and os.path.exists(target):
                        continue  # swapped out and removed under our hands
                    if error.filename == "meta.parquet":
                        raise SamepageError(f"{shown}: not a snapshot (no meta.parquet)") from None
                    raise SamepageError(f"{shown}: {error.filename} is missing") from None
                stack.push(attempt.pop_all())
                return files
        except OSError as error:
            name = error.filename if str(error.filename).endswith(".parquet") else ""
            raise SamepageError(
                f"cannot read snapshot {os.path.join(shown, name) if name else shown}: "
                f"{error.strerror or error}"
            ) from error


def _open_directory(target: str, shown: str, stack: contextlib.ExitStack) -> int:
    for path in (target, _old_name(target)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise SamepageError(
                f"{shown}: not a snapshot (a snapshot is a directory of Parquet files)"
            ) from None
        stack.callback(os.close, descriptor)
        return descriptor
    raise SamepageError(f"{shown}: no such snapshot")


def _open_table(directory: int, name: str, stack: contextlib.ExitStack) -> Any:
    # O_NONBLOCK: a pipe that somebody put there must not make us wait for ever
    flags = os.O_RDONLY | os.O_NONBLOCK
    descriptor = os.open(f"{name}.parquet", flags, dir_fd=directory)
    return stack.enter_context(os.fdopen(descriptor, "rb"))


def _read_table(file: Any, name: str, shown: str) -> pa.Table:
    path = os.path.join(shown, f"{name}.parquet")
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True).read()
        for column in _ADDED.get(name, ()):
            if column not in table.column_names:
                kind = TABLES[name].field(column).type
                table = table.append_column(column, pa.nulls(table.num_rows, kind))
        columns = [column for column in TABLES[name].names if column in table.column_names]
        table = table.select(columns).replace_schema_metadata(None)
        table.validate(full=name not in ("pages", "frames"))
        check_types(name, table)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SamepageError(f"{path}: damaged: {reason}") from error
    except SamepageError as error:
        raise SamepageError(f"{path}: {error.message.removeprefix('snapshot: ')}") from error
    return table


def _check_version(meta: pa.Table, shown: str) -> None:
    values = dict(zip(meta["key"].to_pylist(), meta["value"].to_pylist(), strict=True))
    version = values.get("version", "")
    if not version.isdecimal():
        raise SamepageError(f"{shown}/meta.parquet: damaged: no version")
    if int(version) > SCHEMA_VERSION:
        raise SamepageError(
            f"{shown}: a snapshot of version {version}, written by a newer samepage; this one "
            f"reads up to version {SCHEMA_VERSION}: upgrade samepage"
        )
