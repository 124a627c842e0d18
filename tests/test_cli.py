"""The command line as a whole: help, version, errors on one line."""

import os
import subprocess
import sys

import pytest

from samepage.cli.main import COMMANDS, run


def test_unknown_command_is_one_line_and_status_2(capsys):
    assert run(["frobnicate"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "frobnicate" in err


def test_a_bug_of_ours_is_one_line_too(capsys, monkeypatch):
    def broken(*_args, **_options):
        raise AssertionError("this\ncannot be")

    monkeypatch.setattr("samepage.cli.main._dispatch", broken)
    assert run([]) == 70
    err = capsys.readouterr().err
    assert err.startswith("samepage: internal error: AssertionError: this (")
    assert err.count("\n") == 1
    monkeypatch.setenv("SAMEPAGE_TRACEBACK", "1")
    with pytest.raises(AssertionError):
        run([])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run", "PROGRAM"),
        ("run --nosuch true", "--nosuch"),
        ("run --timeout 0 true", "'0' is not a number above 0"),
        ("verify --jobs 65 true", "'65' is not a whole number from 1 to 64"),
        ("live --top -1", "'-1' is not a whole number from 0"),
        ("diff only-one", "AFTER"),
        ("report somewhere --format pdf", "'pdf'"),
        ("rnu true", "did you mean run?"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(line, message, capsys):
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("samepage: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_text(name, capsys):
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: samepage {name}")
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_cannot_be_written_is_an_error(unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "samepage", "--help"],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "samepage: cannot write the output: No space left on device\n"


CLOSED = "samepage: cannot write the output: Bad file descriptor\n"


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ("link -f json /bin/true >&-", 2, "", CLOSED),
        ("--help >&-", 2, "", CLOSED),
        ("run true 2>&-", 2, "", ""),
        ("run -q echo hi 2>&-", 0, "hi\n", ""),
        ("run -q echo hi >&-", 1, "", "echo: write error: Bad file descriptor\n"),
        ("run -q cat <&-", 1, "", "cat: -: Bad file descriptor\n"),
        ("nosuch 2>/dev/full", 2, "", ""),
    ],
)
def test_a_closed_stream_is_an_error_of_who_uses_it(line, status, out, err):
    command = f'exec "$0" -m samepage {line}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.startswith(err) if err else not done.stderr


def test_no_command_shows_the_help_and_fails(capsys):
    assert run([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_what_follows_the_program_is_the_programs(capfd):
    assert run(["run", "--quiet", "--", "echo", "--quiet", "--", "x"]) == 0
    assert capfd.readouterr().out == "--quiet -- x\n"


def test_options_may_follow_and_part_arguments(capsys):
    library = "/lib/x86_64-linux-gnu/libc.so.6"
    assert run(["cost", library, "--top", "1", library, "-f", "json"]) == 0
    assert capsys.readouterr().out.count('"path"') == 2


def test_help_lists_the_exit_statuses(capsys):
    assert run(["--help"]) == 0
    assert "Exit status: 0; 1 if" in capsys.readouterr().out
    assert run(["run", "--help"]) == 0
    assert "127 if one does not exist" in " ".join(capsys.readouterr().out.split())
