"""Frames get one row each, whatever their numbers and however the pages are cut into batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.live.frame_finder import FoundFrames, FrameFinder

FRAMES = st.one_of(
    st.integers(0, 200), st.integers(0, 1 << 20), st.integers((1 << 32) - 9, (1 << 55) - 1)
)
BATCHES = st.lists(st.lists(FRAMES, max_size=30), max_size=6)


def flag(page: int) -> int:
    return page * 7 & 0xFFFF


def find(batches: list[list[int]]) -> tuple[FoundFrames, list[int]]:
    """Return what was found, and the rows of all pages."""
    finder, rows = FrameFinder(), []
    for batch in batches:
        flags = np.array([flag(len(rows) + i) for i in range(len(batch))], dtype=np.uint16)
        rows += finder.add(np.array(batch, dtype=np.int64), flags, len(rows)).tolist()
    return finder.found(), rows


@settings(deadline=None)
@given(BATCHES)
def test_rows_are_those_of_a_dictionary(batches: list[list[int]]) -> None:
    found, rows = find(batches)
    pages = [frame for batch in batches for frame in batch]
    assert [int(found.number[row]) for row in rows] == pages
    assert len(found) == len({0, *pages})
    for row, frame in enumerate(found.number.tolist()):
        if frame:
            first = pages.index(frame)
            assert (int(found.first[row]), int(found.flags[row])) == (first, flag(first))
            assert int(found.mapped[row]) == pages.count(frame)


@settings(deadline=None)
@given(BATCHES, st.randoms())
def test_frames_of_pages_that_are_left_out_are_forgotten(batches: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    found, rows = find(batches)
    pages = [frame for batch in batches for frame in batch]
    kept = [number for number in range(len(pages)) if random.random() < 0.5]
    left = np.array([rows[number] for number in kept], dtype=np.int32)
    flags = np.array([flag(number) for number in kept], dtype=np.uint16)
    found.recount(left, flags)
    wanted = [pages[number] for number in kept]
    assert [int(found.number[row]) for row in left.tolist()] == wanted
    assert sorted(found.number.tolist()) == sorted({0, *wanted})
    for row, frame in enumerate(found.number.tolist()):
        if frame:
            first = wanted.index(frame)
            assert (int(found.first[row]), int(found.flags[row])) == (first, flag(kept[first]))
            assert int(found.mapped[row]) == wanted.count(frame)
