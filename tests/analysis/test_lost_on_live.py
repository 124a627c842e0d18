"""Lost sharing on the running system: copies of the real libc, made by the test."""

import io
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from samepage.analysis.lost_sharing import LostSharing, lost_sharing
from samepage.analysis.sharing import Sharing
from samepage.analysis.twins import Cause
from samepage.live.capture import capture
from samepage.report import print_report
from samepage.report.tables import Terminal

SLEEP = shutil.which("sleep")


@pytest.fixture
def processes(tmp_path: pathlib.Path) -> Iterator[list[int]]:
    """Three `sleep`s: with the system's libc, with a copy, and with a copy that is deleted."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(subprocess.Popen([SLEEP or "sleep", "1000"]))
        libc = wait_for_libc(started[0].pid)
        for name in ("copy", "deleted"):
            directory = tmp_path / name
            directory.mkdir()
            shutil.copy(libc, directory)
            environment = {**os.environ, "LD_LIBRARY_PATH": str(directory)}
            started.append(subprocess.Popen([SLEEP or "sleep", "1000"], env=environment))
            wait_for_libc(started[-1].pid)
        (tmp_path / "deleted" / pathlib.Path(libc).name).unlink()
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for_libc(pid: int) -> str:
    """Wait until the process sleeps (and so has loaded it); return the path of its libc."""
    for _ in range(2000):
        with open(f"/proc/{pid}/wchan") as wchan, open(f"/proc/{pid}/maps") as maps:
            if "nanosleep" in wchan.read():
                return next(line.split()[5] for line in maps if "/libc" in line)
        os.sched_yield()
    pytest.skip("sleep does not come to sleep, or /proc/PID/wchan is not shown")


@pytest.mark.skipif(SLEEP is None, reason="no sleep in PATH")
def test_a_copy_and_a_deleted_libc_are_found(processes: list[int]) -> None:
    snapshot = capture(processes)
    if not snapshot.frames_visible:
        pytest.skip("the kernel shows frame numbers only with CAP_SYS_ADMIN")
    found = [lost for lost in lost_sharing(Sharing(snapshot)) if "libc" in lost.name]
    assert len(found) == 1, [file.path for file in snapshot.files]
    (lost,) = found
    check_saving(lost)
    causes = {twin.use.file.path.split("/")[-2]: twin.cause for twin in lost.twins}
    assert causes.pop("deleted") is Cause.DELETED
    # Which of the other two is kept is decided by the number of frames; /tmp may be a mount.
    assert set(causes.values()) <= {None, Cause.COPY, Cause.OTHER_DEVICE}
    assert None in causes.values()


@pytest.mark.skipif(SLEEP is None, reason="no sleep in PATH")
def test_the_report_prints_the_causes(processes: list[int]) -> None:
    snapshot = capture(processes)
    if not snapshot.frames_visible:
        pytest.skip("the kernel shows frame numbers only with CAP_SYS_ADMIN")
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 200))
    lines = stream.getvalue().splitlines()
    lines = lines[next(n for n, line in enumerate(lines) if line.startswith("Lost sharing: eq")) :]
    (deleted,) = (line for line in lines if "/deleted/libc" in line)
    assert deleted.endswith(f": {Cause.DELETED.value}")
    assert any(line.endswith((Cause.COPY.value, Cause.OTHER_DEVICE.value)) for line in lines)


def check_saving(lost: LostSharing) -> None:
    """One inode would have each page once: at least the largest of the three has that many."""
    assert len(lost.twins) == 3
    each = [twin.use.cached_frames for twin in lost.twins]
    assert lost.frames == sum(each)
    assert max(each) <= lost.frames - lost.saved_frames < lost.frames
