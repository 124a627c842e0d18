"""The exact PSS: a sum of pages, each divided by how often its frame is mapped.

Such a sum is a fraction whose denominator has hundreds of digits where many processes run. So it
is kept as what it is made of, how many pages have frames that are mapped so often, and worked out
when it is printed or asked for; to sort by it, a floating-point number is near enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import mul

import numpy as np
import numpy.typing as npt

from samepage.analysis.counting import SHARE_OF_PAGE, Counted, pieces, within
from samepage.records import record
from samepage.snapshot.arrays import counted, ranked
from samepage.snapshot.columns import I64, Snapshot
from samepage.snapshot.kinds import PageFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fractions import Fraction


@record(eq=False)
class Shares:
    """The exact PSS of some groups of pages.

    Row `i`: `group[i]` has `pages[i]` pages with frames that are mapped `degrees[degree[i]]` times.
    Invariant: rows ascend by group; group `g` has those from `cuts[g]` to `cuts[g + 1]`.
    """

    degrees: list[int]
    group: I64
    degree: I64
    pages: I64
    cuts: list[int]
    parts: list[int]
    """`denominator` divided by each of the degrees."""
    denominator: int
    near: npt.NDArray[np.float64]
    """The PSS of each group in pages, but for errors of rounding."""

    @classmethod
    def of(cls, degrees: I64, group: I64, degree: I64, pages: I64, groups: int) -> Shares:
        """Make it of its rows."""
        each = degrees.tolist()
        denominator = math.lcm(*each)
        parts = pages / degrees[degree]
        return cls(
            degrees=each,
            group=group,
            degree=degree,
            pages=pages,
            cuts=np.searchsorted(group, np.arange(groups + 1)).tolist(),
            parts=[denominator // times for times in each],
            denominator=denominator,
            near=np.bincount(group, parts, minlength=groups).astype(np.float64),
        )

    def all(self) -> list[Share]:
        """Return the PSS of each group."""
        near = self.near.tolist()
        return [Share(self, (group,), near[group]) for group in range(len(near))]

    def numerator(self, groups: tuple[int, ...]) -> int:
        """Return the PSS of these groups together, times the denominator."""
        if len(groups) == 1:
            (group,) = groups
            rows = slice(self.cuts[group], self.cuts[group + 1])
            degree, pages = self.degree[rows].tolist(), self.pages[rows].tolist()
            return sum(map(mul, pages, map(self.parts.__getitem__, degree)))
        wanted = np.zeros(len(self.near), dtype=bool)
        wanted[list(groups)] = True
        mine = wanted[self.group]
        sums = np.zeros(len(self.degrees), dtype=np.int64)
        np.add.at(sums, self.degree[mine], self.pages[mine])
        return sum(map(mul, sums.tolist(), self.parts))


class Share:
    """The exact PSS of one group of pages, or of several together; in pages.

    `float` of it is the nearest number. Two are equal if their exact values are.
    """

    __slots__ = ("_groups", "_shares", "near")

    def __init__(self, shares: Shares, groups: tuple[int, ...], near: float) -> None:
        self._shares = shares
        self._groups = groups
        self.near = near
        """The value, but for errors of rounding: what rows are sorted by."""

    def exact(self) -> Fraction:
        """Return the exact value."""
        from fractions import Fraction

        return Fraction(self._shares.numerator(self._groups), self._shares.denominator)

    def __float__(self) -> float:
        # The division of two ints rounds once, and correctly.
        return self._shares.numerator(self._groups) / self._shares.denominator

    def __eq__(self, other: object) -> bool:
        return self.exact() == other.exact() if isinstance(other, Share) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.exact())

    def __repr__(self) -> str:
        return f"Share({self.exact()})"


def together(shares: Iterable[Share]) -> Share:
    """Return the sum of shares, which are of different groups of the same `Shares`."""
    parts = list(shares)
    if not parts:
        return Share(kernel_shares([]), (), 0.0)
    (table,) = {id(part._shares): part._shares for part in parts}.values()
    groups = tuple(group for part in parts for group in part._groups)
    assert len(set(groups)) == len(groups), "a group is added twice"
    return Share(table, groups, math.fsum(part.near for part in parts))


def exact_shares(snapshot: Snapshot, found: Counted, bounds: I64) -> Shares:
    """Return the exact PSS of groups: group `g` has the pages `bounds[g]` to `bounds[g + 1]`."""
    frames, pages = snapshot.frames, snapshot.pages
    times = np.where(frames.resident(), found.degree, 0).astype(np.int64)
    degrees, rank = ranked(np.append(times, (0, 1)))
    none, once = 0, int(rank[-1])
    by_frame = rank[: len(frames) + 1].astype(np.int32)  # the last is `none`
    parts = []
    for part, groups, lengths in pieces(bounds):
        rows, flags = pages.frame[part], pages.flags[part]
        degree = by_frame[rows]
        lone = np.flatnonzero(rows == len(frames))
        if len(lone):
            alone = np.uint16(PageFlags.PRESENT | PageFlags.EXCLUSIVE)
            degree[lone[(flags[lone] & alone) == alone]] = once
        degree[within(found.unaccounted, part)] = none
        places = np.repeat(np.arange(len(lengths)) * len(degrees), lengths)
        places += degree
        keys, numbers = counted(places, len(lengths) * len(degrees))
        group, degree_of = np.divmod(keys, len(degrees))
        known = degree_of != none
        parts.append((group[known] + groups.start, degree_of[known], numbers[known]))
    nothing = np.empty(0, dtype=np.int64)
    group, degree_of, numbers = map(np.concatenate, zip((nothing,) * 3, *parts, strict=True))
    # The first of the degrees is that of pages that do not count.
    return Shares.of(degrees[1:], group, degree_of - 1, numbers, len(bounds) - 1)


def kernel_shares(kernel_pss: list[int]) -> Shares:
    """Return what the kernel has as the PSS of groups, in 1/4096 bytes, as if it were exact."""
    groups = np.arange(len(kernel_pss))
    return Shares.of(
        np.array([SHARE_OF_PAGE]),
        groups,
        np.zeros_like(groups),
        np.array(kernel_pss, dtype=np.int64),
        len(groups),
    )
