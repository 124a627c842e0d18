"""Whether a library would load, and what else a library's author asks of its cost."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from samepage.analysis.cost import cost_of
from samepage.analysis.cost_loading import load_problems
from samepage.cli.main import run
from samepage.elf.object import DynamicObject
from tests.linker.workshop import Workshop

SOURCE = "int data = 3; int *p = &data; int f(void){return *p;}"


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.mark.parametrize("linker", ["bfd", "lld"])
@pytest.mark.parametrize("largest", [4096, 16384, 65536])
def test_page_sizes(workshop: Workshop, linker: str, largest: int) -> None:
    """What is linked for pages of a size loads with that, and smaller ones."""
    if not shutil.which(f"ld.{linker}"):
        pytest.skip(f"no ld.{linker}")
    library = workshop.library(
        "liba.so", SOURCE, f"-fuse-ld={linker}", f"-Wl,-z,max-page-size={largest}"
    )
    found = DynamicObject.open(library)
    for size in (4096, 16384, 65536):
        lines = [line for line in load_problems(found, size) if "cannot be loaded" in line]
        apart = any((load.vaddr - load.offset) % size for load in found.elf.loads)
        assert bool(lines) == apart
        assert not apart or size > largest
        for line in lines:
            assert f"-Wl,-z,max-page-size={size}" in line


def test_text_relocations_are_named(workshop: Workshop) -> None:
    source = (
        '__asm__(".text\\n.globl code\\ncode: movabs $data, %rax\\nret\\n'
        '.data\\ndata: .long 5\\n.text");'
    )
    library = workshop.library("liba.so", source, "-Wl,-z,notext", "-nostdlib")
    assert any(
        "compile with -fPIC" in line for line in cost_of(DynamicObject.open(library)).problems
    )


def test_packed_relocations_without_their_version(workshop: Workshop) -> None:
    table = ", ".join(["&target"] * 50)
    good = workshop.library(
        "liba.so",
        f"#include <stdlib.h>\nstatic int target; int *t[] = {{{table}}};"
        "void *a(void){return malloc(1);}",
        "-Wl,-z,pack-relative-relocs",
    )
    assert not any("DT_RELR" in line for line in load_problems(DynamicObject.open(good), 4096))
    data = Path(good).read_bytes().replace(b"GLIBC_ABI_DT_RELR", b"GLIBC_ABI_XX_RELR")
    bad = DynamicObject.from_bytes(data, "bad")
    assert any("DT_RELR without" in line for line in load_problems(bad, 4096))


def test_thread_local_bytes(workshop: Workshop) -> None:
    library = workshop.library(
        "liba.so", "__thread char a[100]; char *f(void){return a;}", "-ftls-model=initial-exec"
    )
    cost = cost_of(DynamicObject.open(library))
    assert cost.tls_bytes == 100
    assert cost.static_tls


def test_the_object_that_holds_a_pointer_is_named(workshop: Workshop) -> None:
    library = workshop.library("liba.so", "extern int away; int *table[3] = {&away, &away, &away};")
    cost = cost_of(DynamicObject.open(library))
    (cause,) = [c for page in cost.pages for c in page.causes if c.symbol == "away"]
    assert (cause.holder, cause.count) == ("table", 3)


def test_wheels_and_archives(
    capsys: pytest.CaptureFixture[str], workshop: Workshop, tmp_path: Path
) -> None:
    library = workshop.library("liba.so", SOURCE)
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(library, "a/liba.so")
        archive.writestr("a/__init__.py", "")
    assert run(["cost", "-f", "json", str(wheel), library]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["path"] == f"{wheel}:a/liba.so"
    assert first["pages"] == second["pages"]
    static = tmp_path / "liba.a"
    subprocess.run(["ar", "rc", static, library], check=True)
    assert run(["cost", str(static)]) == 2
    assert "an archive for static linking" in capsys.readouterr().err


def test_directories_come_largest_first(
    capsys: pytest.CaptureFixture[str], workshop: Workshop, tmp_path: Path
) -> None:
    workshop.library("many/libsmall.so", "int a(void){return 1;}", "-nostdlib")
    table = ", ".join(["&target"] * 5000)
    workshop.library("many/libwide.so", f"static int target; int *t[] = {{{table}}};")
    assert run(["cost", "-f", "json", str(tmp_path / "many")]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert [Path(item["path"]).name for item in costs] == ["libwide.so", "libsmall.so"]
