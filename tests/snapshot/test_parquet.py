"""A directory holds a whole snapshot at every instant, whatever happens to its writers."""

import contextlib
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.errors import SamepageError
from samepage.snapshot import directory, parquet
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import SMAPS_SUMS, Event, Process, Snapshot


def numbered(number: int, pages: int = 2000) -> Snapshot:
    """Return a snapshot in which every table carries the same number."""
    builder = SnapshotBuilder("model", number=str(number))
    file = builder.add_file(1, number, f"/lib/lib{number}.so")
    builder.add_process(Process(number, comm=str(number)))
    builder.add_vma(number, 4096, 4096 * (pages + 1), "r--p", 0, file, f"/lib/lib{number}.so")
    rows = list(range(1, pages + 1))
    ones = [1] * pages
    builder.add_pages(number, rows, rows, ones)
    builder.add_frames(rows, ones, [file] * pages, rows, [number] * pages, ones)
    builder.add_event(Event(number, number, "mmap", file=file))
    return builder.build()


def number_of(snapshot: Snapshot) -> int:
    """Return the number; fail if the tables are of different snapshots."""
    seen = {
        int(snapshot.meta["number"]),
        *(process.pid for process in snapshot.processes),
        *(snapshot.processes[number].pid for number in snapshot.vmas.process.tolist()),
        *(snapshot.processes[number].pid for number in snapshot.pages.run_process.tolist()),
        *snapshot.frames.mapcount.tolist(),
        *(file.ino for file in snapshot.files),
        *(event.order for event in snapshot.events),
    }
    assert len(seen) == 1, f"a mixture of {seen}"
    return int(seen.pop())


def equal(one: Snapshot, two: Snapshot) -> bool:
    """Compare all columns; runs of pages may be cut in other places."""

    def columns(snapshot: Snapshot) -> list[Any]:
        vmas, pages, frames = snapshot.vmas, snapshot.pages, snapshot.frames
        arrays = [
            *(vmas.process, vmas.start, vmas.end, vmas.file(), snapshot.bounds),
            *(pages.processes(0, len(pages)), pages.vpages(0, len(pages)), pages.frame),
            *(pages.flags, frames.number, frames.kind, frames.file, frames.index),
            *(frames.mapcount, frames.flags, frames.mapped, *snapshot.smaps),
        ]
        mappings = [vmas.mappings[mapping] for mapping in vmas.mapping.tolist()]
        return [
            *(snapshot.meta, snapshot.processes, snapshot.files, snapshot.events, mappings),
            *((array.dtype, array.tolist()) for array in arrays),
        ]

    return columns(one) == columns(two)


def test_what_is_written_is_read_back(tmp_path: pathlib.Path) -> None:
    for snapshot in (Snapshot.empty(), numbered(5)):
        parquet.write(snapshot, tmp_path / "snap")
        assert equal(parquet.read(tmp_path / "snap"), snapshot)
        assert os.listdir(tmp_path) == ["snap"]


def test_a_link_to_the_directory_stays_a_link(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1), tmp_path / "snap")
    (tmp_path / "link").symlink_to("snap")
    parquet.write(numbered(2), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert number_of(parquet.read(tmp_path / "snap")) == 2


def test_directories_of_other_files_are_not_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SamepageError, match=r"holds 'thesis.txt'"):
        parquet.write(numbered(1), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_the_place_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "snap").write_text("")
    with pytest.raises(SamepageError, match="it is a file"):
        parquet.write(numbered(1), tmp_path / "snap")
    with pytest.raises(SamepageError, match="not a snapshot"):
        parquet.read(tmp_path / "snap")


def test_a_missing_directory_and_one_that_is_no_snapshot_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SamepageError, match="none: no such snapshot"):
        parquet.read(tmp_path / "none")
    with pytest.raises(SamepageError, match="not a snapshot"):
        parquet.read(tmp_path)
    with pytest.raises(SamepageError, match=r"cannot write snapshot .*No such file"):
        parquet.write(numbered(1), tmp_path / "no" / "such")


