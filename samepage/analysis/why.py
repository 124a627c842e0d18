"""Why pages left sharing: the answer of `samepage why`, from what was recorded.

The saving of a cause is the number of copied pages to which no other cause wrote. With first
writers alone (no epochs) that is an upper bound: whoever wrote later would have copied the page
as well. So an answer names which of the two it is.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np

from samepage.analysis.cause_classes import CauseClass, classes_of
from samepage.analysis.copies import (
    Cause,
    CopiedArea,
    copied_areas,
    copied_pages,
    find_causes,
    find_unshared,
)
from samepage.snapshot.writes import Frames, Function, WriteTable


@dataclass(frozen=True, slots=True)
class Why:
    """The answer. All counts are of (process, page).

    `copied`: pages copied; `unshared`: pages that left their parent's frame, of which
    `unexplained` have no write; `lost`: events that were dropped. `by_class` and
    `by_function` list causes, largest saving first; a cause's `function` is an index of
    `classes` or `functions`. `by_script`: functions of scripts in which
    the writers were called, as far as they have names; `by_area`: which memory was copied.
    """

    copied: int
    unshared: int
    unexplained: int
    lost: int
    all_writers: bool
    classes: list[CauseClass]
    class_of: list[int]
    functions: list[Function]
    by_class: list[Cause]
    by_function: list[Cause]
    by_script: list[Cause]
    by_area: list[CopiedArea]

    @property
    def complete(self) -> bool:
        """Whether the recorded writes explain every page that left sharing."""
        return self.unexplained == 0 and self.lost == 0


def explain(
    before: Mapping[int, Frames],
    after: Mapping[int, Frames],
    parents: Mapping[int, int],
    writes: WriteTable,
    *,
    all_writers: bool,
    execs: Set[int] = frozenset(),
) -> Why:
    """Compute the answer. `all_writers`: pages were protected again, so that `writes` holds
    later writers too. `execs`: processes that executed another program meanwhile."""
    unshared = find_unshared(before, after, parents, writes, execs)
    classes, class_of = classes_of(writes.functions)
    labels = np.array(class_of, np.int32)
    return Why(
        copied_pages(writes),
        len(unshared),
        int((~unshared.explained).sum()),
        writes.lost,
        all_writers,
        classes,
        class_of,
        writes.functions,
        find_causes(writes, labels[writes.function]),
        find_causes(writes, writes.function),
        find_causes(writes, writes.script),
        copied_areas(writes),
    )
