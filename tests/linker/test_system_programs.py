"""Programs of the system: everything that ld.so does is what we do."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage.elf.dynamic import Tag
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.linker.image import ImageMemory
from samepage.linker.link import Linker
from samepage.linker.search import LinkerConfig
from samepage.trace.ldso import ldd
from samepage.verify.linking import Rule
from tests.linker.workshop import Workshop

PROGRAMS = [
    path
    for path in ("/bin/true", "/usr/bin/git", "/usr/bin/apt", "/usr/bin/python3.11", "/bin/bash")
    if os.path.exists(path)
]


@pytest.mark.parametrize("path", PROGRAMS)
def test_objects_bindings_and_bytes(agree: Callable[..., object], path: str) -> None:
    comparison = agree(path)
    assert set(comparison.by_rule) <= set(Rule)  # type: ignore[attr-defined]
    assert comparison.bindings > 100  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PROGRAMS)
def test_the_list_is_that_of_ldd(path: str) -> None:
    try:
        listed = ldd(path)
    except (SamepageError, OSError) as error:
        pytest.skip(str(error))
    result = Linker(ImageMemory(), LinkerConfig()).load(path)
    assert [link.name for link in result.search_list[1:]] == listed


def test_a_cyclic_hash_chain_ends(workshop: Workshop) -> None:
    workshop.library("liba.so", "int missing(void){return 1;}")
    program = workshop.program("int missing(void); int main(){return missing();}", "-la")
    path = workshop.library(
        "liba.so", "int f(void){return 1;} int g(void){return 2;}", "-Wl,--hash-style=sysv"
    )
    library = DynamicObject.open(path)
    address = library.dynamic.value(Tag.HASH)
    offset, _ = library.elf.file_offset("hash", address)
    data = bytearray(Path(path).read_bytes())
    buckets, chains = struct.unpack_from("<II", data, offset)
    for index in range(buckets):
        struct.pack_into("<I", data, offset + 8 + 4 * index, chains - 1)
    for index in range(chains):
        struct.pack_into("<I", data, offset + 8 + 4 * (buckets + index), chains - 1)
    Path(path).unlink()
    Path(path).write_bytes(bytes(data))
    linker = Linker(ImageMemory(), LinkerConfig(bind_now=True), keep_going=True)
    result = linker.link(program)
    assert any("undefined symbol: missing" in error for error in result.errors)
