"""Names as columns give the hashes and comparisons of the scalar definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.elf.file import MAX_STRING, ElfFile
from samepage.elf.header import ElfError
from samepage.elf.strings import StringTable, Text

NAMES = st.lists(
    st.binary(max_size=40).filter(lambda name: b"\0" not in name), min_size=1, max_size=30
)


def gnu_hash(name: bytes) -> int:
    h = 5381
    for byte in name:
        h = (h * 33 + byte) & 0xFFFFFFFF
    return h


def sysv_hash(name: bytes) -> int:
    h = 0
    for byte in name:
        h = ((h << 4) + byte) & 0xFFFFFFFF
        high = h & 0xF0000000
        h = (h ^ (high >> 24)) & ~high
    return h & 0xFFFFFFFF


def table_of(names: list[bytes]) -> tuple[StringTable, list[int]]:
    """A string table in a minimal ELF file, at its very end, and the names' indices."""
    header = bytearray(64)
    header[:7] = b"\x7fELF\x02\x01\x01"
    data = b"\0" + b"".join(name + b"\0" for name in names)
    indices = []
    at = 1
    for name in names:
        indices.append(at)
        at += len(name) + 1
    elf = ElfFile(bytes(header) + data, "test")
    return StringTable(elf, 64, len(data)), indices


def text_of(names: list[bytes]) -> tuple[Text, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The names one after the other, and their places."""
    data = b"".join(name + b"\0" for name in names) + bytes(8)
    ends = np.cumsum([0] + [len(name) + 1 for name in names])
    return Text(np.frombuffer(data, np.uint8)), ends[:-1]


@settings(deadline=None)
@given(NAMES)
def test_hashes_are_those_of_the_scalar_definitions(names: list[bytes]) -> None:
    table, indices = table_of(names)
    pool = table.pool(indices)
    assert pool.gnu_hashes().tolist() == [gnu_hash(name) for name in names]
    assert pool.sysv_hashes().tolist() == [sysv_hash(name) for name in names]


def test_many_long_names_have_their_hashes() -> None:
    names = [bytes([65 + number % 26]) * number for number in range(400)]
    table, indices = table_of(names)
    assert table.pool(indices).gnu_hashes().tolist() == [gnu_hash(name) for name in names]


@settings(deadline=None)
@given(NAMES, NAMES)
def test_comparison_is_that_of_the_names(ours: list[bytes], theirs: list[bytes]) -> None:
    theirs = (theirs * len(ours))[: len(ours)]
    text, places = text_of(ours)
    other, other_indices = table_of(theirs)
    pool = other.pool(other_indices)
    same = text.equal(places, pool, np.arange(len(ours)))
    assert same.tolist() == [a == b for a, b in zip(ours, theirs, strict=True)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=8))
def test_lengths_are_those_of_the_names(lengths: list[int]) -> None:
    text, places = text_of([b"n" * length for length in lengths])
    assert text.lengths(places).tolist() == lengths


@settings(deadline=None)
@given(NAMES)
def test_taking_keeps_the_names(names: list[bytes]) -> None:
    table, indices = table_of(names)
    pool = table.pool(indices)
    expected = [name.decode("utf-8", "surrogateescape") for name in names]
    assert pool.names() == expected
    order = np.arange(len(expected))[::-2]
    assert pool.take(order).names() == [expected[index] for index in order]
    assert pool.name(0) == expected[0]


def test_a_name_that_does_not_end_is_an_error() -> None:
    table, _ = table_of([b"name"])
    with pytest.raises(ElfError, match="does not end"):
        StringTable(table._elf, 64, 3).pool([1])
    with pytest.raises(ElfError, match="does not end"):
        table.pool([100])


def test_a_name_of_absurd_length_is_an_error() -> None:
    table, indices = table_of([b"a" * (MAX_STRING + 1)])
    with pytest.raises(ElfError, match="more than"):
        table.pool(indices)
    # A single one is read whole: run paths have no limit in ld.so either.
    assert table.get(indices[0]) == "a" * (MAX_STRING + 1)
