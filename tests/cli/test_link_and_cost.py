"""The two commands: exit statuses, JSON, and errors of one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from samepage.cli.main import run
from tests.linker.conftest import needs_ptrace, workshop
from tests.linker.workshop import Workshop

__all__ = ["needs_ptrace", "workshop"]

LIBZ = "/lib/x86_64-linux-gnu/libz.so.1"


def test_link_prints_objects_and_bindings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["link", "/bin/true", "--bindings", "--trail", "--pages"]) == 0
    output = capsys.readouterr().out
    assert "libc.so.6" in output
    assert "/bin/true: abort@GLIBC_2.2.5 -> " in output
    assert "/etc/ld.so.cache" in output


def test_link_json_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["link", "/bin/true", "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [os.path.basename(item["path"]) for item in document["objects"]] == [
        "true",
        "ld-linux-x86-64.so.2",
        "libc.so.6",
    ]
    assert document["constructor_order"][-1] == "/bin/true"
    binding = next(item for item in document["bindings"] if item["symbol"] == "abort")
    assert binding["provided_by"].endswith("libc.so.6")
    assert binding["why"]
    assert sum(item["relocations"].get("RELATIVE", 0) for item in document["objects"]) > 1000


def test_a_mere_name_is_a_file_here_or_a_program_in_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere:/usr/bin")
    assert run(["link", "true"]) == 0
    assert "/usr/bin/true" in capsys.readouterr().out
    (tmp_path / "true").write_text("no program")
    assert run(["link", "true"]) == 2
    assert "true: " in capsys.readouterr().err


def test_check_follows_the_environment_and_the_working_directory(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    workshop: Workshop,
    needs_ptrace: None,
) -> None:
    workshop.library("lib/liba.so", "int f(void){return 0;}")
    workshop.build("program", "int f(void); int main(){return f();}", "-Llib", "-la")
    monkeypatch.chdir(workshop.directory)
    monkeypatch.setenv("LD_LIBRARY_PATH", "lib")
    assert run(["link", "--check", "./program"]) == 0
    assert "./program, lazy binding: agrees with ld.so" in capsys.readouterr().out
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert run(["link", "--check", "program"]) == 1
    out = capsys.readouterr().out
    assert "program, LD_BIND_NOW=1: is refused by both, for the same reason" in out
    assert "ld.so: program: error while loading shared libraries: liba.so: cannot open" in out


def test_check_of_a_program_that_dies_in_ldso_ends(
    capsys: pytest.CaptureFixture[str], workshop: Workshop, needs_ptrace: None
) -> None:
    resolver = "static void *pick(void){__builtin_trap();}"
    workshop.library("liba.so", resolver + ' int f(void) __attribute__((ifunc("pick")));')
    path = workshop.program("int f(void); int (*p)(void) = f; int main(){return p();}", "-la")
    assert run(["link", "--check", path]) == 1
    out = capsys.readouterr().out
    assert "is refused by both, for the same reason" in out
    assert "ld.so: SIGILL in " in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["link", "/does/not/exist"], 127, "No such file"),
        (["link", "/etc/passwd"], 2, "not an ELF file"),
        (["cost", "/does/not/exist"], 2, "No such file"),
        (["cost", "/etc/passwd"], 2, "not an ELF file"),
        (["link", "--check", "/etc/passwd"], 2, "not an ELF file"),
        (["link", "/sys/kernel/mm"], 2, "no program or library below it"),
        (["cost", "/sys/kernel/mm"], 2, "no program or library below it"),
        (["cost", "/dev/null"], 2, "file too short"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.skipif(not os.path.exists(LIBZ), reason="no libz")
def test_cost_and_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cost", LIBZ, "--map"]) == 0
    assert "pages at load" in capsys.readouterr().out
    assert run(["cost", LIBZ, "--budget", "0"]) == 1
    assert "over the budget of 0" in capsys.readouterr().err
    assert run(["cost", LIBZ, "-f", "json", "--budget", "1000"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document[0]["pages"]["copied"] >= 1
    page_map = document[0]["page_map"]
    assert sum(page["pages"] for page in page_map) == sum(document[0]["pages"].values())


@pytest.mark.parametrize("command", ["link", "cost"])
def test_nothing_waits_for_a_fifo(command: str, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    result = subprocess.run(
        [sys.executable, "-m", "samepage", command, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (2, f"samepage: {path}: file too short\n")


def keys(document: object) -> set[str]:
    """All keys of a document, but those of relocations and rules, which are data."""
    if isinstance(document, list):
        return set().union(*map(keys, document))
    if not isinstance(document, dict):
        return set()
    found = {key for key in document if not key.isupper()}
    return found.union(*map(keys, document.values()))


def test_every_key_of_json_is_documented(
    capsys: pytest.CaptureFixture[str], needs_ptrace: None
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "linker-json.md").read_text()
    documented = {
        name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"[a-z_]+", code)
    }
    for line in ("link /bin/ls -f json", "link /bin/true --check -f json", f"cost {LIBZ} -f json"):
        assert run(line.split(" ")) == 0
        found = keys(json.loads(capsys.readouterr().out))
        assert found <= documented, found - documented
