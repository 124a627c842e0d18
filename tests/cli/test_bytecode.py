"""One file of bytecode: used while it is true, ignored and replaced when it is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import samepage

TELL = """
import sys
from samepage.cli import main, bytecode
from samepage import errors
modules = [m for name, m in sys.modules.items() if name.startswith("samepage.")]
print(*sorted(m.__name__ for m in modules if type(m.__loader__) is bytecode._Loader))
print(errors.__file__, len(main.COMMANDS), getattr(errors, "ADDED", None))
bytecode.save()
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    source = Path(samepage.__file__).parent
    shutil.copytree(source, tmp_path / "samepage", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "samepage"


def start(package: Path, **env: str) -> tuple[set[str], str]:
    """Import the command line in a new process: which modules came from the file, and more."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", TELL],
        cwd=package.parent,  # where -c looks first
        env=environment | env,
        capture_output=True,
        text=True,
        check=True,
    )
    modules, rest = result.stdout.splitlines()
    return set(modules.split()), rest


def bytecode_file(package: Path) -> Path:
    return package / "__pycache__" / f"samepage.{sys.implementation.cache_tag}.bytecode"


def test_the_second_start_reads_all_from_the_file(package: Path) -> None:
    first, rest = start(package)
    assert first == set()
    second, same = start(package)
    assert {"samepage.cli.main", "samepage.cli.arguments"} <= second
    assert same == rest == f"{package}/errors.py 9 None"


def test_a_changed_source_counts(package: Path) -> None:
    start(package)
    with open(package / "errors.py", "a") as file:
        file.write("\nADDED = 1\n")
    (package / "cli" / "arguments.py").touch()
    modules, rest = start(package)
    assert modules == {"samepage.cli.main"}
    assert rest.endswith(" 1")
    assert "samepage.cli.arguments" in start(package)[0]


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x08" + bytes(20), b"\3\0\0\0\0\0\0\0abc"])
def test_a_file_that_cannot_be_read_is_replaced(package: Path, content: bytes) -> None:
    start(package)
    bytecode_file(package).write_bytes(content)
    assert start(package)[0] == set()
    assert "samepage.cli.main" in start(package)[0]


def test_a_file_that_was_cut_is_replaced(package: Path) -> None:
    start(package)
    size = bytecode_file(package).stat().st_size
    os.truncate(bytecode_file(package), size - 1)
    assert len(start(package)[0]) == len(start(package)[0]) - 1


def test_another_python_writes_its_own(package: Path) -> None:
    start(package)
    assert start(package, PYTHONOPTIMIZE="2")[0] == set()
    assert "samepage.cli.main" in start(package, PYTHONOPTIMIZE="2")[0]


def test_closed_standard_streams_stay_closed(package: Path) -> None:
    start(package)
    command = f"{sys.executable} -c 'import samepage.cli, os; os.fstat(0)' <&- 2>&1"
    result = subprocess.run(
        command, shell=True, cwd=package.parent, capture_output=True, text=True, check=False
    )
    assert "Bad file descriptor" in result.stdout


def test_nothing_is_written_where_python_must_not(package: Path) -> None:
    start(package, PYTHONDONTWRITEBYTECODE="1")
    assert not bytecode_file(package).exists()


def test_what_cannot_be_written_leaves_nothing_behind(package: Path) -> None:
    bytecode_file(package).mkdir(parents=True)
    assert start(package)[0] == set()
    assert [path.name for path in (package / "__pycache__").glob("samepage.*")] == [
        bytecode_file(package).name
    ]
