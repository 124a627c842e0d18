"""Copied pages as profiles and treemaps, read back by what reads such files."""

import gzip
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepage.report.profiles import Stacks, write_collapsed, write_pprof, write_speedscope
from samepage.report.treemap import Box, Node, squarify, treemap

STACKS: Stacks = [(("gc", "update_refs (python)", "[heap]"), 300), (("gc", "a;b", "x"), 7)]


def test_collapsed_stacks_are_lines_of_names_and_pages() -> None:
    stream = io.StringIO()
    write_collapsed(STACKS, stream)
    assert stream.getvalue() == "gc;update_refs (python);[heap] 300\ngc;a,b;x 7\n"


def test_speedscope_weighs_stacks_in_bytes() -> None:
    stream = io.StringIO()
    write_speedscope(STACKS, stream)
    document = json.loads(stream.getvalue())
    names = [frame["name"] for frame in document["shared"]["frames"]]
    (profile,) = document["profiles"]
    assert [[names[n] for n in sample] for sample in profile["samples"]] == [
        list(stack) for stack, _ in STACKS
    ]
    assert profile["weights"] == [300 * 4096, 7 * 4096]
    assert profile["endValue"] == 307 * 4096
    assert profile["type"] == "sampled"


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protobuf message: (number, value)."""
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        else:
            assert key & 7 == 2
            size = varint()
            found.append((key >> 3, data[at : at + size]))
            at += size
    return found


def test_pprof_holds_each_stack_leaf_first() -> None:
    stream = io.BytesIO()
    write_pprof(STACKS, stream)
    profile = fields(gzip.decompress(stream.getvalue()))
    strings = [value.decode() for number, value in profile if number == 6 and value is not None
               if isinstance(value, bytes)]  # fmt: skip
    assert strings[0] == ""
    functions = {}
    for number, value in profile:
        if number == 5:
            assert isinstance(value, bytes)
            parts = dict(fields(value))
            name = parts[2]
            assert isinstance(name, int)
            functions[parts[1]] = strings[name]
    samples = []
    for number, value in profile:
        if number == 2:
            assert isinstance(value, bytes)
            parts = dict(fields(value))
            places, values = parts[1], parts[2]
            assert isinstance(places, bytes)
            assert isinstance(values, bytes)
            samples.append([functions[place] for place in places])
    assert samples == [list(reversed(stack)) for stack, _ in STACKS]


@pytest.mark.skipif(not shutil.which("go"), reason="go (for go tool pprof) is not installed")
def test_go_reads_the_pprof_profile(tmp_path: Path) -> None:
    path = tmp_path / "why.pb.gz"
    with path.open("wb") as file:
        write_pprof(STACKS, file)
    run = subprocess.run(
        ["go", "tool", "pprof", "-top", "-sample_index=copied_pages", path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"300 .*\[heap\]", run.stdout), run.stdout


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_a_treemap_fills_its_box_in_proportion(values: list[int]) -> None:
    values.sort(reverse=True)
    box = Box(10, 20, 300, 170)
    boxes = squarify(values, box)
    area = box.width * box.height
    for value, part in zip(values, boxes, strict=True):
        assert part.width * part.height == pytest.approx(area * value / sum(values), rel=1e-6)
        assert part.x >= box.x - 1e-6
        assert part.y >= box.y - 1e-6
        assert part.x + part.width <= box.x + box.width + 1e-6
        assert part.y + part.height <= box.y + box.height + 1e-6
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert wide <= 1e-6 or high <= 1e-6, "no two overlap"


def test_names_in_a_treemap_are_escaped() -> None:
    picture = treemap([Node("<script>", "x", 5, [Node("a&b", "y", 3), Node("none", "", 0)])])
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture
    assert "a&amp;b" in picture
    assert "none" not in picture
