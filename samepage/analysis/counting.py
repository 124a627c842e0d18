"""The one pass over all pages that every answer rests on.

The kernel counts for `/proc/PID/smaps` by walking one process's page table and asking each
page how often it is mapped (`smaps_account` and `smaps_page_accumulate` in
fs/proc/task_mmu.c). A snapshot has all page tables at once. What a page adds to a sum depends on
few things: what its frame is, how often that is mapped, and whether the page is dirty. So the
pages of each VMA are counted by these (`Cells`), and all sums, exact or rounded as the kernel
does it, per VMA, process, file or group, are sums of cells.

The kernel's rules, kept here:

- Resident is what is present, but for the zero page and `[vvar]`, which have no `struct
  page` that is accounted (`vm_normal_page` returns NULL), and hugetlb pages, which `smaps`
  counts on lines of their own.
- A page is shared if it is mapped more than once, even if twice by the same process. (Two
  processes with one address space, as between vfork and exec, count as two that share it.)
- A page's share of a frame is 4096 * 2^12 / mapcount, rounded down (PSS_SHIFT): a sum of
  such shares is the kernel's Pss, which can be a little less than the exact one.
"""

import enum
import math
from itertools import pairwise
from operator import mul
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import PSS_SHIFT
from samepage.records import record
from samepage.snapshot.arrays import counted, ranked, summed
from samepage.snapshot.columns import I32, I64, PAGE_SIZE, Marks, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

_PAGES_AT_ONCE = 1 << 18
SHARE_OF_PAGE = PAGE_SIZE << PSS_SHIFT
"""The Pss of a page that is mapped once."""


class Scope(enum.Enum):
    """Which mappings of a frame count."""

    GROUP = "group"
    """Those of the snapshot's processes: what this group of programs costs by itself."""
    SYSTEM = "system"
    """Those of all processes of the machine, as `smaps` has it: also of those not captured."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Scope":
        """Return the natural scope: the model holds nothing else, a live kernel does."""
        return cls.SYSTEM if snapshot.source == "live" else cls.GROUP


class PageClass(enum.IntEnum):
    """What a page counts as."""

    SHARED_FILE = 0
    """Resident and not anonymous: of a file, of shared memory, or the kernel's own."""
    ANONYMOUS = 1
    ZERO = 2
    HUGETLB = 3
    SWAPPED = 4


class Count(enum.IntEnum):
    """The columns of the counters; all in pages but PSS, in 1/4096 bytes."""

    SHARED_CLEAN = 0
    SHARED_DIRTY = 1
    PRIVATE_CLEAN = 2
    PRIVATE_DIRTY = 3
    RSS = 4
    ANONYMOUS = 5
    SWAP = 6
    ZERO = 7
    HUGETLB = 8
    UNKNOWN = 9
    """Resident pages of which it is not known how often they are mapped."""
    PSS = 10


class Cells(NamedTuple):
    """The pages of each VMA by what they are; columns of the same length, ascending by VMA.

    Two cells may be of the same kind: what they hold is to be added up.
    """

    vma: I64
    page_class: I64
    degree: I64
    """How often the frame is mapped, 0 if that is not known."""
    dirty: Marks
    pages: I64

    def take(self, wanted: Marks | slice) -> "Cells":
        """Return some of the cells."""
        numbers = (self.vma[wanted], self.page_class[wanted], self.degree[wanted])
        return Cells(*numbers, self.dirty[wanted], self.pages[wanted])

    def resident(self) -> Marks:
        """Return which count in RSS."""
        resident: Marks = self.page_class <= PageClass.ANONYMOUS
        return resident


@record(eq=False)
class Counted:
    """What was counted in a snapshot.

    Invariants: `vmas` has a row of `Count` for each VMA; in each, RSS = shared + private +
    unknown; `mapped` and `degree` have an entry for each frame, and `degree >= mapped`.
    """

    cells: Cells
    vmas: I64
    mapped: I32
    """How many resident pages of the snapshot have the frame."""
    degree: I32
    """By how many mappings the frame is divided."""
    by_smaps: bool
    """No frame is known, and the sums are the kernel's own."""


