"""`samepage run` as a user calls it: streams, reports, exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from samepage.report.json import schema

COMMAND = [sys.executable, "-m", "samepage", "run"]


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([*COMMAND, *words], text=True, check=False, timeout=60, **settings)  # type: ignore[call-overload,no-any-return]


def test_output_goes_to_stdout_and_the_report_to_stderr() -> None:
    done = run("echo", "hello", ":::", "uname", "-s")
    assert done.stdout == "hello\nLinux\n"
    assert "2 processes" in done.stderr
    assert "Sharing saves" in done.stderr
    assert done.returncode == 0


def test_the_exit_status_is_the_last_programs() -> None:
    assert run("-q", "true", ":::", "sh", "-c", "exit 7").returncode == 7
    assert run("-q", "sh", "-c", "exit 7", ":::", "true").returncode == 0
    assert run("-q", "sh", "-c", "kill -9 $$").returncode == 137


def test_a_program_killed_by_a_signal_has_the_shells_status() -> None:
    done = run("-q", "sh", "-c", "kill -SEGV $$")
    assert done.returncode == 139
    assert done.stderr == ""


def test_stdout_may_be_dev_null_as_stdin_is(tmp_path: Path) -> None:
    with open(os.devnull, "w") as null:
        done = run("-q", "echo", "x", stdout=null, stderr=subprocess.PIPE, capture_output=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_stdin_is_read_by_the_program() -> None:
    done = run("-q", "tr", "a-z", "A-Z", stdin=None, input="some text\n")
    assert done.stdout == "SOME TEXT\n"


def test_json_report_obeys_the_schema_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for path in (first, second):
        assert run("-o", str(path), "true", ":::", "uname").returncode == 0
    assert first.read_bytes() == second.read_bytes()
    report = json.loads(first.read_text())
    jsonschema.validate(report, schema())
    assert [p["argv"] for p in report["processes"]] == [["true"], ["uname"]]
    libc = next(f for f in report["files"] if f["path"].endswith("/libc.so.6"))
    assert libc["inode"] == os.stat(libc["path"]).st_ino
    assert len(libc["mapped_by"]) == 2


@pytest.mark.parametrize("suffix", [".html", ".txt"])
def test_other_forms_are_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"report{suffix}"
    assert run("-o", str(path), "true").returncode == 0
    assert "libc.so.6" in path.read_text()


def test_a_snapshot_directory_can_be_printed_again(tmp_path: Path) -> None:
    assert run("-o", f"{tmp_path}/snap/", "true").returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "samepage", "report", f"{tmp_path}/snap"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "libc.so.6" in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["no-such-program"], 127, "no-such-program: command not found"),
        (["/no/such/program"], 127, "No such file or directory"),
        (["/etc"], 126, "/etc"),
        (["/etc/passwd"], 126, "/etc/passwd"),
        (["true", ":::"], 2, ":::"),
        (["--ram", "5x", "true"], 2, "5x"),
        (["--ram", "64K", "true"], 2, "too small"),
        (["--root", "/no/such", "true"], 2, "/no/such as the root: ENOENT"),
        (["--cwd", "/no/such", "true"], 2, "/no/such"),
        (["--env", "novalue", "true"], 2, "NAME=VALUE"),
        (["-o", "/no/such/dir/x.json", "true"], 2, "/no/such/dir"),
        (["--timeout", "0.3", "sh", "-c", "while :; do :; done"], 124, "time limit"),
        (["--max-instructions", "1000", "true"], 124, "1,000 instructions"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], status: int, text: str) -> None:
    done = run(*words)
    assert done.returncode == status
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_environment_and_directory_are_as_asked(tmp_path: Path) -> None:
    done = run("-q", "--clear-env", "--env", "A=b", "--cwd", str(tmp_path), "/usr/bin/env")
    assert done.stdout == "A=b\n"
    done = run("-q", "--cwd", str(tmp_path), "pwd")
    assert done.stdout == f"{tmp_path}\n"


@pytest.mark.parametrize("options", [[], ["--loader", "builtin"]])
def test_programs_get_the_users_environment_and_nothing_else(options: list[str]) -> None:
    natively = subprocess.run(["/usr/bin/env"], capture_output=True, check=True, text=True)
    done = run(*options, "/usr/bin/env", ":::", "/usr/bin/env")
    assert done.stdout == 2 * natively.stdout


def test_a_removed_directory_is_none_of_the_programs(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    leave = 'rmdir "$PWD" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", leave, "sh", *COMMAND, "-q", "pwd"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.stdout, done.stderr, done.returncode) == ("/\n", "", 0)


def test_stop_at_entry_and_main_is_before_the_program_prints() -> None:
    for stop in ("entry", "main"):
        done = run("--stop", stop, "echo", "hello")
        assert done.stdout == ""
        assert "libc.so.6" in done.stderr
        assert done.returncode == 0


def test_timeline_lists_events_in_their_order() -> None:
    lines = run("-f", "timeline", "true").stderr.splitlines()
    assert "event" in lines[0]
    assert any("copy-on-write" in line and "libc.so.6" in line for line in lines)
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(len(lines) - 1))


def test_changed_files_are_gone_unless_exported(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    script = f"echo new >{tmp_path}/kept; echo more >{tmp_path}/made"
    layer = tmp_path.parent / f"{tmp_path.name}-layer"
    assert run("-q", "--export", str(layer), "sh", "-c", script).returncode == 0
    assert (tmp_path / "kept").read_text() == "old"
    assert not (tmp_path / "made").exists()
    exported = layer / tmp_path.relative_to("/")
    assert (exported / "kept").read_text() == "new\n"
    assert (exported / "made").read_text() == "more\n"
    again = run("-q", "--export", str(layer), "true")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("options", [[], ["--lazy"]])
def test_our_linker_can_take_ldsos_place(options: list[str]) -> None:
    done = run("-q", "--loader", "builtin", *options, "echo", "linked")
    if "its variables are known" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stdout, done.stderr) == (0, "linked\n", "")


def test_the_loader_is_one_of_two() -> None:
    done = run("--loader", "none", "true")
    assert done.returncode == 2
    assert "'ldso', 'builtin'" in done.stderr
