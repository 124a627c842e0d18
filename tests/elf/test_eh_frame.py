"""Ranges of code by unwind tables, against `readelf`."""

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from samepage.elf.eh_frame import CodeRanges
from samepage.elf.file import ElfFile
from samepage.elf.header import ElfError

FILES = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/bin/git",
    "/bin/true",
]
_FDE = re.compile(r"FDE cie=[0-9a-f]+ pc=([0-9a-f]+)\.\.([0-9a-f]+)")


def by_readelf(path: str) -> list[tuple[int, int]]:
    listing = subprocess.run(
        ["readelf", "--debug-dump=frames", path], capture_output=True, text=True, check=False
    ).stdout  # its status is 1 where the file names separate debug information that is absent
    return sorted((int(low, 16), int(high, 16)) for low, high in _FDE.findall(listing))


@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf (binutils) is not installed")
@pytest.mark.parametrize("path", FILES)
def test_all_ranges_are_those_of_readelf(path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"no {path} here")
    path = os.path.realpath(path)
    expected = [pair for pair in by_readelf(path) if pair[0] < pair[1]]
    ranges = CodeRanges(ElfFile.open(path))
    assert len(expected) > 10
    for start, end in expected:
        assert ranges.at(start) == (start, end)
        assert ranges.at(end - 1) == (start, end)
    holes = [high for (_, high), (low, _) in pairwise(expected) if high < low]
    assert all(ranges.at(address) is None for address in holes)
    assert ranges.at(expected[-1][1]) is None
    assert ranges.at(expected[0][0] - 1) is None


def test_a_file_without_unwind_tables_has_no_ranges(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    source = tmp_path / "a.c"
    source.write_text("int f(void) { return 1; }\n")
    library = tmp_path / "liba.so"
    flags = ["-fno-asynchronous-unwind-tables", "-nostdlib", "-shared", "-fPIC"]
    subprocess.run(
        ["gcc", *flags, "-Wl,--no-eh-frame-hdr", "-o", library, source], check=True, timeout=60
    )
    assert CodeRanges(ElfFile.open(str(library))).at(0x1000) is None


@pytest.mark.skipif(not os.path.exists(FILES[0]), reason="no libc at Debian's path")
def test_damaged_tables_are_refused_or_give_no_range() -> None:
    data = bytearray(Path(FILES[0]).read_bytes())
    original = ElfFile(bytes(data), "libc")
    segment = original.segment(0x6474E550)
    assert segment is not None
    messages = []
    for at in range(segment.offset, segment.offset + 64):
        for value in (0, 0x7F, 0xFF):
            mutant = bytearray(data)
            mutant[at] = value
            try:
                ranges = CodeRanges(ElfFile(bytes(mutant), "mutant"))
                for address in (0, 0x28000, 0x80000, 1 << 40):
                    ranges.at(address)
            except ElfError as error:
                messages.append(str(error))
    assert messages
    assert all(message.startswith("mutant: ") for message in messages)
