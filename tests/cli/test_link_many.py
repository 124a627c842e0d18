"""`link` of several files: trees, what is missing, what is not used, compared with ldd."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from samepage.analysis.cost import cost_of
from samepage.cli.main import run
from samepage.elf.object import DynamicObject
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker
from samepage.linker.search import LinkerConfig
from tests.linker.workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def program(workshop: Workshop) -> str:
    workshop.library("libdeep.so", "int deep(void){return 1;}")
    workshop.library(
        "libmid.so",
        "int deep(void); int mid(void){return deep();}",
        "-L.",
        "-ldeep",
        "-Wl,-rpath,$ORIGIN",
    )
    workshop.library("libidle.so", "int idle(void){return 1;}")
    return workshop.program("int mid(void); int main(){return mid();}", "-lmid", "-lidle", "-lm")


def paths(node: dict[str, object]) -> list[str]:
    loads = node["loads"]
    assert isinstance(loads, list)
    return [str(node["path"]), *(path for item in loads for path in paths(item))]


def test_a_tree_has_each_object_once(
    capsys: pytest.CaptureFixture[str], workshop: Workshop
) -> None:
    path = program(workshop)
    assert run(["link", "--tree", "-f", "json", path]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    theirs = set(re.findall(r"(/\S+) \(0x", listed))
    found = paths(document["tree"])
    assert len(found) == len(set(found))
    assert {Path(name).resolve() for name in found[1:]} == {Path(name).resolve() for name in theirs}
    for node in document["tree"]["loads"]:
        expected = cost_of(DynamicObject.open(node["path"])).copied
        assert node["copied_pages"] == expected
        assert node["bytes"] == Path(node["path"]).stat().st_size
    assert run(["link", "--tree", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    deep = next(line for line in lines if "libdeep" in line)
    mid = next(line for line in lines if "libmid" in line)
    assert deep.index("--") > mid.index("--")
    assert "RUNPATH of" in mid


def test_unused_libraries_are_those_of_ldd(
    capsys: pytest.CaptureFixture[str], workshop: Workshop
) -> None:
    path = program(workshop)
    assert run(["link", "--unused", path]) == 1
    ours = re.findall(r"^\s+(/\S+)", capsys.readouterr().out, re.MULTILINE)
    listed = subprocess.run(["ldd", "-u", path], capture_output=True, text=True, check=False)
    theirs = re.findall(r"^\s+(/\S+)", listed.stdout, re.MULTILINE)
    assert ours == theirs
    assert len(ours) == 2


def test_missing_is_that_of_ldd_r(capsys: pytest.CaptureFixture[str], workshop: Workshop) -> None:
    path = program(workshop)
    assert run(["link", "--missing", path]) == 0
    assert capsys.readouterr().out == ""
    workshop.library(
        "libmid.so",
        "int other(void){return 1;}",
        "-L.",
        "-Wl,--no-as-needed",
        "-ldeep",
        "-Wl,-rpath,$ORIGIN",
    )
    (workshop.directory / "libdeep.so").unlink()
    listed = subprocess.run(["ldd", "-r", path], capture_output=True, text=True, check=False)
    assert "libdeep.so => not found" in listed.stdout
    assert "undefined symbol: mid" in listed.stdout + listed.stderr
    assert run(["link", "--missing", path, "/bin/true"]) == 1
    out = capsys.readouterr().out
    assert "libdeep.so: cannot open" in out
    assert "mid" in out
    assert "/bin/true" not in out


def test_functions_that_lazy_binding_will_not_find(
    capsys: pytest.CaptureFixture[str], workshop: Workshop
) -> None:
    library = workshop.library(
        "liba.so", "int nobody(void); int a(void){return nobody();}", "-Wl,-z,lazy"
    )
    assert run(["link", library]) == 0
    assert f"{library}: undefined when it is called first: nobody" in capsys.readouterr().out
    assert run(["link", "--now", library]) == 1


def test_a_directory_is_all_that_is_below(
    capsys: pytest.CaptureFixture[str], workshop: Workshop
) -> None:
    program(workshop)
    (workshop.directory / "text").write_text("no ELF file")
    assert run(["link", str(workshop.directory), "-f", "json"]) == 0
    files = [Path(item["file"]).name for item in json.loads(capsys.readouterr().out)]
    assert files == ["libdeep.so", "libidle.so", "libmid.so", "program"]


def test_a_bad_file_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str], workshop: Workshop
) -> None:
    bad = workshop.directory / "script.so"
    bad.write_text("INPUT(libc.so.6)")
    for command in (["link", "--tree"], ["cost"]):
        assert run([*command, str(bad), "/bin/true"]) == 2
        captured = capsys.readouterr()
        assert "/bin/true" in captured.out
        assert f"{bad}: not an ELF file" in captured.err


@pytest.mark.parametrize("libraries", ["", ":."])
def test_the_trail_is_that_of_ldso(workshop: Workshop, libraries: str) -> None:
    """Each file that LD_DEBUG=libs names, in order, even those that it tries twice."""
    path = program(workshop)
    environment = {"LD_LIBRARY_PATH": f"{workshop.directory}/none:/tmp{libraries}"}
    real = subprocess.run(
        [path], env={**environment, "LD_DEBUG": "libs"}, capture_output=True, text=True, check=False
    )
    theirs = re.findall(r"trying file=(\S+)", real.stderr)
    linker = Linker(ImageMemory(), LinkerConfig.from_environment(environment))
    assert [attempt.path for attempt in linker.load(path).trail] == theirs
