"""The dense and the sparse lookup agree with a dictionary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.snapshot import frame_index
from samepage.snapshot.frame_index import FrameIndex

NUMBERS = st.integers(0, 2**55 - 1) | st.integers(1000, 1100)


@settings(deadline=None)  # the machine may be busy
@given(st.sets(NUMBERS, max_size=40), st.lists(NUMBERS), st.booleans())
def test_rows_are_those_of_a_dictionary(frames: set[int], asked: list[int], dense: bool) -> None:
    table = sorted(frames)
    asked += table
    with pytest.MonkeyPatch.context() as patch:
        if not dense:
            patch.setattr(frame_index, "DENSE_FLOOR", 0)
            patch.setattr(frame_index, "DENSE_FACTOR", 0)
        index = FrameIndex(np.array(table, dtype=np.uint64))
    rows = index.rows(np.array(asked, dtype=np.uint64))
    expected = {frame: row for row, frame in enumerate(table)}
    assert rows.tolist() == [expected.get(frame, -1) for frame in asked]
