"""`samepage why` on real prefork servers: complete answers, and savings that come true."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from samepage.errors import SamepageError
from samepage.trace.keeper import Keeper
from tests.cli.watching import Watcher, needs_events
from tests.live.test_script_functions import perf_python

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


def why(process: "subprocess.Popen[str]", output: Path, *options: str) -> dict[str, Any]:
    """Watch the server while it works."""
    assert process.stdin is not None
    assert process.stdout is not None
    watcher = Watcher([str(process.pid), *options], output)
    watcher.until_armed()
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    return watcher.finish()


@pytest.fixture(scope="module", name="needs_events")
def _needs_events() -> None:
    needs_events()


def of_cause(document: dict[str, Any], name: str, key: str) -> int:
    return sum(cause[key] for cause in document["causes"] if cause["cause"] == name)


def test_every_copy_of_a_prefork_server_is_explained(needs_events: None, tmp_path: Path) -> None:
    with server() as process:
        found = why(process, tmp_path / "why.json")
    assert found["complete"] is True
    assert found["all_writers"] is False
    assert found["unexplained_pages"] == found["lost_events"] == 0
    unshared, copied = found["unshared_pages"], found["copied_pages"]
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


SCRIPT = """
import os, sys, time
class Record:
    def __init__(self, i): self.number, self.tags = i, [i]
records = [Record(i) for i in range(20000)]
def read_all():
    return sum(record.number for record in records[::2])
def append_some():
    for record in records[1::100]: record.tags.append(1)
pids = []
for k in range(2):
    if os.fork() == 0:
        read_all(); append_some(); print("done", flush=True); time.sleep(1000)
time.sleep(1000)
"""


def test_functions_of_a_python_script_are_named(needs_events: None, tmp_path: Path) -> None:
    python = perf_python()
    if python is None:
        pytest.skip("no Python that knows -X perf is installed")
    script = tmp_path / "served.py"
    script.write_text(SCRIPT)
    watcher = Watcher(
        ["--what-if", "append_some"], tmp_path / "why.json", [python, "-X", "perf", str(script)]
    )
    watcher.wait_for("done")
    watcher.wait_for("done")
    found = watcher.finish()
    for process in found["processes"]:
        Path(f"/tmp/perf-{process['pid']}.map").unlink(missing_ok=True)
    by_name = {row["function"]: row for row in found["scripts"]}
    assert by_name["append_some"]["file"] == str(script)
    assert by_name["append_some"]["processes"] == 2
    read = [row for name, row in by_name.items() if name.startswith("read_all")]
    assert sum(row["first_written_pages"] for row in read) > 500
    assert found["notes"] == []
    (supposition,) = found["what_if"]
    assert supposition["saved_pages"] == by_name["append_some"]["saved_pages"] > 50


def test_without_a_map_the_way_to_get_names_is_shown(needs_events: None, tmp_path: Path) -> None:
    with server() as process:
        found = why(process, tmp_path / "why.json")
    assert found["scripts"] == []
    (note,) = found["notes"]
    assert note.startswith(f"Python 3.{sys.version_info.minor} functions are not named")
