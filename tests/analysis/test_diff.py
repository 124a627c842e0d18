"""Two snapshots compared: who is new, who is lost, and which pages changed."""

import subprocess
import time
from pathlib import Path

from samepage.analysis.diff import NO_FILE, Match, diff
from samepage.analysis.page_changes import NO_CHANGES, PageChanges
from samepage.live.capture import capture
from samepage.snapshot import parquet
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from tests.analysis.sample import COPY, LIBC, SHM, sample


def world(*processes: tuple[int, str, list[int]], boot: str = "", shift: int = 0) -> Snapshot:
    """Processes (pid, exe, pages of /lib/x that they have) on a machine booted as `boot`."""
    builder = SnapshotBuilder("live", **({"boot_id": boot} if boot else {}))
    for pid, exe, pages in processes:
        builder.add_process(Process(pid, argv=(exe,), exe=exe))
        file = builder.add_file(1, 1 + shift, "/lib/x", build_id=f"{shift}")
        base = 0x100 + shift
        builder.add_vma(pid, base << 12, (base + 9) << 12, "r-xp", 0, file, "/lib/x")
        builder.add_pages(pid, [base + page for page in pages], [50 + page for page in pages],
                          [5] * len(pages))  # fmt: skip
        for page in pages:
            builder.add_frames([50 + page], [1], [file], [page], [len(processes)], [0])
    return builder.build()


def test_a_snapshot_is_equal_to_itself() -> None:
    result = diff(sample(), sample(seed=3))
    assert result.equal
    assert result.match is Match.PROGRAM
    assert [change.pages for change in result.processes] == [NO_CHANGES] * 3
    assert [change.path for change in result.files] == sorted([LIBC, COPY, SHM])


def test_the_same_boot_is_matched_by_pid() -> None:
    before = world((1, "/a", [0]), (2, "/b", [0]), boot="x")
    after = world((2, "/b", [0, 3]), (9, "/a", [0]), (1, "/c", []), boot="x")
    result = diff(before, after)
    assert result.match is Match.PID
    pids = [
        (c.before and c.before.process.pid, c.after and c.after.process.pid)
        for c in result.processes
    ]
    # pid 1 is another program now, so it is another process
    assert pids == [(1, None), (2, 2), (None, 1), (None, 9)]
    assert result.processes[1].pages == PageChanges(
        gained=1, lost=0, copied_anonymous=0, copied_file=0, moved=0
    )
    assert result.processes[1].rss == 1
    assert not result.equal


def started(boot: str, *processes: tuple[int, str, int]) -> Snapshot:
    """Processes (pid, exe, start time) of one boot."""
    builder = SnapshotBuilder("live", boot_id=boot)
    for pid, exe, start_time in processes:
        builder.add_process(Process(pid, argv=(exe,), exe=exe, start_time=start_time))
    return builder.build()


def test_a_pid_that_was_given_out_again_is_another_process() -> None:
    before = started("x", (1, "/a", 10), (2, "/b", 20))
    after = started("x", (1, "/other", 10), (2, "/b", 90))  # 1 has called exec
    pids = [
        (c.before and c.before.process.pid, c.after and c.after.process.pid)
        for c in diff(before, after).processes
    ]
    assert pids == [(1, 1), (2, None), (None, 2)]


def test_start_times_of_two_boots_are_not_compared() -> None:
    before, after = started("x", (1, "/a", 10)), started("y", (1, "/a", 30))
    for match in (Match.AUTO, Match.PID):
        (process,) = diff(before, after, match).processes
        assert process.before is not None
        assert process.after is not None


def test_other_machines_are_matched_by_program_as_often_as_it_runs() -> None:
    before = world((1, "/a", [0]), (2, "/a", [0]), (3, "/a", [0]), boot="x")
    after = world((7, "/a", [0]), (8, "/b", [0]), (9, "/a", [0]), boot="y")
    pids = [
        (c.before and c.before.process.pid, c.after and c.after.process.pid)
        for c in diff(before, after).processes
    ]
    assert pids == [(1, 7), (2, 9), (3, None), (None, 8)]


def test_pages_at_other_addresses_are_not_compared_by_address() -> None:
    result = diff(world((1, "/a", [0, 1])), world((1, "/a", [1, 2]), shift=0x10))
    (process,), (file,) = result.processes, result.files
    assert process.pages is None
    # but by their place in the file they are
    assert (file.gained, file.lost) == (1, 1)
    assert file.content_changed


def test_a_file_without_mappings_after_is_lost() -> None:
    result = diff(world((1, "/a", [0, 1])), Snapshot.empty("live"))
    (file,) = result.files
    assert file.after == NO_FILE
    assert (file.before.frames, file.before.mapped_pages, file.before.processes) == (2, 2, 1)
    assert result.pss == (2, 0)


def test_two_live_captures_of_this_boot_are_matched_by_pid(tmp_path: Path) -> None:
    sleeps = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    try:
        time.sleep(0.2)
        parquet.write(capture([process.pid for process in sleeps]), tmp_path / "before")
        sleeps[0].kill()
        sleeps[0].wait()
        result = diff(parquet.read(tmp_path / "before"), capture([sleeps[1].pid]))
    finally:
        for process in sleeps:
            process.kill()
            process.wait()
    assert result.match is Match.PID
    pairs = {
        (c.before and c.before.process.pid, c.after and c.after.process.pid)
        for c in result.processes
    }
    assert pairs == {(sleeps[0].pid, None), (sleeps[1].pid, sleeps[1].pid)}


def test_the_rate_needs_the_times_of_both() -> None:
    early, late = (
        SnapshotBuilder("live", time=time).build()
        for time in ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00.500Z")
    )
    assert diff(early, late).seconds == 7200.5
    assert diff(early, late).per_hour(7200.5) == 3600
    for pair in ((late, early), (early, Snapshot.empty("live"))):
        assert diff(*pair).seconds is None
        assert diff(*pair).per_hour(1) is None


def test_what_is_copied_is_not_known_where_frames_do_not_mean_the_same() -> None:
    result = diff(world((1, "/a", [0]), boot="x"), world((1, "/a", [0]), boot="y"))
    assert result.copies is None


def test_mappings_grow_by_name_where_addresses_do_not_mean_the_same() -> None:
    result = diff(world((1, "/a", [0, 1])), world((1, "/a", [1]), shift=0x10))
    (change,) = result.mappings
    assert (change.name, change.before, change.after, change.grown) == ("/lib/x", 2, 1, -1)
