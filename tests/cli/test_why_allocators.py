"""Causes of allocators, made to happen: a child allocates and frees in what it shares."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.watching import Watcher, needs_events

SOURCE = Path(__file__).parent / "why_programs" / "allocate.c"


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
@pytest.mark.parametrize(("library", "cause"), [("libjemalloc.so.2", "jemalloc.malloc")])
def test_an_allocators_own_data_is_a_cause(library: str, cause: str, tmp_path: Path) -> None:
    needs_events()
    program = tmp_path / "allocate"
    subprocess.run(["gcc", "-O1", "-o", program, SOURCE], check=True)
    found = list(Path("/usr/lib").glob(f"*/{library}"))
    if not found:
        pytest.skip(f"{library} is not installed")
    command = ["env", f"LD_PRELOAD={found[0]}", str(program)]
    watcher = Watcher([], tmp_path / "why.json", command)
    watcher.wait_for("done")
    answer = watcher.finish()
    pages = {row["cause"]: row["written_pages"] for row in answer["causes"]}
    assert pages[cause] > 20, pages
