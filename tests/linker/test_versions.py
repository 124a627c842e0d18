"""Missing versions and libraries without them: what ld.so prints, and where it ends."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage.linker.errors import LinkError
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker
from samepage.linker.search import LinkerConfig
from tests.linker.test_load_order import load
from tests.linker.workshop import Workshop

Agree = Callable[..., object]


def test_a_missing_version_is_reported_as_by_ldso(workshop: Workshop) -> None:
    script = workshop.directory / "versions"
    script.write_text("V1 { global: f; }; V2 { global: g; } V1;")
    source = "int f(void){return 1;} int g(void){return 2;}"
    workshop.library("liba.so", source, f"-Wl,--version-script={script}")
    path = workshop.program("int g(void); int main(){return g();}", "-la")
    script.write_text("V1 { global: f; };")
    workshop.library("liba.so", source, f"-Wl,--version-script={script}")
    with pytest.raises(LinkError, match=r"version `V2' not found \(required by .*program\)"):
        load(path)


def test_version_warnings_are_returned_with_the_link(workshop: Workshop, agree: Agree) -> None:
    """ld.so prints it on stderr. The library has to have versions of others, at least."""
    script = workshop.directory / "versions"
    script.write_text("V1 { global: f; };")
    source = '#include <stdio.h>\nint f(void){return puts("");}'
    workshop.library("liba.so", source, f"-Wl,--version-script={script}")
    path = workshop.program("int f(void); int main(){return f();}", "-la")
    library = workshop.library("liba.so", source)
    agree(path)
    real = subprocess.run([path], capture_output=True, text=True, check=False)
    result = Linker(ImageMemory(), LinkerConfig()).link(path)
    assert result.warnings == [f"{library}: no version information available (required by {path})"]
    assert real.stderr.splitlines() == [f"{path}: {warning}" for warning in result.warnings]


def test_a_library_that_lost_its_versions_ends_the_link(workshop: Workshop) -> None:
    """ld.so's assertion, at load or at the first call; not if another library is bound to."""
    script = workshop.directory / "versions"
    script.write_text("V1 { global: f; };")
    workshop.library("liba.so", "int f(void){return 0;}", f"-Wl,--version-script={script}")
    path = workshop.program("int f(void); int main(){return f();}", "-la", "-Wl,-z,lazy")
    library = workshop.library("liba.so", "int f(void){return 0;}")
    other = workshop.library("libother.so", "int f(void){return 0;}")
    for preload, fails in (("", True), (other, False)):
        environment = {"LD_BIND_NOW": "1", "LD_PRELOAD": preload}
        real = subprocess.run([path], env=environment, capture_output=True, text=True, check=False)
        assert ("check_match: Assertion" in real.stderr) is fails
        assert real.returncode == (127 if fails else 0)
        config = LinkerConfig.from_environment(environment)
        errors = Linker(ImageMemory(), config, keep_going=True).link(path).errors
        assert errors == fails * [
            f"{path}: f, version V1: {library} has no version information, "
            "for which ld.so ends with an assertion (check_match)"
        ]
    assert Linker(ImageMemory(), LinkerConfig(), keep_going=True).link(path).errors == []


def test_packed_relocations_need_glibc_abi_dt_relr(workshop: Workshop) -> None:
    path = workshop.build(
        "program",
        "int a; int *b[9] = {&a, &a}; int main(){return 0;}",
        "-pie",
        "-Wl,-z,pack-relative-relocs",
    )
    assert load(path)
    data = bytearray(Path(path).read_bytes())
    old, new = b"GLIBC_ABI_DT_RELR", b"GLIBC_ABI_DT_RELX"
    record = data.index(_sysv_hash(old).to_bytes(4, "little"))
    # The hash, and the flag of a weak version: it may be missing.
    data[record : record + 6] = _sysv_hash(new).to_bytes(4, "little") + b"\2\0"
    Path(path).unlink()
    Path(path).write_bytes(data.replace(old, new))
    Path(path).chmod(0o755)
    real = subprocess.run([path], capture_output=True, text=True, check=False)
    result = Linker(ImageMemory(), LinkerConfig(), keep_going=True).load(path)
    ours = [
        *(f"{path}: {warning}" for warning in result.warnings),
        *(f"{path}: error while loading shared libraries: {error}" for error in result.errors),
    ]
    assert ours == real.stderr.splitlines()
    assert "DT_RELR without GLIBC_ABI_DT_RELR dependency" in ours[-1]


def _sysv_hash(name: bytes) -> int:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


def test_an_undefined_symbol_is_reported_with_its_version(workshop: Workshop) -> None:
    script = workshop.directory / "versions"
    script.write_text("V1 { global: f; g; };")
    flag = f"-Wl,--version-script={script}"
    workshop.library("liba.so", "int f(void){return 1;} int g(void){return 2;}", flag)
    path = workshop.program("int g(void); int main(){return g();}", "-la", "-Wl,-z,now")
    workshop.library("liba.so", "int f(void){return 1;}", flag)
    real = subprocess.run([path], capture_output=True, text=True, check=False)
    with pytest.raises(LinkError) as caught:
        Linker(ImageMemory(), LinkerConfig()).link(path)
    assert caught.value.message == real.stderr.strip().removeprefix(f"{path}: ").replace(
        f"symbol lookup error: {path}:", f"{path}: symbol lookup error:"
    )
    assert "g, version V1" in caught.value.message
