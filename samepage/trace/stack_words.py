"""Return addresses on copied user stacks that lead into code without a file.

An interpreter that is asked to (CPython -X perf, node --perf-basic-prof) gives each function of
the script a piece of code of its own in anonymous memory, and writes a map of them. Whatever the
function calls has a return address into that piece on its stack. The stack's copy begins at the
stack pointer, so the first word that is such an address belongs to the innermost function. No
frame pointers or unwind tables are needed. (Words of a deeper call that returned before may be
left over in a frame; they are rarely return addresses, since calls overwrite those first.)

Only these words are kept of a stack: a few numbers in place of two kilobytes.
"""

import bisect
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from samepage.trace.perf.tasks import read_tasks

KEPT = 4
"""Words of each stack."""


class CodeRanges:
    """Anonymous executable memory of all processes together, as disjoint ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add one range (bytes); ranges that touch become one."""
        low = bisect.bisect_left(self._ends, start)
        high = bisect.bisect_right(self._starts, end)
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def add_made(self, tasks: Iterable[tuple[int, int, bytes]]) -> None:
        """Add what the kernel's records show as made executable."""
        for mappings in read_tasks(list(tasks)).mappings.values():
            for made in mappings:
                self.add_mapping(made.start, made.end, made.perms, made.name)

    def add_mapping(self, start: int, end: int, perms: str, name: str) -> None:
        """Add a mapping if it is executable and without a file."""
        if perms[2] == "x" and (not name or name.startswith("[anon")):
            self.add(start, end)

    def hold(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of `words` are addresses in it."""
        if not self._starts:
            return np.zeros(words.shape, np.bool_)
        starts = np.array(self._starts, np.uint64)
        ends = np.array(self._ends, np.uint64)
        found: npt.NDArray[np.bool_] = (words >= starts[0]) & (words < ends[-1])
        inside = words[found]
        found[found] = inside < ends[np.searchsorted(starts, inside, "right") - 1]
        return found


def reduce_stacks(
    samples: dict[str, list[npt.NDArray[np.void]]], code: CodeRanges
) -> dict[str, list[npt.NDArray[np.void]]]:
    """Replace the field `stack` of samples by `callers`: up to `KEPT` addresses in `code`,
    innermost first, then zeros."""
    return {
        name: [_reduce(part, code) if "stack" in _names(part) else part for part in parts]
        for name, parts in samples.items()
    }


def _reduce(part: npt.NDArray[np.void], code: CodeRanges) -> npt.NDArray[np.void]:
    fields = [name for name in _names(part) if name not in ("stack", "registers", "abi")]
    layout = [(name, part.dtype[name]) for name in fields]
    reduced = np.zeros(len(part), np.dtype([*layout, ("callers", "<u8", (KEPT,))]))
    for name in fields:
        reduced[name] = part[name]
    words = np.ascontiguousarray(part["stack"]).view("<u8")
    used = np.arange(words.shape[1]) < (part["stack_used"] // 8)[:, None]
    row, column = np.nonzero(code.hold(words) & used)
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < KEPT
    reduced["callers"][row[kept], rank[kept]] = words[row[kept], column[kept]]
    return reduced


def _names(part: npt.NDArray[np.void]) -> tuple[str, ...]:
    return part.dtype.names or ()
