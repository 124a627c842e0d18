"""Commands that need the model's processor fail with one line elsewhere."""

import os

import pytest

from samepage.cli.main import run
from samepage.cli.processor import need_models_processor

FIELDS = ("Linux", "host", "6.1.0", "#1", "aarch64")


@pytest.mark.parametrize("argv", [["verify", "true"], ["demo"]], ids=lambda argv: argv[0])
def test_another_processor_is_named(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(FIELDS))
    assert run(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"samepage: {argv[0]} compares ")
    assert "this one is aarch64" in error
    assert error.count("\n") == 1


def test_the_models_own_processor_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*FIELDS[:4], "x86_64")))
    need_models_processor("verify")
