"""Copied pages by who made the copy: stacks from the cause down to the memory, weighted in pages.

What profilers' views take: each copied page (process, page) counts once, for the write that
copied it first.
"""

from collections import Counter

import numpy as np

from samepage.analysis.why import Why
from samepage.snapshot.writes import WriteTable

Stack = tuple[str, ...]
"""Cause; function of a script, if it is known; function (file); memory."""


def write_stacks(why: Why, writes: WriteTable) -> list[tuple[Stack, int]]:
    """The stacks and their pages, most pages first. The sum is `why.copied`."""
    copies = np.flatnonzero(writes.copies)
    keys = np.stack([writes.pid[copies].astype(np.uint64), writes.page[copies]], 1)
    first = copies[np.unique(keys, axis=0, return_index=True)[1]] if len(copies) else copies
    columns = (writes.function[first], writes.script[first], writes.area[first])
    counts = Counter(zip(*(column.tolist() for column in columns), strict=True))
    stacks: Counter[Stack] = Counter()
    for (function, script, area), pages in counts.items():
        stacks[_stack(why, writes, function, script, area)] += pages
    return sorted(stacks.items(), key=lambda item: (-item[1], item[0]))


def _stack(why: Why, writes: WriteTable, function: int, script: int, area: int) -> Stack:
    written_by = why.functions[function]
    place = written_by.file.rpartition("/")[2] or "no file"
    called_in = (f"{why.functions[script]} ({why.functions[script].file})",) if script >= 0 else ()
    cause = why.classes[why.class_of[function]].title
    return (cause, *called_in, f"{written_by} ({place})", str(writes.areas[area]))