def test_a_missing_table_is_named(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1), tmp_path / "snap")
    (tmp_path / "snap" / "vmas.parquet").unlink()
    with pytest.raises(SamepageError, match=r"vmas\.parquet is missing"):
        parquet.read(tmp_path / "snap")


def test_a_table_that_cannot_be_opened_is_named(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1), tmp_path / "s")
    (tmp_path / "s" / "pages.parquet").unlink()
    (tmp_path / "s" / "pages.parquet").symlink_to("pages.parquet")
    with pytest.raises(SamepageError, match=r"s/pages\.parquet: Too many levels of symbolic links"):
        parquet.read(tmp_path / "s")


def test_a_pipe_in_the_place_of_a_table_is_refused(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1), tmp_path / "snap")
    for name in ("meta", "pages"):
        (tmp_path / "snap" / f"{name}.parquet").unlink()
        os.mkfifo(tmp_path / "snap" / f"{name}.parquet")
        with pytest.raises(SamepageError, match=r"parquet: damaged"):
            parquet.read(tmp_path / "snap")


def test_a_newer_version_is_refused(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1), tmp_path / "snap")
    rows = [{"key": "version", "value": "7"}, {"key": "source", "value": "model"}]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=parquet.META), tmp_path / "snap" / "meta.parquet"
    )
    # what else a newer version may have done to its tables does not matter
    pages = pq.read_table(tmp_path / "snap" / "pages.parquet")
    pq.write_table(pages.drop_columns(["flags"]), tmp_path / "snap" / "pages.parquet")
    with pytest.raises(SamepageError, match="version 7, written by a newer samepage"):
        parquet.read(tmp_path / "snap")


def test_a_column_that_a_later_writer_added_is_ignored(tmp_path: pathlib.Path) -> None:
    snapshot = numbered(1)
    parquet.write(snapshot, tmp_path / "snap")
    more = pq.read_table(tmp_path / "snap" / "files.parquet").append_column("colour", [["red"]])
    pq.write_table(more, tmp_path / "snap" / "files.parquet")
    assert equal(parquet.read(tmp_path / "snap"), snapshot)


