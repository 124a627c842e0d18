"""Array operations that NumPy has, in a faster way.

`numpy.unique` imports `numpy.ma` at its first call, which takes longer than most captures
need for all of their arrays. And `numpy.argsort` takes five times as long as `numpy.sort`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

_DENSE = 1 << 18
"""Keys below this are ranked and counted in a table that is indexed by them."""


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the different values, ascending."""
    ordered = np.sort(values)
    return ordered[_heads(ordered)]


def ranges(first: I64, end: I64) -> I64:
    """Return all numbers from each `first` to its `end` (not included), one range behind another.

    No range is backwards.
    """
    lengths = end - first
    shift = first - np.cumsum(lengths) + lengths
    return np.repeat(shift, lengths) + np.arange(int(lengths.sum()))


def order_of(values: I64) -> I64:
    """Return where the smallest of the values is, then the next one, and so on.

    The values are not negative. Of equal ones, the first comes first.
    """
    bits = len(values).bit_length()
    if int(values.max(initial=0)).bit_length() + bits > 63:
        return np.argsort(values, kind="stable")
    # Each value carries its place along in its lower bits.
    places = np.sort(values << bits | np.arange(len(values)))
    places &= (1 << bits) - 1
    return places


def ranked(values: I64) -> tuple[I64, I64]:
    """Return the different values, ascending, and for each value its place among them.

    The values are not negative.
    """
    highest = int(values.max(initial=0))
    if highest < _DENSE:
        seen = np.zeros(highest + 1, dtype=bool)
        seen[values] = True
        return np.flatnonzero(seen), (np.cumsum(seen) - 1)[values]
    different = distinct(values)
    return different, np.searchsorted(different, values)


def counted(keys: I64, limit: int) -> tuple[I64, I64]:
    """Return the different keys, ascending, and how often each occurs.

    The keys are not negative, and below `limit`. Many of them should be in order already.
    """
    if limit <= max(4 * len(keys), 1 << 10):
        counts = np.bincount(keys, minlength=limit)
        found = np.flatnonzero(counts != 0)
        return found, counts[found]
    ordered = np.sort(keys, kind="stable")  # by merging: fast where runs are in order
    first = np.flatnonzero(_heads(ordered))
    return ordered[first], np.diff(first, append=len(ordered))


def summed(keys: I64, values: I64) -> tuple[I64, I64]:
    """Return the different keys, ascending, and the sum of the values of each.

    No key and no value is negative; the sum of all values is below 2^53.
    """
    if not len(keys):
        return keys, values
    if int(keys.max()) < _DENSE:
        # As floating-point numbers the sums are exact up to there.
        sums = np.bincount(keys, values)
        found = np.flatnonzero(sums != 0)
        return found, sums[found].astype(np.int64)
    order = order_of(keys)
    ordered = keys[order]
    first = np.flatnonzero(_heads(ordered))
    return ordered[first], np.add.reduceat(values[order], first)


def _heads(ordered: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return first
