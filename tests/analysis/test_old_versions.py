"""Old versions that are still mapped, after an upgrade for real: another libc over the old name."""

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from samepage.analysis.old_versions import old_versions
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.report import print_report
from samepage.report.tables import Terminal
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process
from tests.analysis.test_lost_on_live import wait_for_libc

SLEEP = shutil.which("sleep")


@pytest.fixture
def upgraded() -> Iterator[tuple[Path, list[int]]]:
    """Two `sleep`s before an upgrade of their libc, one after it; what they load it from."""
    if SLEEP is None or os.geteuid() != 0:
        pytest.skip("no sleep in PATH, or no place outside of /tmp to write to")
    place = Path("/opt/samepage-test-upgrade")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(place)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        probe = subprocess.Popen([SLEEP, "1000"])
        started.append(probe)
        libc = Path(wait_for_libc(probe.pid))
        shutil.copy(libc, place)
        for number in range(3):
            if number == 2:  # as dpkg does it; the new one has another build-id or none
                (place / "new").write_bytes((place / libc.name).read_bytes() + b"new version")
                (place / "new").rename(place / libc.name)
            started.append(subprocess.Popen([SLEEP, "1000"], env=environment))
            wait_for_libc(started[-1].pid)
        yield place / libc.name, [process.pid for process in started[1:]]
    finally:
        for process in started:
            process.kill()
            process.wait()
        shutil.rmtree(place)


def test_an_old_libc_is_found_with_who_maps_it_and_what_to_restart(
    upgraded: tuple[Path, list[int]],
) -> None:
    path, pids = upgraded
    snapshot = capture(pids)
    (old,) = old_versions(Sharing(snapshot))
    assert old.use.file.path == str(path)
    assert [use.process.pid for use in old.processes] == pids[:2]
    assert old.restart
    if snapshot.frames_visible:
        assert old.frames == old.use.cached_frames + old.use.copied_frames > 100
    stream = io.StringIO()
    print_report(snapshot, Terminal(stream, 200))
    lines = stream.getvalue().splitlines()
    assert any(line.startswith("Old versions still mapped") for line in lines)
    (line,) = (line for line in lines if str(path) in line and "restart" in line)
    assert f"2 processes: {pids[0]}, {pids[1]}" in line


def test_the_unit_is_what_is_restarted() -> None:
    builder = SnapshotBuilder("live")
    old = builder.add_file(1, 1, "/usr/lib/libssl.so.3", deleted=True)
    made = builder.add_file(1, 2, "/memfd:code", deleted=True)
    data = builder.add_file(1, 3, "/var/lib/db", deleted=True)
    for pid, cgroup, exe in (
        (1, "/system.slice/ssh.service", "/usr/sbin/sshd"),
        (2, "/system.slice/ssh.service", "/usr/sbin/sshd"),
        (3, "", "/usr/bin/top"),
    ):
        builder.add_process(Process(pid, cgroup=cgroup, exe=exe))
        for number, (file, perms) in enumerate(((old, "r-xp"), (made, "r-xp"), (data, "rw-s"))):
            start = (1 + number) << 12
            builder.add_vma(pid, start, start + 4096, perms, 0, file, "")
        builder.add_pages(pid, [1, 2, 3], [10, 20, 30], [5, 5, 5])
    builder.add_frames([10, 20, 30], [1, 3, 1], [old, made, data], [0, 0, 0], [3, 3, 3], [0, 0, 0])
    (found,) = old_versions(Sharing(builder.build()))
    assert (found.use.file.path, found.frames) == ("/usr/lib/libssl.so.3", 1)
    assert found.restart == ("/usr/bin/top", "ssh.service")
