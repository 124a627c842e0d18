"""The exact PSS, worked out late: against fractions added one by one."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepage.analysis.shares import Shares, kernel_shares, together

GROUPS = st.lists(st.dictionaries(st.integers(1, 400), st.integers(1, 10**6)), max_size=6)
"""For each group, how many pages have frames that are mapped so often."""


def shares_of(groups: list[dict[int, int]]) -> Shares:
    rows = [
        (number, times, group[times])
        for number, group in enumerate(groups)
        for times in sorted(group)
    ]
    degrees = sorted({times for _, times, _ in rows})
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    degree = np.searchsorted(np.array(degrees, dtype=np.int64), columns[:, 1])
    of_degree = np.array(degrees, dtype=np.int64)
    return Shares.of(of_degree, columns[:, 0], degree, columns[:, 2], len(groups))


@given(GROUPS)
@settings(deadline=None)
def test_a_share_is_the_exact_sum(groups: list[dict[int, int]]) -> None:
    exact = [
        sum((Fraction(pages, times) for times, pages in group.items()), Fraction(0))
        for group in groups
    ]
    shares = shares_of(groups).all()
    assert [share.exact() for share in shares] == exact
    assert [float(share) for share in shares] == [float(value) for value in exact]
    assert np.allclose([share.near for share in shares], [float(value) for value in exact])
    for some in (shares, shares[1:], shares[::2]):
        whole = together(some)
        assert whole.exact() == sum((share.exact() for share in some), Fraction(0))


def test_shares_are_equal_if_their_values_are() -> None:
    halves, whole, more = shares_of([{2: 2}, {1: 1}, {1: 1, 300: 1}]).all()
    assert halves == whole
    assert whole != more
    assert whole.exact() < more.exact()


def test_what_smaps_prints_is_taken_as_it_is() -> None:
    one, none = kernel_shares([5592405, 0]).all()
    assert one.exact() == Fraction(5592405, 4096 * 4096)
    assert float(none) == 0
