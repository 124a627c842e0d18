"""The picture of memory follows mmap's rules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.abi.mman import MapFlags, Prot
from samepage.linker.image import MMAP_BASE, ImageMemory
from samepage.linker.memory import PAGE

BASE = 0x10000000
ANONYMOUS = MapFlags.ANONYMOUS | MapFlags.PRIVATE
STEPS = st.lists(
    st.tuples(st.sampled_from(["map", "unmap", "write"]), st.integers(0, 15), st.integers(1, 6)),
    max_size=30,
)


@settings(deadline=None)
@given(STEPS)
def test_it_is_a_dictionary_of_bytes(steps: list[tuple[str, int, int]]) -> None:
    memory = ImageMemory()
    model: dict[int, int] = {}
    for number, (step, page, pages) in enumerate(steps, 1):
        start, length = BASE + page * PAGE, pages * PAGE
        if step == "map":
            memory.mmap(start, length, Prot.READ | Prot.WRITE, ANONYMOUS | MapFlags.FIXED, None, 0)
            model.update(dict.fromkeys(range(start, start + length, 8), 0))
        elif step == "unmap":
            memory.munmap(start, length)
            for address in range(start, start + length, 8):
                model.pop(address, None)
        elif start in model:
            memory.write_words(start, np.array([8]), np.array([number], np.uint64))
            model[start + 8] = number
    for page in range(24):
        start = BASE + page * PAGE
        if start in model:
            assert memory.read(start + 8, 8) == model[start + 8].to_bytes(8, "little")
        else:
            with pytest.raises(OSError, match="nothing is mapped"):
                memory.read(start, 1)
    regions = memory.regions()
    assert all(a.end <= b.start for a, b in itertools.pairwise(regions))


def test_words_may_be_unaligned_and_in_several_regions() -> None:
    memory = ImageMemory()
    for page in range(2):
        memory.mmap(
            BASE + page * PAGE, PAGE, Prot.READ | Prot.WRITE, ANONYMOUS | MapFlags.FIXED, None, 0
        )
    offsets = np.array([3, PAGE - 4, PAGE + 16])
    words = np.array([0x1122334455667788, 2**64 - 1, 7], np.uint64)
    memory.write_words(BASE, offsets, words)
    assert memory.read_words(BASE, offsets).tolist() == words.tolist()
    assert memory.read(BASE + PAGE, 4) == b"\xff" * 4


def test_read_only_memory_is_not_written() -> None:
    memory = ImageMemory()
    memory.mmap(BASE, PAGE, Prot.READ, ANONYMOUS | MapFlags.FIXED, None, 0)
    with pytest.raises(OSError, match="read-only"):
        memory.write(BASE, b"x")
    memory.mprotect(BASE, PAGE, Prot.READ | Prot.WRITE)
    memory.write(BASE, b"x")


def test_placement_is_top_down_and_aligned_for_huge_pages() -> None:
    memory = ImageMemory()
    first = memory.mmap(0, 5 * PAGE, Prot.READ, ANONYMOUS, None, 0)
    second = memory.mmap(0, PAGE, Prot.READ, ANONYMOUS, None, 0)
    huge = memory.mmap(0, 4 << 20, Prot.READ, ANONYMOUS, None, 0)
    assert first == MMAP_BASE - 5 * PAGE
    assert second == first - PAGE
    assert huge % (2 << 20) == 0
    assert memory.mmap(0, PAGE, Prot.NONE, ANONYMOUS, None, 0) == second - PAGE
