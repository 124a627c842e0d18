"""DT_RELR: the array form expands like the entry-by-entry definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.elf.file import ElfFile
from samepage.elf.header import ElfError
from samepage.elf.relocations import expand_relr

HEADER = b"\x7fELF\x02\x01\x01" + bytes(57)


def one_by_one(entries: list[int]) -> list[int]:
    """The definition of the format (generic ABI)."""
    places = []
    base = 0
    for entry in entries:
        if entry & 1 == 0:
            places.append(entry)
            base = entry + 8
        else:
            places += [base + bit * 8 for bit in range(63) if entry >> (bit + 1) & 1]
            base += 63 * 8
    return places


ENTRIES = st.lists(
    st.one_of(
        st.integers(1, 1 << 40).map(lambda value: value * 2),
        st.integers(0, (1 << 63) - 1).map(lambda value: value * 2 + 1),
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(ENTRIES)
def test_expansion(entries: list[int]) -> None:
    if entries[0] & 1:
        entries[0] ^= 1
    places = expand_relr(ElfFile(HEADER, "test"), np.array(entries, np.uint64))
    assert places.tolist() == [place % (1 << 64) for place in one_by_one(entries)]


def test_a_bitmap_without_an_address_is_an_error() -> None:
    with pytest.raises(ElfError, match="first entry is a bitmap"):
        expand_relr(ElfFile(HEADER, "test"), np.array([3], np.uint64))