def count(snapshot: Snapshot, scope: Scope) -> Counted:
    """Count all pages of a sound snapshot; in bounded memory."""
    unaccounted = _unaccounted(snapshot)
    mapped = _mapped(snapshot, unaccounted)
    degree = mapped
    if scope is Scope.SYSTEM:
        # Counts are read after page tables; a process may have exited in between.
        degree = np.maximum(mapped, snapshot.frames.mapcount)
    cells = _cells(snapshot, degree)
    if unaccounted.any():
        cells = cells.take(~unaccounted[cells.vma])
    vmas = _sums(cells, len(snapshot.vmas))
    by_smaps = False
    if scope is Scope.SYSTEM and len(snapshot.smaps.vma):
        by_smaps = not len(snapshot.frames)
        _take_smaps(vmas, snapshot)
    return Counted(cells, vmas, mapped, degree, by_smaps)


def _unaccounted(snapshot: Snapshot) -> Marks:
    """Return which VMAs are mapped by frame number, without a `struct page`: [vvar]."""
    mappings = snapshot.vmas.mappings
    marks = np.array([mapping.name.startswith("[vvar") for mapping in mappings], dtype=bool)
    return marks[snapshot.vmas.mapping]


def _mapped(snapshot: Snapshot, unaccounted: Marks) -> I32:
    frames = snapshot.frames
    mapped = np.append(np.where(frames.resident(), frames.mapped, 0), 0).astype(np.int32)
    for vma in np.flatnonzero(unaccounted).tolist():
        first, last = snapshot.bounds[vma : vma + 2].tolist()
        np.subtract.at(mapped, snapshot.pages.frame[first:last], np.int32(1))
    return np.maximum(mapped[:-1], 0)


_CLASS_BITS = 3
_OTHERS = (
    PageClass.SWAPPED,
    *(degree << _CLASS_BITS | kind for degree in (0, 1) for kind in (0, 1)),
)
"""Keys of pages whose frame is not known: by the degree, which EXCLUSIVE shows if it is 1, and
by whether they are anonymous."""


def _cells(snapshot: Snapshot, degree: I32) -> Cells:
    """Count the pages of each VMA by class, degree and dirtiness."""
    pages, bounds, frames = snapshot.pages, snapshot.bounds, snapshot.frames
    kind = frames.anonymous() * np.int64(PageClass.ANONYMOUS)
    kind[frames.kind == FrameKind.ZERO] = PageClass.ZERO
    kind[frames.kind == FrameKind.HUGETLB] = PageClass.HUGETLB
    times = np.where(frames.resident(), degree, 0).astype(np.int64)
    keys, rank = ranked(np.append(times << _CLASS_BITS | kind, _OTHERS))
    # The last row, that of pages without a frame, is filled in where there are such.
    code, others = (2 * rank[: len(frames) + 1]).astype(np.int32), 2 * rank[len(frames) :]
    parts = []
    for low in range(0, len(pages), _PAGES_AT_ONCE):
        high = min(low + _PAGES_AT_ONCE, len(pages))
        rows, flags = pages.frame[low:high], pages.flags[low:high]
        codes = code[rows]
        lone = np.flatnonzero(rows == len(frames))
        if len(lone):
            codes[lone] = others[_other(flags[lone])]
        codes += (flags & np.uint16(PageFlags.DIRTY)) != 0
        begin = int(np.searchsorted(bounds, low, side="right")) - 1
        end = int(np.searchsorted(bounds, high, side="left"))
        cuts = np.clip(bounds[begin : end + 1], low, high)
        places = np.repeat(np.arange(end - begin) * (2 * len(keys)), cuts[1:] - cuts[:-1])
        places += codes
        found, numbers = counted(places, (end - begin) * 2 * len(keys))
        vma, code_of = np.divmod(found, 2 * len(keys))
        parts.append((vma + begin, code_of, numbers))
    nothing = np.empty(0, dtype=np.int64)
    vma, code_of, numbers = map(np.concatenate, zip((nothing,) * 3, *parts, strict=True))
    key = keys[code_of >> 1]
    known = (1 << _CLASS_BITS) - 1
    return Cells(vma, key & known, key >> _CLASS_BITS, (code_of & 1) != 0, numbers)


