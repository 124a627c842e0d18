"""Random graphs of libraries, with the real loader as the oracle (`fuzz.graphs` has the essay)."""

import shutil
from pathlib import Path

import pytest

from fuzz.graphs import Bench, differences
from tests.machine.loader.test_glibc import pytestmark as _known


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    if not shutil.which("gcc") or not shutil.which("ld"):
        pytest.skip("no C compiler")
    return Bench(tmp_path_factory.mktemp("bench"))


pytestmark = _known


@pytest.mark.parametrize("seed", [0, 5, 10, 12, 16, 19, 20, 29])
def test_constructors_and_destructors_are_in_the_order_of_ldso(
    bench: Bench, tmp_path: Path, seed: int
) -> None:
    """With cycles, equal sonames, second names, DF_1_INITFIRST, and dlopen and dlclose."""
    assert differences(bench, seed, tmp_path / "graph") == []
