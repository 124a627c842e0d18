"""A snapshot that breaks an invariant is refused, and the table and row are named."""

import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samepage.errors import SamepageError
from samepage.snapshot import parquet
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Event, Process, Snapshot

Change = Callable[[Any], Any]


def small() -> Snapshot:
    """Two processes that share page 7 of one library."""
    builder = SnapshotBuilder("model", kernel="test")
    lib = builder.add_file(1, 11, "/lib/libx.so", size=4096 * 9, build_id="ab")
    for pid in (20, 10):
        builder.add_process(
            Process(
                pid,
                argv=(
                    "prog",
                    str(pid),
                ),
                comm="prog",
                exe="/bin/prog",
            )
        )
        builder.add_vma(pid, 0x8000, 0x9000, "rw-p", 0, -1, "[heap]")
        builder.add_vma(pid, 0x1000, 0x3000, "r-xp", 0x7000, lib, "/lib/libx.so")
        builder.add_pages(pid, [8, 1], [100 + pid, 50], [1, 5])
    builder.add_frames([120, 110, 50], [2, 2, 1], [-1, -1, lib], [0, 0, 7], [1, 1, 2], [0, 0, 0])
    builder.add_event(Event(1, 10, "mmap", address=0x1000, pages=2, file=lib, page=7))
    return builder.build()


def complaint(directory: pathlib.Path, table: str, change: Change) -> str:
    """Return the error for `small()` when one of its tables in files was changed."""
    parquet.write(small(), directory)
    path = directory / f"{table}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(SamepageError) as caught:
        parquet.read(directory)
    return caught.value.message


def test_builder_sorts_every_table() -> None:
    snapshot = small()
    assert [process.pid for process in snapshot.processes] == [10, 20]
    assert snapshot.vmas.start.tolist() == [0x1000, 0x8000] * 2
    pages = snapshot.pages
    assert pages.processes(0, len(pages)).tolist() == [0, 0, 1, 1]
    assert pages.vpages(0, len(pages)).tolist() == [1, 8, 1, 8]
    assert snapshot.frame_numbers(slice(0, 4)).tolist() == [50, 110, 50, 120]
    assert snapshot.frames.number.tolist() == [50, 110, 120]
    assert snapshot.frames.mapped.tolist() == [2, 1, 1]
    assert snapshot.bounds.tolist() == [0, 1, 2, 3, 4]


def test_builder_interns_files_by_device_and_inode() -> None:
    builder = SnapshotBuilder("live")
    first = builder.add_file(1, 2, "/a")
    assert builder.add_file(1, 2, "/hard/link") == first
    assert builder.add_file(3, 2, "/a") != first
    assert [file.path for file in builder.build().files] == ["/a", "/a"]


def test_builder_keeps_bytes_that_are_not_utf8_visible() -> None:
    builder = SnapshotBuilder("live")
    builder.add_file(1, 1, b"/tmp/\xff\xe4".decode("utf-8", "surrogateescape"))
    assert builder.build().files[0].path == r"/tmp/\xff\xe4"


def test_builder_refuses_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        SnapshotBuilder("live").add_pages(1, [1, 2], [1], [1])


def test_empty_snapshot_is_sound() -> None:
    Snapshot.empty().check()
    assert Snapshot.empty("live").source == "live"


def test_unimplemented_syscalls_are_kept() -> None:
    builder = SnapshotBuilder("model")
    builder.add_unimplemented_syscall("io_uring_setup", 3)
    assert builder.build().unimplemented_syscalls() == {"io_uring_setup": 3}


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "message"),
    [
        ("pages", 2, "pid", 15, "table pages, row 2: pid 15 is in no row of processes"),
        ("pages", 1, "vpage", 1, "table pages, row 1: rows are not in ascending order"),
        ("pages", 1, "vpage", 9, "table pages, row 1: 0x9000 of pid 10 is in no VMA"),
        ("pages", 3, "frame", 77, "table pages, row 3: frame 77 is not in frames"),
        ("vmas", 0, "file", 5, "table vmas, row 0: file 5 is in no row of files"),
        ("vmas", 0, "end", 0x9000, "table vmas, row 1: 0x8000 of pid 10 overlaps"),
        ("vmas", 3, "end", 0x8800, "table vmas, row 3: 0x8000-0x8800 is no range of whole"),
        ("vmas", 3, "pid", 21, "table vmas, row 3: pid 21 is in no row"),
        ("vmas", 2, "pss", 4096, "table vmas, row 2: {'shared_clean': None,"),
        ("frames", 0, "file", 1, "table frames, row 0: file 1 is in no row of files"),
        ("frames", 0, "frame", 0, "table frames, row 0: frame 0"),
        ("frames", 1, "frame", 50, "table frames, row 1: frame 50 does not come after 50"),
        ("files", 0, "file", 3, "table files, row 0: file is 3"),
        ("processes", 1, "pid", 10, "table processes, row 1: pid 10 does not come after 10"),
        ("processes", 1, "comm", None, "table processes, row 1: comm is null"),
        ("events", 0, "pid", 0, "table events, row 0: pid 0 is none"),
        ("events", 0, "file", 9, "table events, row 0: file 9"),
        ("meta", 0, "key", "x", "meta.parquet: damaged: no version"),
        ("meta", 1, "key", "x", "table meta has no row 'source'"),
        ("meta", 2, "key", "unimplemented_syscall:x", "table meta: unimplemented_syscall:x"),
        ("meta", 2, "key", "source", "table meta, row 2: key 'source' occurs twice"),
    ],
)
def test_a_broken_invariant_names_table_and_row(
    tmp_path: pathlib.Path, table: str, row: int, column: str, value: Any, message: str
) -> None:
    def change(before: pa.Table) -> pa.Table:
        rows = before.to_pylist()
        rows[row][column] = value
        return pa.Table.from_pylist(rows, schema=before.schema)

    assert message in complaint(tmp_path / "s", table, change)


def test_a_missing_column_and_a_wrong_type_are_named(tmp_path: pathlib.Path) -> None:
    def without(before: pa.Table) -> pa.Table:
        return before.drop_columns(["ino"])

    def other(before: pa.Table) -> pa.Table:
        return before.set_column(2, "ino", pa.array([11], pa.int8()))

    assert "table files has no column ino" in complaint(tmp_path / "s", "files", without)
    assert "column ino is int8, not uint64" in complaint(tmp_path / "s", "files", other)
