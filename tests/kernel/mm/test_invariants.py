"""Whatever happens in whatever order, also when frames run out, everything still counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.kernel.mm.frames import OutOfFrames
from tests.kernel.mm.live_compare import ARENA, FILE_PAGES, PAGES, sequence
from tests.kernel.mm.live_model import Model
from tests.kernel.mm.mm_helpers import Memory, check_invariants, numbered

DATA = numbered(FILE_PAGES)


def finish(model: Model) -> None:
    """Exit all processes: nothing may be left but the cache and the zero page."""
    for mm in list(model.memory.cache.spaces):
        mm.destroy()
    check_invariants(model.memory)
    assert model.memory.frames.n_used == 1 + len(model.memory.cache.owner)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_counts_are_right_after_any_sequence(seed):
    model = Model(ARENA, PAGES, DATA, 8 << 20)
    for number, operation in enumerate(sequence(seed, 60)):
        model.do(*operation)
        if number % 10 == 9:
            check_invariants(model.memory)
    finish(model)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(20, 60))
def test_running_out_of_frames_leaves_nothing_half_done(seed, frames):
    try:
        model = Model(ARENA, PAGES, DATA, frames << 12)
    except OutOfFrames:
        return
    for operation in sequence(seed, 60):
        try:
            model.do(*operation)
        except OutOfFrames:
            check_invariants(model.memory)
    finish(model)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_any_allocation_may_fail(seed, period):
    model = Model(ARENA, PAGES, DATA, 8 << 20)
    allocate = model.memory.frames.allocate
    count = 0

    def failing(kind):
        nonlocal count
        count += 1
        if count % period == 0:
            raise OutOfFrames
        return allocate(kind)

    model.memory.frames.allocate = failing
    for operation in sequence(seed, 60):
        try:
            model.do(*operation)
        except OutOfFrames:
            check_invariants(model.memory)
    model.memory.frames.allocate = allocate
    finish(model)


def test_clean_pages_of_the_cache_are_reclaimed_before_memory_runs_out():
    memory = Memory(64 << 12)
    from tests.kernel.mm.mm_helpers import MemoryFile

    file = MemoryFile(numbered(200))
    for index in range(200):
        assert memory.cache.read(file, index << 12, 4) == index.to_bytes(4, "little")
    check_invariants(memory)
    with pytest.raises(OutOfFrames):
        memory.cache.write(file, 0, bytes(200 << 12)) == 200 << 12 or memory.cache.write(
            file, 100 << 12, bytes(100 << 12)
        )
    check_invariants(memory)
