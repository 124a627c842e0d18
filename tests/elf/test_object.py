"""What we read of system libraries is what readelf reads."""

import os
import re
import shutil
import subprocess

import pytest

from samepage.elf.dynamic import Tag
from samepage.elf.machines import MACHINES
from samepage.elf.notes import build_id, gnu_properties
from samepage.elf.object import DynamicObject
from samepage.elf.sections import read_sections

FILES = [
    path
    for path in (
        "/bin/true",
        "/usr/bin/gdb",
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/x86_64-linux-gnu/libz.so.1",
        "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so",
    )
    if os.path.exists(path)
]


def readelf(*arguments: str) -> str:
    if not shutil.which("readelf"):
        pytest.skip("no readelf")
    return subprocess.run(
        ["readelf", "-W", *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_symbols_and_their_versions(path: str) -> None:
    found = DynamicObject.open(path)
    names = found.strings.pool(found.symbols["st_name"]).names()
    version_names = {v.index: v.name for v in [*found.versions.defined, *found.versions.needed]}
    defined = {version.index for version in found.versions.defined}
    pattern = re.compile(
        r"^\s*(\d+): ([0-9a-f]{16})\s+\S+ \S+\s+\S+\s+\S+(?:\s+\[.*\])?\s+(\S+) ?(\S*)"
    )
    lines = [m for line in readelf("--dyn-syms", path).splitlines() if (m := pattern.match(line))]
    assert len(lines) == len(found.symbols)
    for match in lines:
        index = int(match[1])
        record = found.symbols[index]
        assert int(match[2], 16) == record["st_value"]
        shown = match[4].partition("@")[0]
        assert shown == names[index] or not names[index]
        if found.versions.symbols is None or "@" not in match[4]:
            continue
        entry = int(found.versions.symbols[index])
        if entry & 0x7FFF in defined and match[3] != "UND":
            separator = "@" if entry & 0x8000 else "@@"
            assert match[4] == f"{names[index]}{separator}{version_names[entry & 0x7FFF]}"


def test_relocations(path: str) -> None:
    found = DynamicObject.open(path)
    tables = found.relocations
    machine = MACHINES[found.elf.machine]
    text = readelf("-r", path)
    lines = re.findall(r"^([0-9a-f]{16})\s+([0-9a-f]{16})\s+(R_\S+)", text, re.MULTILINE)
    ours = [
        (int(place), int(info), machine.type_name(int(info) & 0xFFFFFFFF))
        for table in (tables.rela, tables.plt)
        for place, info in zip(table["r_offset"], table["r_info"], strict=True)
    ]
    assert ours == [(int(place, 16), int(info, 16), name) for place, info, name in lines]
    packed = re.search(r"^\s*(\d+) offsets\n((?:[0-9a-f]{16}\n)*)", text, re.MULTILINE)
    addresses = [int(line, 16) for line in packed[2].split()] if packed else []
    assert tables.relr.tolist() == addresses


def test_dynamic_section_notes_and_sections(path: str) -> None:
    found = DynamicObject.open(path)
    text = readelf("-d", path)
    assert found.needed == re.findall(r"\(NEEDED\).*\[(.*)\]", text)
    soname = re.search(r"\(SONAME\).*\[(.*)\]", text)
    assert found.soname == (soname[1] if soname else None)
    assert len(found.dynamic.entries) + 1 == len(re.findall(r"^ 0x[0-9a-f]{16} \(", text, re.M))
    note = re.search(r"Build ID: (\w+)", readelf("-n", path))
    assert build_id(found.elf) == (note[1] if note else None)
    names = re.findall(r"^\s*\[\s*\d+\] (\S*)\s+[A-Z]", readelf("-S", path), re.MULTILINE)
    assert [section.name for section in read_sections(found.elf)][1:] == names[
        -len(read_sections(found.elf)) + 1 :
    ]
    assert all(isinstance(value, bytes) for value in gnu_properties(found.elf).values())


def test_init_arrays_and_tls(path: str) -> None:
    found = DynamicObject.open(path)
    text = readelf("-l", path)
    tls = re.search(r"^\s*TLS\s+\S+ (0x\S+) \S+ (0x\S+) (0x\S+)", text, re.MULTILINE)
    if tls is None:
        assert found.tls is None
    else:
        assert found.tls is not None
        ours = (found.tls.vaddr, found.tls.filesz, found.tls.memsz)
        assert ours == tuple(int(field, 16) for field in tls.groups())
    size = found.dynamic.value(Tag.INIT_ARRAYSZ)
    assert len(found.array(Tag.INIT_ARRAY, Tag.INIT_ARRAYSZ)) == size // 8
