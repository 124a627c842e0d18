"""The same sums without frame numbers: what the kernel itself reports in /proc/PID/smaps.

A user without CAP_SYS_ADMIN gets no frame numbers (since Linux 4.2), but smaps of the
processes that are their own. It has RSS, PSS and the rest of each VMA, but does not show which
pages are shared with whom.
"""

import re

import numpy as np

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.abi.pagemap import PSS_SHIFT
from samepage.live.procfs import read_file
from samepage.snapshot.columns import SMAPS_SUMS, SmapsSums, Snapshot

_FIELDS = (
    b"Shared_Clean",
    b"Shared_Dirty",
    b"Private_Clean",
    b"Private_Dirty",
    b"Anonymous",
    b"Pss",
)
"""In the order of `SMAPS_SUMS`."""
KB_TO_PAGES = HOST_PAGE_SHIFT - 10
"""smaps counts in kB, in multiples of a page."""
_LINE = re.compile(
    rb"^(?:([0-9a-f]{1,16})-[0-9a-f]{1,16} |("
    + b"|".join((*_FIELDS, b"KSM"))
    + rb"): +([0-9]{1,15}) kB$)",
    re.MULTILINE,
)


def read_smaps(pid: int, proc: str = "/proc") -> dict[int, dict[bytes, int]]:
    """Return the fields of each VMA in kB, by its start address. Raises `OSError`."""
    vmas: dict[int, dict[bytes, int]] = {}
    fields: dict[bytes, int] = {}
    for start, name, value in _LINE.findall(read_file(f"{proc}/{pid}/smaps")):
        if start:
            fields = vmas[int(start, 16)] = {}
        else:
            fields[name] = int(value)
    return vmas


def sums_by_smaps(snapshot: Snapshot, proc: str = "/proc") -> SmapsSums:
    """Return the sums of each VMA that is found in a smaps that may be read."""
    vmas = snapshot.vmas
    rows: list[int] = []
    values: list[list[int]] = []
    for number, process in enumerate(snapshot.processes):
        try:
            found = read_smaps(process.pid, proc)
        except OSError:
            continue
        mine = vmas.of(number)
        for row, start in enumerate(vmas.start[mine].tolist(), mine.start):
            if fields := found.get(start):
                rows.append(row)
                values.append(sums_of(fields))
    table = np.array(values, dtype=np.int64).reshape(-1, len(SMAPS_SUMS))
    return SmapsSums(np.array(rows, dtype=np.int64), table)


def sums_of(fields: dict[bytes, int]) -> list[int]:
    """Return the fields of a VMA, in kB, as `SMAPS_SUMS`."""
    *pages, pss = (fields.get(name, 0) for name in _FIELDS)
    return [*(kib >> KB_TO_PAGES for kib in pages), pss << (10 + PSS_SHIFT)]