def _other(flags: npt.NDArray[np.uint16]) -> I64:
    """Return the place in `_OTHERS` of pages whose frame is not known."""
    present, file, exclusive = (
        (flags & np.uint16(flag)) != 0
        for flag in (PageFlags.PRESENT, PageFlags.FILE, PageFlags.EXCLUSIVE)
    )
    return np.where(present, 1 + 2 * exclusive + ~file, 0)


def _sums(cells: Cells, vmas: int) -> I64:
    """Add up the cells of each VMA: its row of `Count`."""
    sums = np.zeros((vmas, len(Count)), dtype=np.int64)
    resident = cells.resident()
    known = resident & (cells.degree > 0)
    corner = 2 * (cells.degree == 1) + cells.dirty  # the first four of `Count`
    np.add.at(sums, (cells.vma[known], corner[known]), cells.pages[known])
    shares = SHARE_OF_PAGE // np.maximum(cells.degree, 1) * cells.pages
    np.add.at(sums[:, Count.PSS], cells.vma[known], shares[known])
    for column, mask in (
        (Count.RSS, resident),
        (Count.ANONYMOUS, cells.page_class == PageClass.ANONYMOUS),
        (Count.SWAP, cells.page_class == PageClass.SWAPPED),
        (Count.ZERO, cells.page_class == PageClass.ZERO),
        (Count.HUGETLB, cells.page_class == PageClass.HUGETLB),
        (Count.UNKNOWN, resident & (cells.degree == 0)),
    ):
        np.add.at(sums[:, column], cells.vma[mask], cells.pages[mask])
    return sums


def _take_smaps(sums: I64, snapshot: Snapshot) -> None:
    """Take from smaps what the pages do not show of some VMAs.

    Without frames these are all sums. With them only how many of the shared and private pages
    are dirty is missing: RSS and the rest are counted, and stay.
    """
    rows, smaps = snapshot.smaps
    if not len(snapshot.frames):
        sums[rows, :4] = smaps[:, :4]
        sums[rows, Count.RSS] = smaps[:, :4].sum(axis=1)
        sums[rows, Count.ANONYMOUS] = smaps[:, 4]
        sums[rows, Count.PSS] = smaps[:, 5]
        sums[rows, Count.UNKNOWN] = 0
        return
    for clean, dirty in (
        (Count.SHARED_CLEAN, Count.SHARED_DIRTY),
        (Count.PRIVATE_CLEAN, Count.PRIVATE_DIRTY),
    ):
        pages = sums[rows, clean] + sums[rows, dirty]
        sums[rows, dirty] = np.clip(smaps[:, dirty], sums[rows, dirty], pages)
        sums[rows, clean] = pages - sums[rows, dirty]


class Shares(NamedTuple):
    """Exact Pss: a sum of pages, each divided by how often its frame is mapped.

    All sums of one snapshot are over one common denominator, since adding fractions one by one
    would reduce each sum anew.
    """

    numerators: list[int]
    denominator: int


def exact_shares(cells: Cells, group: I64, groups: int) -> Shares:
    """Return the exact Pss in pages of each group; `group` numbers those of the cells."""
    known = cells.resident() & (cells.degree > 0)
    degrees, rank = ranked(cells.degree[known])
    denominator = math.lcm(*degrees.tolist())
    parts = [denominator // degree for degree in degrees.tolist()]
    keys, pages = summed(group[known] * len(degrees) + rank, cells.pages[known])
    number, degree = np.divmod(keys, max(len(degrees), 1))
    cuts = np.searchsorted(number, np.arange(groups + 1)).tolist()
    terms = list(map(mul, pages.tolist(), map(parts.__getitem__, degree.tolist())))
    numerators = [sum(terms[low:high]) for low, high in pairwise(cuts)]
    return Shares(numerators, denominator)
