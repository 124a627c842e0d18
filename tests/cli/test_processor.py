"""Commands that need the model's processor say so in one line elsewhere."""

import os

import pytest

from samepage.cli import demo, verify
from samepage.cli.processor import need_models_processor
from samepage.errors import SamepageError

FIELDS = ("Linux", "host", "6.1.0", "#1", "aarch64")


def test_another_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(FIELDS))
    calls = {
        "verify": lambda: verify.command(
            ["true"], None, None, 1, None, None, "exit", False, 1.0, 1, 1, False, []
        ),
        "demo": lambda: demo.command(None, None, True),
    }
    for name, call in calls.items():
        with pytest.raises(SamepageError, match=rf"^{name} compares .* this one is aarch64"):
            call()


def test_the_models_own_processor_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*FIELDS[:4], "x86_64")))
    need_models_processor("verify")
