"""The command line as a whole: help, version, errors on one line."""

from samepage.cli.main import run


def test_unknown_command_is_one_line_and_status_2(capsys):
    assert run(["frobnicate"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "frobnicate" in err