def test_tables_of_two_snapshots_are_found_damaged(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1), tmp_path / "one")
    parquet.write(numbered(2), tmp_path / "two")
    shutil.copy(tmp_path / "one" / "pages.parquet", tmp_path / "two" / "pages.parquet")
    with pytest.raises(SamepageError, match="two: damaged snapshot: table pages, row 0: pid 1"):
        parquet.read(tmp_path / "two")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("damage") / "snap"
    parquet.write(numbered(3, pages=50), directory)
    return directory


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_names_itself_or_changes_nothing(
    original: pathlib.Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(os.listdir(original))))
    content = bytearray((original / name).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    damaged = original.parent / "damaged"
    shutil.copytree(original, damaged, dirs_exist_ok=True)
    (damaged / name).write_bytes(content)
    complaint = ""
    try:
        parquet.read(damaged).check()
    except SamepageError as error:
        complaint = error.message
    assert "\n" not in complaint
    assert not complaint or name in complaint or "damaged snapshot: table" in complaint


WRITER = """
import sys
sys.path.insert(0, {root!r})
from samepage.snapshot import directory, parquet
from tests.snapshot.test_parquet import numbered
one, two = numbered({first}), numbered({second})
print("ready", flush=True)
while True:
    parquet.write(one, {target!r})
    parquet.write(two, {target!r})
"""


@contextlib.contextmanager
def writer(target: pathlib.Path, first: int, second: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that writes two snapshots in turns; kill it at the end."""
    root = str(pathlib.Path(__file__).parents[2])
    code = WRITER.format(root=root, target=str(target), first=first, second=second)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_writer_killed_at_any_instant_leaves_a_whole_snapshot(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "snap"
    parquet.write(numbered(1), target)
    choose = random.Random(7)
    for _ in range(6):
        with writer(target, 1, 2):
            time.sleep(choose.uniform(0.0, 0.1))
        assert number_of(parquet.read(target)) in (1, 2)
    parquet.write(numbered(3), target)
    assert os.listdir(tmp_path) == ["snap"], "the leftovers of the killed are removed"
    assert number_of(parquet.read(target)) == 3


def test_readers_and_two_writers_at_once_see_whole_snapshots(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "snap"
    parquet.write(numbered(1), target)
    seen = set()
    with writer(target, 1, 2) as first, writer(target, 3, 4) as second:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            seen.add(number_of(parquet.read(target)))
        assert first.poll() is None
        assert second.poll() is None, "no writer may fail because of the other"
    assert len(seen) > 1, "the writers did write meanwhile"


def test_a_file_system_without_exchange_gets_two_renames(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str, flags: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(directory, "_renameat2", refuse)
    target = tmp_path / "snap"
    parquet.write(numbered(1), target)
    parquet.write(numbered(2), target)
    assert os.listdir(tmp_path) == ["snap"]
    assert number_of(parquet.read(target)) == 2
    # killed between the two renames
    os.replace(target, tmp_path / ".snap.old")
    assert number_of(parquet.read(target)) == 2
    parquet.write(numbered(3), target)
    assert number_of(parquet.read(target)) == 3
    assert os.listdir(tmp_path) == ["snap"]


def test_a_full_disk_leaves_the_old_snapshot(tmp_path: pathlib.Path) -> None:
    mount = tmp_path / "tiny"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs (not root)")
    try:
        parquet.write(numbered(1, pages=10), mount / "snap")
        noise = numbered(2, pages=200_000)
        with pytest.raises(SamepageError, match=r"cannot write snapshot .*No space left"):
            parquet.write(noise, mount / "snap")
        assert number_of(parquet.read(mount / "snap")) == 1
        assert os.listdir(mount) == ["snap"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_file_size_limit_leaves_the_old_snapshot(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(1, pages=10), tmp_path / "snap")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
            parquet.write(numbered(2, pages=60_000), tmp_path / "snap")
        except SamepageError as error:
            status = 0 if "File too large" in error.message else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert number_of(parquet.read(tmp_path / "snap")) == 1
    assert os.listdir(tmp_path) == ["snap"]


def write_for_ever(target: pathlib.Path) -> None:
    while True:
        parquet.write(numbered(2), target)


def test_a_signal_in_the_middle_leaves_no_temporary_directory(tmp_path: pathlib.Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(KeyboardInterrupt):
            write_for_ever(tmp_path / "snap")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    parquet.write(numbered(3), tmp_path / "snap")
    assert os.listdir(tmp_path) == ["snap"]


def test_pages_are_written_and_read_in_pieces(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = numbered(3)
    monkeypatch.setattr(parquet, "ROW_GROUP", 300)
    parquet.write(snapshot, tmp_path / "s")
    assert pq.ParquetFile(tmp_path / "s" / "pages.parquet").num_row_groups == 7
    assert equal(parquet.read(tmp_path / "s"), snapshot)


def test_a_snapshot_from_before_there_were_start_times_is_read(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(3), tmp_path / "s")
    path = tmp_path / "s" / "processes.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["start_time"]), path)
    (process,) = parquet.read(tmp_path / "s").processes
    assert process.start_time is None


def test_a_snapshot_from_before_the_kernels_sums_were_kept_is_read(tmp_path: pathlib.Path) -> None:
    parquet.write(numbered(3), tmp_path / "s")
    path = tmp_path / "s" / "vmas.parquet"
    pq.write_table(pq.read_table(path).drop_columns(list(SMAPS_SUMS)), path)
    assert len(parquet.read(tmp_path / "s").smaps.vma) == 0
