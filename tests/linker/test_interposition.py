"""Symbols that bind to a surprising object, and rules of the search that lead nowhere."""

import subprocess

import pytest

from samepage.cli.main import run
from samepage.linker.image import ImageMemory
from samepage.linker.interposition import interpositions
from samepage.linker.link import Linker, LinkResult
from samepage.linker.search import LinkerConfig
from samepage.records import replace
from tests.linker.workshop import Workshop


def link(path: str, **options: object) -> LinkResult:
    config = replace(LinkerConfig(), **options)  # type: ignore[arg-type]
    return Linker(ImageMemory(), config, keep_going=True).link(path)


def found(result: LinkResult) -> set[tuple[str, str, str]]:
    assert result.bindings is not None
    return {
        (item.user.requested, item.definer.requested, symbol)
        for item in interpositions(result.bindings)
        for symbol in item.symbols
    }


def test_two_libraries_that_export_one_name(workshop: Workshop) -> None:
    source = "int id(void){{return {n};}} int {name}(void){{return id();}}"
    workshop.library("liba.so", source.format(n=1, name="a"))
    workshop.library("libb.so", source.format(n=2, name="b"))
    path = workshop.program("int a(void), b(void); int main(){return a() + b();}", "-la", "-lb")
    assert found(link(path)) == {("libb.so", "liba.so", "id")}
    debug = subprocess.run(
        [path], env={"LD_DEBUG": "bindings"}, capture_output=True, text=True, check=False
    ).stderr
    assert "libb.so [0] to " + str(workshop.directory / "liba.so") in debug.replace("\t", " ")
    assert found(link(path, preload=str(workshop.directory / "libb.so"))) == {
        ("liba.so", str(workshop.directory / "libb.so"), "id")
    }


def test_copies_and_addresses_of_functions_are_as_they_should_be(workshop: Workshop) -> None:
    workshop.library("liba.so", "int v = 1; int f(void){return v;} int (*p(void))(void){return f;}")
    source = "extern int v; int f(void), (*p(void))(void); int main(){return p() == f ? v : 2;}"
    assert found(link(workshop.program(source, "-la", "-no-pie", "-fno-pic"))) == set()


def test_the_text_marks_interposition_and_explains_why_a_rule_was_passed_over(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "int id(void){{return {n};}} int {name}(void){{return id();}}"
    workshop.library("liba.so", source.format(n=1, name="a"))
    workshop.library(
        "libb.so",
        "int a(void); " + source.format(n=2, name="b"),
        "-L.",
        "-Wl,--no-as-needed",
        "-la",
        "-Wl,-rpath,$ORIGIN,--enable-new-dtags",
    )
    rpath = ["-Wl,--disable-new-dtags", "-Wl,--allow-shlib-undefined"]
    path = workshop.program("int b(void); int main(){return b();}", "-lb", *rpath)
    preload = str(workshop.directory / "liba.so")
    assert run(["link", "--trail", path]) == 0
    out = capsys.readouterr().out
    reason = f"not used, since {workshop.directory / 'libb.so'} has a RUNPATH"
    assert f"(RPATH of {path}): {reason}" in out
    assert "(/etc/ld.so.cache): has no entry for it" not in out  # it was not asked
    assert run(["link", path, "--env", f"LD_PRELOAD={preload}"]) == 0
    out = capsys.readouterr().out
    assert f"interposed: {workshop.directory / 'libb.so'}: 1 symbol of its own bound to" in out


def test_a_library_of_another_machine_is_named(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workshop.library("liba.so", "int a(void){return 1;}")
    program = workshop.program("int a(void); int main(){return a();}", "-la")
    with open(path, "r+b") as file:
        file.seek(18)
        file.write((183).to_bytes(2, "little"))
    run(["link", "--trail", program])
    assert "passed over: 64 bits of aarch64, the program is x86-64" in capsys.readouterr().out
