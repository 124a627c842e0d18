"""Names, users and containers as the kernel and the runtimes write them."""

import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from samepage.errors import SamepageError
from samepage.groups.selection import Selection
from samepage.live.capture import capture
from samepage.live.process_files import parse_cgroup, parse_memory_cgroup, parse_stat
from samepage.live.procfs import read_file
from samepage.live.select import find_processes
from samepage.report import print_report
from samepage.report.tables import Terminal


def test_stat_of_this_process() -> None:
    comm, ppid, minor, _, started = parse_stat(read_file("/proc/self/stat"))
    assert comm == read_file("/proc/self/comm").decode().rstrip("\n")
    assert ppid == os.getppid()
    assert minor > 100
    assert started is not None
    ticks = os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / ticks
    assert abs(age - (time.time() - psutil.Process().create_time())) < 1


def test_a_name_with_parentheses() -> None:
    stat = b"7 (a) S (b) R 3 0 0 0 0 0 11 0 22 0 0"
    assert parse_stat(stat) == ("a) S (b", 3, 11, 22, None)


def test_the_control_group_that_accounts_memory() -> None:
    assert parse_cgroup(b"0::/a\n") == "/a"
    assert parse_cgroup(b"9:memory:/m\n3:cpu,cpuacct:/c\n1:name=systemd:/s\n0::/\n") == "/m"
    assert parse_cgroup(b"1:name=systemd:/s:with:colons\n0::/\n") == "/s:with:colons"
    assert parse_cgroup(b"") == ""
    assert parse_memory_cgroup(b"9:memory:/\n1:name=systemd:/s\n0::/u\n") == "/"
    assert parse_memory_cgroup(b"1:name=systemd:/s\n0::/u\n") == "/u"
    assert parse_memory_cgroup(b"") == ""


def test_processes_are_found_by_pid_and_by_name() -> None:
    assert find_processes(Selection.of([str(os.getppid())])) == [os.getppid()]
    with pytest.raises(SamepageError, match="no process 4194305"):
        find_processes(Selection.of(["4194305"]))
    with pytest.raises(SamepageError, match="no process is called nothing-like-this"):
        find_processes(Selection.of(["nothing-like-this"]))


@pytest.fixture
def titled() -> Iterator[int]:
    """A process that wrote a title over its first argument, as puma and nginx do."""
    title = "puma 6.4.3 (tcp://127.0.0.1:9292/x) [shop]"
    sleep = os.path.realpath(shutil.which("sleep") or "")
    with subprocess.Popen([title, "1000"], executable=sleep) as process:
        for _ in range(1000):
            if os.readlink(f"/proc/{process.pid}/exe") == sleep:
                break
            time.sleep(0.005)
        yield process.pid
        process.kill()


def test_a_process_with_a_title_is_found_by_its_title_and_its_executable(
    titled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_processes(Selection.of(["puma"])) == [titled]
    assert titled in find_processes(Selection.of(["sleep"]))
    # Called through a link, as ruby is one to ruby3.1.
    (tmp_path / "dozer").symlink_to(os.readlink(f"/proc/{titled}/exe"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert titled in find_processes(Selection.of(["dozer"]))
    with pytest.raises(SamepageError):
        find_processes(Selection.of(["x) [shop]x"]))


def test_a_title_with_slashes_is_printed_from_its_beginning(titled: int) -> None:
    stream = io.StringIO()
    print_report(capture([titled]), Terminal(stream, 80))
    (row,) = (line for line in stream.getvalue().splitlines() if str(titled) in line.split())
    assert row.startswith("puma 6.4.3 (tcp://127.0")
