"""The command line as a whole: help, version, errors on one line."""

import pytest

from samepage.cli.main import run


def test_unknown_command_is_one_line_and_status_2(capsys):
    assert run(["frobnicate"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "frobnicate" in err


def test_a_bug_of_ours_is_one_line_too(capsys, monkeypatch):
    def broken(*_args, **_options):
        raise AssertionError("this\ncannot be")

    monkeypatch.setattr("samepage.cli.main.cli.main", broken)
    assert run([]) == 70
    err = capsys.readouterr().err
    assert err.startswith("samepage: internal error: AssertionError: this (")
    assert err.count("\n") == 1
    monkeypatch.setenv("SAMEPAGE_TRACEBACK", "1")
    with pytest.raises(AssertionError):
        run([])
