"""`samepage report` and `samepage diff`, as a user meets them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from samepage.cli.main import run
from samepage.snapshot import parquet
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Process, Snapshot
from tests.analysis.sample import sample

PROGRAM = [sys.executable, "-c", "from samepage.cli.main import main; main()"]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("saved") / "snapshot"
    parquet.write(sample(), directory)
    return str(directory)


def test_report_prints_the_answer(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", saved]) == 0
    assert capsys.readouterr().out.startswith("3 processes with 112 KiB")


def test_report_of_one_file(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", saved, "--file", "lib/libc.so.6"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "/lib/libc.so.6 (inode 100, 6 pages)",
        "  mapped, by times:      1: 3, 2: 2",
        "  copied, by processes:  1: 1 (page 5); 2: 1 (page 4)",
        "  pid: mapped + copied:  1: 4+1, 2: 3+2",
        "/layer/lib/libc.so.6 (inode 900, 6 pages)",
        "  mapped, by times:      1: 2",
        "  copied, by processes:  none",
        "  pid: mapped + copied:  3: 2",
    ]
    assert run(["report", saved, "--file", "ibc.so.6"]) == 2
    assert "path ends in /ibc.so.6" in capsys.readouterr().err
    assert run(["report", saved, "--file", "libc.so.6", "--format", "json"]) == 2


@pytest.mark.parametrize(
    ("option", "start"),
    [
        ("--format=json", "{"),
        ("--format=html", "<!DOCTYPE"),
        ("-f timeline", " order"),
        ("-f prometheus", "# HELP samepage_processes"),
    ],
)
def test_report_prints_every_form(
    saved: str, option: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", saved, *option.split()]) == 0
    assert capsys.readouterr().out.startswith(start)


def test_report_writes_a_file(saved: str, tmp_path: pathlib.Path) -> None:
    assert run(["report", saved, "-o", str(tmp_path / "x.json"), "--scope", "system"]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["scope"] == "system"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "/no/such"], "samepage: /no/such: no such snapshot\n"),
        (["report", "/"], "samepage: /: not a snapshot (no meta.parquet)\n"),
        (["report", "/etc/passwd"], "samepage: /etc/passwd: not a snapshot (a snapshot is a"),
        (["diff", "/", "/"], "samepage: /: not a snapshot (no meta.parquet)\n"),
        (
            ["report", "/", "-f", "snapshot"],
            "samepage: a snapshot is a directory: name one with -o",
        ),
        (
            ["report", "/", "-f", "top", "-o", "x"],
            "samepage: top is for the terminal: leave out -o",
        ),
        (
            ["diff", "/", "/", "-o", "x.html"],
            "samepage: unknown format of x.html: use .txt",
        ),
    ],
)
def test_a_path_without_a_snapshot_is_a_one_line_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_diff_exit_code_shows_differences(
    saved: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet.write(Snapshot.empty(), tmp_path / "empty")
    assert run(["diff", saved, saved, "--exit-code"]) == 0
    assert run(["diff", saved, str(tmp_path / "empty")]) == 0
    assert run(["diff", saved, str(tmp_path / "empty"), "--exit-code", "-f", "json"]) == 1
    assert run(["diff", saved, saved, "-o", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["equal"] is True
    assert "3 lost" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_a_closed_pipe_ends_it_without_a_word(saved: str, form: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "report", saved, "-f", form], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_a_narrow_terminal_is_kept_to(saved: str) -> None:
    environment = {**os.environ, "COLUMNS": "40"}
    done = subprocess.run(
        [*PROGRAM, "report", saved], capture_output=True, cwd=ROOT, env=environment, text=True
    )
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 40


@pytest.mark.parametrize(
    ("form", "shown"), [("text", "/lib/gr\\xf6\\u6f22.so"), ("json", "/lib/grö漢.so")]
)
def test_an_encoding_that_lacks_a_name_is_no_error(
    form: str, shown: str, tmp_path: pathlib.Path
) -> None:
    builder = SnapshotBuilder("model")
    builder.add_process(Process(1, argv=("a",)))
    builder.add_vma(1, 0x1000, 0x2000, "r--p", 0, builder.add_file(1, 2, "/lib/grö漢.so"), "")
    builder.add_pages(1, [1], [9], [5])
    builder.add_frames([9], [1], [0], [0], [1], [0])
    parquet.write(builder.build(), tmp_path / "snapshot")
    done = subprocess.run(
        [*PROGRAM, "report", tmp_path / "snapshot", "-f", form],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown in done.stdout.decode()
