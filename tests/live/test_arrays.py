"""The two array operations do what NumPy's do."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.live.arrays import distinct, order_of

VALUES = st.lists(st.one_of(st.integers(0, 20), st.integers(0, (1 << 63) - 1)), max_size=50)


@settings(deadline=None)
@given(VALUES)
def test_distinct(values: list[int]) -> None:
    assert distinct(np.array(values, dtype=np.int64)).tolist() == sorted(set(values))


@settings(deadline=None)
@given(VALUES)
def test_order(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    assert order_of(array).tolist() == np.argsort(array, kind="stable").tolist()
    assert order_of(array & 0xFFF).tolist() == np.argsort(array & 0xFFF, kind="stable").tolist()
