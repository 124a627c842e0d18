"""Build-ids against readelf's."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepage.live.build_id import find_build_id, read_build_id

BINARIES = ["/usr/bin/bash", "/bin/true", "/lib64/ld-linux-x86-64.so.2", "/usr/bin/env"]


def read(path: str) -> str | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_build_id(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", BINARIES)
def test_build_id_equals_that_of_readelf(path: str) -> None:
    try:
        notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("readelf is not installed")
    match = re.search(r"Build ID: ([0-9a-f]+)", notes.stdout)
    assert read(path) == (match[1] if match else None)


def test_other_files_have_none(tmp_path: Path) -> None:
    for content in (b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(58)):
        path = tmp_path / "file"
        path.write_bytes(content)
        assert read(str(path)) is None


@given(st.binary(max_size=200), st.sampled_from([4, 8]))
def test_damaged_notes_are_no_error(notes: bytes, align: int) -> None:
    find_build_id(notes, align)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_no_error(offset: int, noise: bytes) -> None:
    data = bytearray(Path("/bin/true").read_bytes()[:8192])
    data[offset : offset + len(noise)] = noise
    fd = os.memfd_create("damaged")
    try:
        os.write(fd, data)
        read_build_id(fd)
    finally:
        os.close(fd)
