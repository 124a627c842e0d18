"""`samepage why` on real prefork servers: complete answers, and savings that come true."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samepage.errors import SamepageError
from samepage.trace.keeper import Keeper
from samepage.trace.perf.tracefs import find_tracepoints

SERVER = """
import gc, os, sys, time
class Record:
    def __init__(self, i):
        self.number, self.tags = i, [i, str(i)]
records = [Record(i) for i in range(20_000)]
if "freeze" in sys.argv:
    gc.collect(); gc.freeze()
go, start = os.pipe(); done, end = os.pipe()
for k in range(2):
    if os.fork() == 0:
        os.read(go, 1)
        for r in records[:: 200]:
            r.tags.append(k)
        for _ in range(3):
            gc.collect()
            time.sleep(0.3)
        total = sum(r.number for r in records[::100])
        os.write(end, b"x")
        time.sleep(1000)
print("ready", flush=True)
sys.stdin.readline()
os.write(start, b"gg")
left = 2
while left:
    left -= len(os.read(done, left))
print("done", flush=True)
sys.stdin.readline()
os.killpg(0, 9)
"""


@contextmanager
def server(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            os.killpg(process.pid, 9)


def why(process: "subprocess.Popen[str]", output: Path, *options: str) -> dict[str, object]:
    """Watch the server while it works."""
    assert process.stdin is not None
    assert process.stdout is not None
    command = [sys.executable, "-m", "samepage", "why", str(process.pid), "--for", "60s"]
    watcher = subprocess.Popen([*command, "-o", output, *options], stderr=subprocess.PIPE)
    until_armed(watcher)
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    time.sleep(0.5)
    watcher.send_signal(2)
    _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, errors
    document = json.loads(output.read_text())
    assert isinstance(document, dict)
    return document


def until_armed(watcher: "subprocess.Popen[bytes]") -> None:
    """Wait until it has read the first frames: it then sleeps, and has events open."""
    end = time.monotonic() + 60
    quiet = 0
    while quiet < 5 and time.monotonic() < end:
        try:
            events = sum(
                "perf_event" in os.readlink(f"/proc/{watcher.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{watcher.pid}/fd")
            )
            with open(f"/proc/{watcher.pid}/stat") as file:
                sleeping = file.read().rpartition(")")[2].split()[0] == "S"
        except OSError:
            events, sleeping = 0, False
        quiet = quiet + 1 if events and sleeping else 0
        time.sleep(0.2)
    assert watcher.poll() is None


@pytest.fixture(scope="module")
def needs_events() -> None:
    if os.geteuid() != 0:
        pytest.skip("frame numbers and tracepoints need root")
    try:
        if len(find_tracepoints("exceptions:page_fault_user", "kmem:mm_page_alloc")) < 2:
            pytest.skip("this kernel lacks the tracepoints")
    except SamepageError as error:
        pytest.skip(error.message)


def of_cause(document: dict[str, object], name: str, key: str) -> int:
    causes = document["causes"]
    assert isinstance(causes, list)
    return sum(cause[key] for cause in causes if cause["cause"] == name)


def test_every_copy_of_a_prefork_server_is_explained(needs_events: None, tmp_path: Path) -> None:
    with server() as process:
        found = why(process, tmp_path / "why.json")
    assert found["complete"] is True
    assert found["all_writers"] is False
    assert found["unexplained_pages"] == found["lost_events"] == 0
    unshared, copied = found["unshared_pages"], found["copied_pages"]
    assert isinstance(unshared, int)
    assert isinstance(copied, int)
    assert unshared > 1000
    assert copied >= unshared * 0.99
    assert of_cause(found, "cpython.gc", "first_written_pages") > unshared // 2


def test_the_saving_of_freezing_is_what_freezing_saves(needs_events: None, tmp_path: Path) -> None:
    with server() as process:
        with Keeper() as keeper:
            try:
                keeper.arm(process.pid).close()
            except SamepageError as error:
                pytest.skip(error.message)
        plain = why(process, tmp_path / "plain.json", "--epoch", "50ms")
    if plain["missing"]:
        pytest.skip(str(plain["missing"]))
    with server("freeze") as process:
        frozen = why(process, tmp_path / "frozen.json")
    copied, truth = plain["copied_pages"], frozen["copied_pages"]
    assert isinstance(copied, int)
    assert isinstance(truth, int)
    predicted = copied - of_cause(plain, "cpython.gc", "saved_pages")
    assert copied > truth * 2, "freezing pays"
    assert abs(predicted - truth) <= truth * 0.05, (copied, predicted, truth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["4194300"], "there is no process 4194300"),
        (["no-such-program-xyz"], "no process is called no-such-program-xyz"),
        (["1", "--for", "10"], "--for 10: a time is a number with a unit"),
        (["1", "--epoch", "1ms"], "--epoch 1ms: less than 10ms"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "samepage", "why", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_process_that_may_not_be_read_is_one_line(needs_events: None) -> None:
    # A kernel thread has no memory map; pid 1 of a sandbox may be closed even to root.
    try:
        Path("/proc/1/maps").read_bytes()
    except PermissionError:
        run = subprocess.run(
            [sys.executable, "-m", "samepage", "why", "1", "--for", "100ms"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode in (0, 2)
        assert "internal error" not in run.stderr
        assert "process 1: its memory map may not be read" in run.stdout + run.stderr
    else:
        pytest.skip("every process may be read here")
