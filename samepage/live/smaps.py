"""The same sums without frame numbers: what the kernel itself says in /proc/PID/smaps.

A user without CAP_SYS_ADMIN gets no frame numbers (since Linux 4.2), but smaps of the
processes that are their own. It has RSS, PSS and the rest of each VMA, but does not tell which
pages are shared with whom.
"""

import re

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.abi.pagemap import PSS_SHIFT
from samepage.live.accounting import VmaSums
from samepage.live.procfs import read_file
from samepage.live.system import Capture

_FIELDS = (
    b"Private_Clean",
    b"Private_Dirty",
    b"Shared_Clean",
    b"Shared_Dirty",
    b"Anonymous",
    b"Swap",
    b"Pss",
)
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


def account_by_smaps(capture: Capture, proc: str = "/proc") -> VmaSums:
    """Return the sums of each VMA as smaps has them; 0 where it may not be read."""
    return sums_by_smaps(capture, proc)[0]


def sums_by_smaps(capture: Capture, proc: str = "/proc") -> tuple[VmaSums, npt.NDArray[np.int64]]:
    """Return the sums of each VMA as smaps has them, and which VMAs were found there."""
    told = np.zeros(len(capture.vmas), dtype=bool)
    table = np.zeros((len(_FIELDS), len(capture.vmas)), dtype=np.int64)
    owner = capture.vmas.process
    bounds = np.searchsorted(owner, np.arange(len(capture.processes) + 1)).tolist()
    for process, low, high in zip(capture.processes, bounds, bounds[1:], strict=False):
        try:
            vmas = read_smaps(process.pid, proc)
        except OSError:
            continue
        for row, start in enumerate(capture.vmas.start[low:high].tolist(), low):
            fields = vmas.get(start)
            if fields:
                told[row] = True
                table[:, row] = [fields.get(name, 0) for name in _FIELDS]
    pages = table >> KB_TO_PAGES
    pss = table[_FIELDS.index(b"Pss")].astype(np.uint64) << np.uint64(PSS_SHIFT + 10)
    sums = VmaSums(pages[0], pages[1], pages[2], pages[3], pages[4], pages[5], pss)
    return sums, np.flatnonzero(told)
