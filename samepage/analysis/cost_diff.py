"""What a change of libraries costs: old ones against new ones, library by library.

Two files alone are compared whatever their names are. Of wheels and directories those belong
together that have the same name, without what differs between builds of the same library: the
hash that auditwheel puts into it (libz-1a2b3c4d.so.1), and the version behind `.so`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest

from samepage.analysis.cost import Cost
from samepage.elf.machines import Kind
from samepage.records import record

_HASH = re.compile(r"-[0-9a-f]{8}(?=\.so)")
_VERSION = re.compile(r"(?<=\.so)[.0-9]+$")


@record(frozen=True)
class CauseChange:
    """The relocations of a kind that refer to a symbol, or lie in an object: how many words."""

    kind: Kind
    symbol: str
    holder: str
    before: int
    after: int


@record(frozen=True)
class CostChange:
    """One library before and after; None for one that is new, or gone."""

    name: str
    before: Cost | None
    after: Cost | None
    causes: list[CauseChange]
    """What has other numbers of words, those that changed most first."""

    @property
    def grown(self) -> int:
        """How many pages more each process copies at load."""
        return _copied(self.after) - _copied(self.before)


def compare_costs(old: Sequence[Cost], new: Sequence[Cost]) -> list[CostChange]:
    """The changes, those that grow most first; libraries that cost the same are among them."""
    if len(old) == len(new) == 1:
        return [_change(library_name(new[0].path), old[0], new[0])]
    sides: tuple[dict[str, list[Cost]], ...] = (defaultdict(list), defaultdict(list))
    for side, costs in zip(sides, (old, new), strict=True):
        for cost in costs:
            side[library_name(cost.path)].append(cost)
    changes = [
        _change(name, before, after)
        for name in dict.fromkeys((*sides[1], *sides[0]))
        for before, after in zip_longest(sides[0][name], sides[1][name])
    ]
    return sorted(changes, key=lambda change: (-change.grown, change.name))


def library_name(path: str) -> str:
    """The name of a library's file (in an archive, the member's), as builds have it in common."""
    name = path.rpartition("/")[2].rpartition(":")[2]
    return _VERSION.sub("", _HASH.sub("", name))


def _copied(cost: Cost | None) -> int:
    return cost.copied if cost is not None else 0


def _change(name: str, before: Cost | None, after: Cost | None) -> CostChange:
    old, new = _words(before), _words(after)
    causes = [
        CauseChange(*key, old[key], new[key])
        for key in dict.fromkeys((*new, *old))
        if old[key] != new[key]
    ]
    causes.sort(key=lambda cause: (-abs(cause.after - cause.before), cause.symbol, cause.holder))
    return CostChange(name, before, after, causes)


def _words(cost: Cost | None) -> Counter[tuple[Kind, str, str]]:
    words: Counter[tuple[Kind, str, str]] = Counter()
    for page in cost.pages if cost is not None else ():
        for cause in page.causes:
            words[cause.kind, cause.symbol, cause.holder] += cause.count
    return words
