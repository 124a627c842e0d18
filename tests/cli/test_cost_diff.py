"""`cost --diff`: two builds of a library, of wheels and of directories."""

import json
import zipfile
from pathlib import Path

import pytest

from samepage.analysis.cost import cost_of
from samepage.analysis.cost_diff import library_name
from samepage.cli.main import run
from samepage.elf.object import DynamicObject
from tests.linker.workshop import Workshop

TABLE = (
    "static const char *const names[{n}] = {{{items}}}; const char *f(int i){{return names[i];}}"
)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def library(workshop: Workshop, directory: str, count: int, name: str = "libt.so") -> str:
    items = ",".join(f'"text {number}"' for number in range(count))
    return workshop.library(f"{directory}/{name}", TABLE.format(n=count, items=items))


def test_the_table_that_grew_is_named(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = library(workshop, "old", 100), library(workshop, "new", 5000)
    grown = cost_of(DynamicObject.open(new)).copied - cost_of(DynamicObject.open(old)).copied
    assert run(["cost", "--diff", old, new, "-f", "json"]) == 0
    (change,) = json.loads(capsys.readouterr().out)
    assert change["grown"] == grown > 5
    assert change["changed_causes"][0] | {"before": 0} == {
        "kind": "RELATIVE",
        "symbol": "names",
        "holder": None,
        "before": 0,
        "after": 5000,
    }
    assert run(["cost", "--diff", old, new, "-f", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"**Each process that loads them copies {grown} pages more (1 library).**"
    assert lines[3].startswith("|---|---:|")
    assert any(line.startswith("| `libt.so` |") and f"(+{grown})" in line for line in lines)
    assert any("100 -> 5,000 words (+4,900) of RELATIVE names" in line for line in lines)
    assert run(["cost", "--diff", old, new, "--budget", "1"]) == 1
    assert run(["cost", "--diff", new, new]) == 0
    assert "as many pages" in capsys.readouterr().out


def test_wheels_are_compared_member_by_member(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels = []
    for directory, digest, others in (("a", "0a1b2c3d", ["gone"]), ("b", "44445555", ["fresh"])):
        wheel = workshop.directory / f"{directory}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            path = library(workshop, directory, 10)
            archive.write(path, f"x.libs/libt-{digest}.so.1.2.3")
            for other in others:
                archive.write(path, f"x/{other}.so")
        wheels.append(str(wheel))
    assert run(["cost", "--diff", *wheels, "-f", "json"]) == 0
    changes = {item["library"]: item for item in json.loads(capsys.readouterr().out)}
    assert set(changes) == {"libt.so", "gone.so", "fresh.so"}
    assert changes["libt.so"]["grown"] == 0
    assert changes["gone.so"]["after"] is None
    assert changes["fresh.so"]["before"] is None
    assert run(["cost", "--diff", *wheels]) == 0
    text = capsys.readouterr().out
    assert "fresh.so (new)" in text
    assert "gone.so (gone)" in text


def test_one_side_that_cannot_be_read_is_named(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    good = library(workshop, "a", 3)
    assert run(["cost", "--diff", good, "/nothing"]) == 2
    assert "/nothing" in capsys.readouterr().err
    assert run(["cost", "--diff", good]) == 2
    assert run(["cost", "-f", "markdown", good]) == 2
    capsys.readouterr()


def test_names_without_what_differs_between_builds() -> None:
    assert library_name("w.whl:numpy.libs/libgfortran-040039e1.so.5.0.0") == "libgfortran.so"
    assert library_name("/usr/lib/libz.so.1") == "libz.so"
    assert library_name("/x/_core.cpython-312-x86_64-linux-gnu.so") == (
        "_core.cpython-312-x86_64-linux-gnu.so"
    )
