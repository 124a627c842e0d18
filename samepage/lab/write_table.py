"""The table of writes from the faults of a live kernel: each with its function and its memory."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.lab.seen import Seen
from samepage.snapshot.writes import Area, Function, WriteKind, WriteTable
from samepage.trace.perf.tasks import Tasks
from samepage.trace.writes import Writes


def build_table(writes: Writes, tasks: Tasks, seen: Seen, epochs: Sequence[int]) -> WriteTable:
    """Name instructions and memory, each (process, address) once.

    What a process wrote before its last execve is left out: that memory is gone. `epochs` holds
    the times at which pages were protected again.
    """
    kept = _since_exec(writes, tasks)
    pid, page, time = writes.pid[kept], writes.page[kept], writes.time[kept]
    ip = np.where(writes.from_kernel[kept], 0, writes.ip[kept]).astype(np.uint64)
    functions: dict[Function, int] = {}
    pairs, inverse = _unique(pid, ip)
    numbers = np.zeros(len(pairs), np.int32)
    for place, (owner, address) in enumerate(pairs):
        numbers[place] = functions.setdefault(seen.function(owner, address), len(functions))
    function = numbers[inverse]

    callers = writes.callers[kept]
    script = np.full(len(pid), -1, np.int32)
    called = np.flatnonzero(callers.any(1))
    rows = np.concatenate([pid[called, None].astype(np.uint64), callers[called]], 1)
    different, inverse = np.unique(rows, axis=0, return_inverse=True)
    names = np.full(len(different), -1, np.int32)
    for place, (owner, *addresses) in enumerate(different.tolist()):
        found = seen.script_function(owner, addresses)
        if found is not None:
            names[place] = functions.setdefault(found, len(functions))
    script[called] = names[inverse.ravel()]

    areas: dict[Area, int] = {}
    pairs, inverse = _unique(pid, page)
    places = np.zeros(len(pairs), np.int32)
    file_pages = np.zeros(len(pairs), np.int64)
    for place, (owner, number) in enumerate(pairs):
        area, file_pages[place] = seen.area(owner, number * HOST_PAGE_SIZE)
        places[place] = areas.setdefault(area, len(areas))
    file_page = file_pages[inverse]

    kind = writes.kind[kept].copy()
    kind[(kind == WriteKind.FIRST_TOUCH) & (file_page >= 0)] = WriteKind.FILE_COPY
    return WriteTable(
        pid,
        page,
        kind,
        function,
        script,
        places[inverse],
        file_page,
        writes.address[kept],
        writes.ip[kept],
        np.searchsorted(np.array(epochs, np.uint64), time).astype(np.uint32),
        writes.frame[kept],
        list(functions),
        list(areas),
        writes.lost,
    )


def _since_exec(writes: Writes, tasks: Tasks) -> npt.NDArray[np.bool_]:
    kept = np.ones(len(writes), np.bool_)
    for pid in tasks.execs:
        kept &= (writes.pid != pid) | (writes.time >= tasks.last_exec(pid))
    return kept


def _unique(
    pid: npt.NDArray[np.uint32], value: npt.NDArray[np.uint64]
) -> tuple[list[list[int]], npt.NDArray[np.intp]]:
    """The different pairs, and which of them each element is."""
    pairs = np.stack([pid.astype(np.uint64), value], 1)
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    return unique.tolist(), inverse.ravel()
