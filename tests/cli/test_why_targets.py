"""What `samepage why` can be pointed at, on a C server whose writers and pages are known."""

import contextlib
import gzip
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from samepage.live.cgroup_paths import find_cgroup
from samepage.snapshot.parquet import read
from samepage.snapshot.writes import WriteKind
from tests.cli.watching import WHY, Watcher, needs_events

SOURCE = Path(__file__).parent / "why_programs" / "writers.c"
WORKERS = 2
ALPHA, BETA, TABLE, KERNEL = 100, 100, 8, 20
COPIED = 150 + TABLE + KERNEL
"""Pages that each worker copies of what is its own: alpha and beta have 50 in common."""

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_events()
    program = tmp_path_factory.mktemp("why") / "writers"
    subprocess.run(["gcc", "-O1", "-o", program, SOURCE], check=True)
    return program


@contextlib.contextmanager
def running(server: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [server, "wait"],
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
            os.killpg(process.pid, signal.SIGKILL)


def let_work(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def of_function(document: dict[str, Any], name: str) -> dict[str, int]:
    (found,) = (row for row in document["functions"] if row["function"] == name)
    assert isinstance(found, dict)
    return found


def check_first_writers(found: dict[str, Any]) -> None:
    """The answer without epochs, whoever was asked for."""
    assert found["complete"] is True, found["missing"]
    assert found["unexplained_pages"] == found["lost_events"] == 0
    assert of_function(found, "alpha")["first_written_pages"] == ALPHA * WORKERS
    assert of_function(found, "beta")["first_written_pages"] == (BETA - 50) * WORKERS
    assert of_function(found, "table_writer")["first_written_pages"] == TABLE * WORKERS
    kernel = of_function(found, "[kernel]")
    assert KERNEL * WORKERS <= kernel["first_written_pages"] < KERNEL * WORKERS + 8
    assert found["copied_pages"] >= COPIED * WORKERS


def test_a_command_is_watched_from_its_start_to_ctrl_c(server: Path, tmp_path: Path) -> None:
    watcher = Watcher([], tmp_path / "why.json", [str(server)])
    watcher.wait_for("done")
    found = watcher.finish()
    check_first_writers(found)
    assert [process["name"] for process in found["processes"]] == ["writers"] * (1 + WORKERS)
    relocated = [cause for cause in found["causes"] if cause["cause"] == "glibc.relocation"]
    assert relocated[0]["first_written_pages"] > 0, "ld.so has relocated the program"
    in_file = {area["name"]: area for area in found["memory"]}[str(server)]
    assert in_file["file_pages"] >= TABLE
    for pid in (process["pid"] for process in found["processes"]):
        assert not os.path.exists(f"/proc/{pid}"), "what was started is ended"


def test_a_command_that_cannot_be_started_is_one_line(server: Path) -> None:
    run = subprocess.run(
        [*WHY, "--", "no-such-program-xyz"], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 127
    assert run.stderr == "samepage: no-such-program-xyz: command not found\n"


def test_a_command_that_ends_ends_the_watching(server: Path) -> None:
    run = subprocess.run([*WHY, "--", "true"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "ended meanwhile" in run.stdout
    assert "complete: yes" not in run.stdout


@pytest.fixture
def cgroup() -> Iterator[Path]:
    root = find_cgroup("/")
    if root is None:
        pytest.skip("cgroup v2 is not mounted")
    directory = Path(root) / f"samepage-test-{os.getpid()}.service"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    yield directory
    for _ in range(100):
        with contextlib.suppress(OSError):
            directory.rmdir()
            return
        time.sleep(0.05)


@pytest.mark.parametrize("by", ["directory", "path", "unit"])
def test_a_cgroup_is_watched(server: Path, cgroup: Path, tmp_path: Path, by: str) -> None:
    arguments = {
        "directory": ["--cgroup", str(cgroup)],
        "path": ["--cgroup", f"/{cgroup.name}"],
        "unit": ["--unit", cgroup.name.removesuffix(".service")],
    }[by]
    with running(server) as process:
        for pid in [process.pid, *children(process.pid)]:
            (cgroup / "cgroup.procs").write_text(str(pid))
        watcher = Watcher(arguments, tmp_path / "why.json")
        watcher.until_armed()
        let_work(process)
        check_first_writers(watcher.finish())


def test_a_cgroup_without_processes_is_one_line(server: Path, cgroup: Path) -> None:
    run = subprocess.run([*WHY, "--cgroup", cgroup], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr == f"samepage: no process is in {cgroup}\n"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_if_saves_the_pages_that_no_other_writes_to(server: Path, tmp_path: Path) -> None:
    with running(server) as process:
        watcher = Watcher(
            [
                *(str(process.pid), "--epoch", "50ms"),
                *("--what-if", "alpha", "--what-if", "beta", "--what-if", "*a"),
                *("--what-if", "kernel"),
            ],
            tmp_path / "why.json",
        )
        watcher.until_armed()
        let_work(process)
        found = watcher.finish()
    if found["missing"]:
        pytest.skip(str(found["missing"]))
    saved = {row["cause"]: row["saved_pages"] for row in found["what_if"]}
    assert saved["alpha"] == saved["beta"] == 50 * WORKERS
    assert saved["*a"] >= 150 * WORKERS, "both together save what they share, too"
    assert KERNEL * WORKERS <= saved["kernel"] < KERNEL * WORKERS + 8
    for row in found["what_if"]:
        assert row["saved_pages"] + row["left_pages"] == found["copied_pages"]


def test_what_if_of_a_cause_that_did_not_write_names_those_that_did(server: Path) -> None:
    run = subprocess.run(
        [*WHY, "--what-if", "nonsense", "--", "true"], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    assert "--what-if nonsense: no cause or function of that name has written" in run.stderr
    assert "glibc.relocation" in run.stderr


def test_two_kinds_of_targets_are_one_too_many(server: Path) -> None:
    run = subprocess.run([*WHY, "1", "--", "true"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "one of the two" in run.stderr


def test_every_form_has_the_copied_pages(server: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.html", "a.folded", "a.pb.gz", "snapshot")]
    for output in outputs:
        watcher = Watcher([], output, [str(server)])
        watcher.wait_for("done")
        watcher.stop()
    page, folded, profile, snapshot = outputs
    text = page.read_text()
    assert text.count("<svg") == 1
    assert "alpha" in text
    assert "default-src 'none'" in text
    lines = [line.rpartition(" ") for line in folded.read_text().splitlines()]
    alpha = sum(int(pages) for stack, _, pages in lines if ";alpha (writers);" in stack)
    assert alpha == ALPHA * WORKERS
    assert b"alpha" in gzip.decompress(profile.read_bytes())
    rows = pq.read_table(snapshot / "writes.parquet").to_pylist()
    mine = [row for row in rows if row["function"] == "alpha" and row["kind"] == WriteKind.COPY]
    assert len({(row["pid"], row["vpage"]) for row in mine}) == ALPHA * WORKERS
    assert {row["vpage"] for row in mine} == {row["address"] >> 12 for row in mine}
    taken = read(snapshot)
    held = {process.pid for process in taken.processes}
    assert {row["pid"] for row in mine} <= held
    frames = {row["frame"] for row in mine}
    assert frames <= set(taken.frames.number.tolist()), "the copies are in the snapshot"
