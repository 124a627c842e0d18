"""musl's rules for `link`, against what musl's own loader lists and refuses."""

import os
import re
import shutil
import subprocess

import pytest

from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker, LinkResult
from samepage.linker.search import LinkerConfig
from tests.linker.workshop import Workshop

LOADER = "/lib/ld-musl-x86_64.so.1"


@pytest.fixture
def musl(workshop: Workshop) -> Workshop:
    if not shutil.which("musl-gcc") or not os.path.exists(LOADER):
        pytest.skip("no musl")
    return workshop


def build(musl: Workshop, output: str, source: str, *flags: str) -> str:
    path = musl.directory / output
    path.parent.mkdir(exist_ok=True)
    (musl.directory / "source.c").write_text(source)
    command = ["musl-gcc", "-w", "-o", str(path), str(musl.directory / "source.c"), *flags]
    subprocess.run(command, check=True, cwd=musl.directory)
    return str(path)


def link(path: str, **environment: str) -> LinkResult:
    config = LinkerConfig.from_environment(environment)
    return Linker(ImageMemory(), config, keep_going=True).link(path)


def listed(path: str, **environment: str) -> tuple[list[str], str]:
    """The paths that musl's ldd lists, and what it writes to stderr."""
    real = subprocess.run(
        [LOADER, "--list", path], env=environment, capture_output=True, text=True, check=False
    )
    return re.findall(r"=> (\S+) \(", real.stdout), real.stderr


def libraries(musl: Workshop) -> str:
    build(musl, "two/libdeep.so", "int deep(void){return 1;}", "-shared", "-fPIC")
    build(musl, "one/libdeep.so", "int deep(void){return 2;}", "-shared", "-fPIC")
    build(
        musl,
        "libmid.so",
        "int deep(void); int mid(void){return deep();}",
        "-shared",
        "-fPIC",
        "-Ltwo",
        "-ldeep",
    )
    return build(
        musl,
        "program",
        "int mid(void); int main(){return mid();}",
        "-L.",
        "-lmid",
        "-Wl,--disable-new-dtags,-rpath,$ORIGIN:$ORIGIN/two",
        "-Wl,-rpath-link,two",
    )


def test_the_search_of_musl(musl: Workshop) -> None:
    path = libraries(musl)
    for environment in ({}, {"LD_LIBRARY_PATH": f"{musl.directory}/one"}):
        theirs, errors = listed(path, **environment)
        result = link(path, **environment)
        assert not errors
        assert result.errors == []
        names = [os.path.realpath(item.name) for item in result.maps[1:]]
        assert sorted(set(names)) == sorted({os.path.realpath(name) for name in theirs})


def test_run_paths_are_inherited(musl: Workshop) -> None:
    """Even DT_RUNPATH, which glibc keeps to the object that has it."""
    libraries(musl)
    path = build(
        musl,
        "new",
        "int mid(void); int main(){return mid();}",
        "-L.",
        "-lmid",
        "-Wl,--enable-new-dtags,-rpath,$ORIGIN:$ORIGIN/two",
        "-Wl,-rpath-link,two",
    )
    assert not listed(path)[1]
    assert link(path).errors == []


def test_missing_libraries_and_symbols(musl: Workshop) -> None:
    path = libraries(musl)
    os.remove(musl.directory / "two/libdeep.so")
    assert "Error loading shared library libdeep.so" in listed(path)[1]
    assert any("libdeep.so: cannot open" in error for error in link(path).errors)
    build(musl, "two/libdeep.so", "int other(void){return 1;}", "-shared", "-fPIC")
    assert "deep: symbol not found" in listed(path)[1]
    # All is bound at once, whatever the program asks for.
    assert any("undefined symbol: deep" in error for error in link(path).errors)


def test_versions_do_not_count(musl: Workshop) -> None:
    script = musl.directory / "versions"
    script.write_text("V1 { global: *; };")
    flags = ("-shared", "-fPIC", f"-Wl,--version-script={script}")
    build(musl, "libv.so", "int f(void){return 0;}", *flags)
    path = build(
        musl,
        "versioned",
        "int f(void); int main(){return f();}",
        "-L.",
        "-lv",
        "-Wl,-rpath,$ORIGIN",
    )
    script.write_text("V2 { global: *; };")
    build(musl, "libv.so", "int f(void){return 0;}", *flags)
    assert subprocess.run([path], check=False).returncode == 0
    assert link(path).errors == []
