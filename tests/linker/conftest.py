"""Small libraries and programs, compiled per test, and the real ld.so to compare with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage.errors import SamepageError
from samepage.verify.linking import Comparison, compare
from tests.linker.workshop import Workshop


@pytest.fixture(scope="session")
def needs_ptrace() -> None:
    """Skip where processes cannot be traced (a container without CAP_SYS_PTRACE)."""
    try:
        compare("/bin/true", bind_now=True)
    except SamepageError as error:
        if "trace" in error.message:
            pytest.skip(error.message)
        raise


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    return Workshop(tmp_path)


@pytest.fixture
def agree(needs_ptrace: None) -> Callable[..., Comparison]:
    """Compare with the real ld.so in both modes; returns the BIND_NOW comparison."""

    def check(path: str, **environment: str) -> Comparison:
        results = [
            compare(path, {"PATH": "/usr/bin", **environment}, bind_now=now)
            for now in (True, False)
        ]
        for result in results:
            assert result.order_differences == []
            assert result.binding_differences == []
            assert result.unexplained == []
        return results[0]

    return check
