"""The array operations do what NumPy and the standard library do."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.snapshot.arrays import counted, distinct, order_of, ranked, summed

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


@settings(deadline=None)
@given(VALUES)
def test_ranked(values: list[int]) -> None:
    found, rank = ranked(np.array(values, dtype=np.int64))
    assert found.tolist() == sorted(set(values))
    assert found[rank].tolist() == values


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=50), st.integers(3001, 1 << 40))
def test_counted(keys: list[int], limit: int) -> None:
    found, times = counted(np.array(keys, dtype=np.int64), limit)
    assert dict(zip(found.tolist(), times.tolist(), strict=True)) == Counter(keys)
    assert found.tolist() == sorted(set(keys))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 40) | st.integers(0, 9), st.integers(1, 99)), max_size=50
    )
)
def test_summed(pairs: list[tuple[int, int]]) -> None:
    keys, values = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    expected: Counter[int] = Counter()
    for key, value in pairs:
        expected[key] += value
    found, sums = summed(keys, values)
    assert dict(zip(found.tolist(), sums.tolist(), strict=True)) == expected
    assert found.tolist() == sorted(expected)
