"""What removing some writers would save: the counterfactual of `samepage why --what-if`.

A page would have stayed shared if all its writers are among those removed. That is not the sum of
what each of them saves alone: a page that two of them write to is saved by both together.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from samepage.analysis.cause_classes import CauseClass
from samepage.analysis.copies import find_causes
from samepage.analysis.why import Why
from samepage.errors import SamepageError
from samepage.snapshot.writes import Function, WriteTable


@dataclass(frozen=True, slots=True)
class WhatIf:
    """`pattern` is what was asked for, `functions` how many writers it means. `saved`: pages that
    would have stayed shared; `left`: those that others copy all the same."""

    pattern: str
    functions: int
    saved: int
    left: int


def what_if(why: Why, writes: WriteTable, pattern: str) -> WhatIf:
    """The answer without the writers that `pattern` means: a class (`cpython.gc`, or `gc` for
    those of all runtimes), or functions, of scripts too, by name or shell pattern (`update_refs`,
    `gc_*`).

    Raises `SamepageError` if it means none that wrote, naming the classes that did.
    """
    meant = np.array(
        [
            _means(pattern, function, why.classes[number])
            for function, number in zip(why.functions, why.class_of, strict=True)
        ],
        np.bool_,
    )
    removed = meant[writes.function] | (meant[writes.script] & (writes.script >= 0))
    if not removed.any():
        known = ", ".join(why.classes[cause.function].id for cause in why.by_class)
        raise SamepageError(
            f"--what-if {pattern}: no cause or function of that name has written; "
            f"causes were: {known or 'none'}"
        )
    causes = find_causes(writes, np.where(removed, 0, 1).astype(np.int32))
    saved = sum(cause.saved for cause in causes if cause.function == 0)
    return WhatIf(pattern, int(meant.sum()), saved, why.copied - saved)


def _means(pattern: str, function: Function, of: CauseClass) -> bool:
    names = (of.id, of.id.partition(".")[2], of.id.partition(".")[0], function.name)
    return any(fnmatchcase(name, pattern) for name in names if name)
