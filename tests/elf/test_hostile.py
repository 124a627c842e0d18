"""Broken files end in an `ElfError` that names the file, and end soon."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samepage.elf.file import ElfFile
from samepage.elf.header import ElfError
from samepage.elf.notes import build_id, gnu_properties
from samepage.elf.object import DynamicObject
from samepage.elf.sections import read_sections

LIBRARY = Path("/lib/x86_64-linux-gnu/libkeyutils.so.1")
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="no small library to mutate")


def read_all(data: bytes) -> None:
    """Read every table of a file."""
    found = DynamicObject.from_bytes(data, "mutant")
    found.strings.pool(found.symbols["st_name"]).gnu_hashes()
    _ = (found.soname, found.needed, found.interpreter, found.gnu_hash, found.sysv_hash)
    _ = (found.versions, found.relocations, found.tls, found.relro)
    build_id(found.elf)
    gnu_properties(found.elf)
    read_sections(found.elf)


def complaint(data: bytes) -> str:
    """The message of the `ElfError` that reading a file gives, or nothing."""
    try:
        read_all(data)
    except ElfError as error:
        return error.message
    return ""


@settings(max_examples=300, deadline=2000, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_bytes(data: st.DataObject) -> None:
    content = bytearray(LIBRARY.read_bytes())
    # The headers and tables lie at the start; the dynamic section at the end.
    dynamic = ElfFile(bytes(content), "x").segments
    places = st.one_of(
        st.integers(0, 0x1000), *(st.integers(s.offset, s.offset + 0x200) for s in dynamic[-4:])
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(places)
        value = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        if at < len(content):
            content[at] = value
    message = complaint(bytes(content))
    assert not message or message.startswith("mutant: ")


@settings(max_examples=50, deadline=2000)
@given(st.integers(0, LIBRARY.stat().st_size if LIBRARY.exists() else 0))
def test_truncated_files(length: int) -> None:
    message = complaint(LIBRARY.read_bytes()[:length])
    assert not message or message.startswith("mutant: ")


def test_errors_name_table_and_offset() -> None:
    content = bytearray(LIBRARY.read_bytes())
    struct.pack_into("<Q", content, 32, 1 << 40)  # e_phoff
    with pytest.raises(ElfError, match=r"mutant: program headers: .* offset 0x10000000000"):
        read_all(bytes(content))


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n" + bytes(100), bytes(64)])
def test_files_that_are_not_elf(data: bytes) -> None:
    with pytest.raises(ElfError, match="mutant"):
        read_all(data)
