"""Writes, joined while they are recorded, so that memory does not grow with the records.

A fault leaves three records of some hundred bytes, and two kilobytes more with a copy of the user
stack; a write takes a hundred bytes. So each batch is joined as soon as it is read. A fault may
have only a part of its records in the batch, or, if its thread moved to another CPU, a later
part before an earlier one. Therefore a batch has a time before which no record can be missing,
and of each thread only what lies before its last finished fault by then is joined; the rest is
carried over to the next batch.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from samepage.trace.perf.decode import Records, decode
from samepage.trace.perf.event import EventSpec
from samepage.trace.perf.tasks import FOREVER
from samepage.trace.perf.tracefs import Tracepoint
from samepage.trace.stack_words import CodeRanges, reduce_stacks
from samepage.trace.writes import FINISHED, Writes, concatenate, find_writes

Samples = dict[str, list[npt.NDArray[np.void]]]
_NEVER = 0


class WriteStream:
    """`add` batches of records, then `finish`. `tasks` holds the records of `TASK_RECORDS`, and
    `code` the memory in which return addresses are looked for on copied stacks; `lost` counts
    records that were dropped."""

    def __init__(
        self,
        specs: Mapping[int, EventSpec],
        tracepoints: dict[str, Tracepoint],
        *,
        page_shift: int,
        code: CodeRanges | None = None,
    ) -> None:
        """`specs` as `Session.specs`."""
        self._specs = specs
        self._tracepoints = tracepoints
        self._page_shift = page_shift
        self._carried: Samples = {}
        self._parts: list[Writes] = []
        self.code = code or CodeRanges()
        self.lost = 0
        self.tasks: list[tuple[int, int, bytes]] = []

    def add(self, chunks: Iterable[bytes], until: int) -> None:
        """Join the records of a batch; none from before `until` (ns of CLOCK_MONOTONIC) is
        missing."""
        records = decode(chunks, self._specs)
        self.tasks += records.tasks
        self.code.add_made(records.tasks)
        self.lost += records.lost
        samples = reduce_stacks(records.samples, self.code)
        for name, parts in self._carried.items():
            samples.setdefault(name, []).extend(parts)
        if not self._tracepoints:
            self._carried = samples
            return
        ready, self._carried = _split(samples, until)
        self._join(ready, records.lost)

    def finish(self) -> Writes:
        """All writes. Nothing is added afterwards."""
        self._join(self._carried, 0)
        self._carried = {}
        return concatenate(self._parts)

    def rest(self, name: str) -> list[npt.NDArray[np.void]]:
        """The records of an event that were not joined: all, where no tracepoint is recorded."""
        return self._carried.get(name, [])

    def _join(self, samples: Samples, lost: int) -> None:
        if samples or lost or not self._parts:
            records = Records(samples, [], lost)
            self._parts.append(find_writes(records, self._tracepoints, page_shift=self._page_shift))


def _split(samples: Samples, until: int) -> tuple[Samples, Samples]:
    """What can be joined now, and what must wait."""
    finished = [part[["tid", "time"]] for part in samples.get(FINISHED, [])]
    if until >= FOREVER or not finished:
        return (samples, {}) if until >= FOREVER else ({}, samples)
    rows = np.concatenate(finished)
    rows = rows[rows["time"] <= until]
    order = np.lexsort((rows["time"], rows["tid"]))
    rows = rows[order]
    last = np.append(rows["tid"][1:] != rows["tid"][:-1], True) if len(rows) else np.zeros(0, bool)
    tids, times = rows["tid"][last], rows["time"][last]
    ready: Samples = defaultdict(list)
    waiting: Samples = defaultdict(list)
    for name, parts in samples.items():
        for part in parts:
            place = np.minimum(np.searchsorted(tids, part["tid"]), max(len(tids) - 1, 0))
            limit = (
                np.where(tids[place] == part["tid"], times[place], _NEVER)
                if len(tids)
                else np.zeros(len(part), np.uint64)
            )
            now = part["time"] <= limit
            for chosen, kept in ((ready, now), (waiting, ~now)):
                if kept.any():
                    chosen[name].append(part[kept])
    return dict(ready), dict(waiting)
