"""One array operation that NumPy has, without what comes with it.

`numpy.unique` imports `numpy.ma` at its first call, which takes longer than most captures
need for all of their arrays.
"""

from typing import Any

import numpy as np
import numpy.typing as npt


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the different values, ascending."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]
