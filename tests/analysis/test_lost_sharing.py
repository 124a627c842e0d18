"""Lost sharing: which inodes hold the same, what one would save, and why they differ."""

import io

import pytest

from samepage.analysis.lost_sharing import lost_sharing
from samepage.analysis.sharing import Sharing
from samepage.analysis.twins import Cause, Copy, causes
from samepage.report import print_report
from samepage.report.tables import Terminal
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from tests.analysis.sample import sample


def test_the_copy_in_the_container_is_found() -> None:
    (lost,) = lost_sharing(Sharing(sample()))
    assert (lost.name, lost.build_id) == ("libc.so.6", "c0ffee")
    assert lost.frames == 6 + 2
    assert lost.saved_frames == 2  # pages 0 and 1 are there twice
    keep, twin = lost.twins
    assert (keep.use.file.ino, keep.cause, keep.containers) == (100, None, ("",))
    assert (twin.use.file.ino, twin.cause, twin.containers) == (900, Cause.CONTAINER, ("web",))


def two_files(second: str, *, dev: int = 1, deleted: bool = False, **other: object) -> Snapshot:
    """Two files of the same content; pages 0 and 1 of both, page 2 of the first one."""
    builder = SnapshotBuilder("live")
    content = {"size": 9999, "build_id": "aa", **other}
    first = builder.add_file(1, 1, "/usr/lib/libx.so", size=9999, build_id="aa")
    twin = builder.add_file(dev, 2, second, deleted=deleted, **content)
    for pid, file, frames in ((1, first, [11, 12, 13]), (2, twin, [21, 22])):
        builder.add_process(Process(pid))
        builder.add_vma(pid, 4096, 4 * 4096, "r-xp", 0, file, "libx.so")
        count = len(frames)
        builder.add_pages(pid, range(1, count + 1), frames, [5] * count)
        builder.add_frames(
            frames, [1] * count, [file] * count, range(count), [1] * count, [0] * count
        )
    return builder.build()


@pytest.mark.parametrize(
    ("snapshot", "cause"),
    [
        (two_files("/usr/lib/libx.so", deleted=True), Cause.DELETED),
        (two_files("/mnt/libx.so", dev=7), Cause.OTHER_DEVICE),
        (two_files("/p/.venv/lib/libx.so"), Cause.VIRTUAL_ENVIRONMENT),
        (two_files("/opt/lib/python3/site-packages/x.libs/libx.so"), Cause.VIRTUAL_ENVIRONMENT),
        (two_files("/opt/libx.so"), Cause.COPY),
    ],
)
def test_cause_of_lost_sharing(snapshot: Snapshot, cause: Cause) -> None:
    (lost,) = lost_sharing(Sharing(snapshot))
    assert (lost.frames, lost.saved_frames) == (5, 2)
    assert [twin.cause for twin in lost.twins] == [None, cause]


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/p/venv311/lib/x.so",
        "/home/me/.local/share/virtualenvs/p-x1/bin/python3.11",
        "/home/me/my-env/bin/python3.11",
        "/opt/conda/envs/p/lib/x.so",
        "/home/me/p/.tox/py311/lib/python3.11/site-packages/x.so",
    ],
)
def test_a_virtual_environment_is_recognized_by_its_path(path: str) -> None:
    for dev in (1, 2):  # also on a disk of its own
        system = Copy(1, "/usr/lib/python3.11/site-packages/x.so", False, ("",), 1)
        other = Copy(dev, path, False, ("",), 9)
        # It is not the one to keep, however much of it is in memory.
        assert causes([other, system]) == [Cause.VIRTUAL_ENVIRONMENT, None]


@pytest.mark.parametrize("path", ["/usr/bin/env", "/opt/pyenv/x.so", "/usr/lib/environment/x.so"])
def test_what_is_only_called_alike_is_a_copy(path: str) -> None:
    keep = Copy(1, "/usr/lib/x.so", False, ("",), 9)
    assert causes([keep, Copy(1, path, False, ("",), 1)]) == [None, Cause.COPY]


def test_another_container_on_the_same_device_is_recognized() -> None:
    keep = Copy(1, "/layers/1/x.so", False, ("docker:1", "docker:2"), 9)
    other = Copy(1, "/layers/2/x.so", False, ("docker:3",), 1)
    assert causes([keep, other]) == [None, Cause.CONTAINER]


@pytest.mark.parametrize("other", [{"size": 8888}, {"build_id": "bb"}, {"build_id": None}])
def test_files_that_may_differ_are_not_taken_for_twins(other: dict[str, object]) -> None:
    assert lost_sharing(Sharing(two_files("/opt/libx.so", **other))) == []


def test_the_host_is_named_and_so_are_containers_and_pids() -> None:
    snapshot = two_files("/layer/libx.so", dev=7)
    one, two = snapshot.processes
    for places, cause, words in (
        (("docker:1", ""), Cause.HOST, "(1 process: 2; on the host)"),
        (("", "docker:1"), Cause.CONTAINER, "(1 process: 2; in docker:1)"),
    ):
        snapshot.processes[:] = [
            process._replace(container=place)
            for process, place in zip((one, two), places, strict=True)
        ]
        (lost,) = lost_sharing(Sharing(snapshot))
        keep, twin = lost.twins
        assert twin.cause is cause
        assert [process.pid for process in twin.processes] == [2]
        stream = io.StringIO()
        print_report(snapshot, Terminal(stream, 200))
        lines = stream.getvalue().splitlines()
        assert any(line.endswith(f"/layer/libx.so {words}: {cause.value}") for line in lines)
        assert not any(" in :" in line or "in ;" in line for line in lines)
        assert keep.cause is None
