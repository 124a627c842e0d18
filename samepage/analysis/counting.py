"""The pass over all pages that every answer rests on.

The kernel counts for `/proc/PID/smaps` by walking one process's page table and asking each
page how often it is mapped (`smaps_account` and `smaps_page_accumulate` in
fs/proc/task_mmu.c). A snapshot has all page tables at once: each page is classified by what its
frame is, whether that is mapped more than once, and whether the page is dirty, and the classes
are counted for each VMA. Sums of processes, files and groups are sums of VMAs.

The kernel's rules, kept here:

- Resident is what is present, but for the zero page and `[vvar]`, which have no `struct
  page` that is accounted (`vm_normal_page` returns NULL), and hugetlb pages, which `smaps`
  counts on lines of their own.
- A page is shared if it is mapped more than once, even if twice by the same process. (Two
  processes with one address space, as between vfork and exec, count as two that share it.)
- A page's share of a frame is 4096 * 2^12 / mapcount, rounded down (PSS_SHIFT): a sum of
  such shares is the kernel's Pss, which can be a little less than the exact one
  (`samepage.analysis.shares`).
"""

import enum
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import PSS_SHIFT
from samepage.records import record
from samepage.snapshot.arrays import ranges
from samepage.snapshot.columns import I32, I64, PAGE_SIZE, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

_PAGES_AT_ONCE = 1 << 15
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


class Count:
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


COLUMNS = 11
"""How many columns `Count` names."""


class _Class:
    """What a page counts as; the first six are resident.

    A page of a class that is dirty is counted apart: its code is twice the class and one.
    """

    SHARED_FILE = 0
    """Not anonymous: of a file, of shared memory, or the kernel's own."""
    PRIVATE_FILE = 1
    SHARED_ANONYMOUS = 2
    PRIVATE_ANONYMOUS = 3
    UNKNOWN_FILE = 4
    UNKNOWN_ANONYMOUS = 5
    ZERO = 6
    HUGETLB = 7
    SWAPPED = 8
    NOTHING = 9


_CODES = 20


@record(eq=False)
class Counted:
    """What was counted in a snapshot.

    Invariants: `vmas` has a row of `Count` for each VMA; in each, RSS = shared + private +
    unknown; `mapped` and `degree` have an entry for each frame, and `degree >= mapped`.
    """

    vmas: I64
    mapped: I32
    """How many resident pages of the snapshot have the frame."""
    degree: I32
    """By how many mappings the frame is divided."""
    unaccounted: I64
    """The numbers of the pages without a `struct page` that is accounted, ascending."""
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
    vmas = _sums(*_classes(snapshot, degree, unaccounted))
    by_smaps = False
    if scope is Scope.SYSTEM and len(snapshot.smaps.vma):
        by_smaps = not len(snapshot.frames)
        _take_smaps(vmas, snapshot)
    return Counted(vmas, mapped, degree, unaccounted, by_smaps)


def pieces(bounds: I64) -> Iterator[tuple[slice, slice, I64]]:
    """Yield the pages of groups in pieces: pages, groups, and how many of the pages each has.

    Group `g` has the pages `bounds[g]` to `bounds[g + 1]`; the bounds ascend.
    """
    first, last = int(bounds[0]), int(bounds[-1])
    for low in range(first, last, _PAGES_AT_ONCE):
        high = min(low + _PAGES_AT_ONCE, last)
        begin = int(np.searchsorted(bounds, low, side="right")) - 1
        end = int(np.searchsorted(bounds, high, side="left"))
        cuts = np.clip(bounds[begin : end + 1], low, high)
        yield slice(low, high), slice(begin, end), cuts[1:] - cuts[:-1]


def within(numbers: I64, part: slice) -> I64:
    """Return which of these ascending numbers of pages are in a piece, counted from its first."""
    low, high = np.searchsorted(numbers, (part.start, part.stop)).tolist()
    inside: I64 = numbers[low:high] - part.start
    return inside


def _unaccounted(snapshot: Snapshot) -> I64:
    """Return the pages of VMAs that are mapped by frame number, without `struct page`: [vvar]."""
    mappings = snapshot.vmas.mappings
    marks = np.array([mapping.name.startswith("[vvar") for mapping in mappings], dtype=bool)
    vmas = np.flatnonzero(marks[snapshot.vmas.mapping])
    return ranges(snapshot.bounds[vmas], snapshot.bounds[vmas + 1])


def _mapped(snapshot: Snapshot, unaccounted: I64) -> I32:
    frames = snapshot.frames
    mapped = np.append(np.where(frames.resident(), frames.mapped, 0), 0).astype(np.int32)
    np.subtract.at(mapped, snapshot.pages.frame[unaccounted], np.int32(1))
    return np.maximum(mapped[:-1], 0)


def _classes(snapshot: Snapshot, degree: I32, unaccounted: I64) -> tuple[I64, I64]:
    """Return for each VMA how many pages of each code it has, and its Pss."""
    pages, bounds = snapshot.pages, snapshot.bounds
    code, share = _of_frames(snapshot, degree)
    counts = np.zeros((len(snapshot.vmas), _CODES), dtype=np.int64)
    pss = np.zeros(len(snapshot.vmas), dtype=np.int64)
    for part, vmas, lengths in pieces(bounds):
        rows, flags = pages.frame[part], pages.flags[part]
        codes, shares = code[rows], share[rows]
        lone = np.flatnonzero(rows == len(snapshot.frames))
        if len(lone):
            codes[lone], shares[lone] = _without_frame(flags[lone])
        hidden = within(unaccounted, part)
        codes[hidden], shares[hidden] = 2 * _Class.NOTHING, 0
        codes += (flags & np.uint16(PageFlags.DIRTY)) != 0
        places = np.repeat(np.arange(len(lengths)) * _CODES, lengths)
        places += codes
        found = np.bincount(places, minlength=len(lengths) * _CODES)
        counts[vmas] += found.reshape(-1, _CODES)
        filled = np.flatnonzero(lengths)
        ends = np.cumsum(lengths[filled])
        pss[vmas.start + filled] += np.add.reduceat(shares, ends - lengths[filled])
    return counts, pss


def _of_frames(snapshot: Snapshot, degree: I32) -> tuple[npt.NDArray[np.uint8], I64]:
    """Return the code of a clean page and its share, by its frame; last, of one without frame."""
    frames = snapshot.frames
    code = 2 * _Class.SHARED_ANONYMOUS * frames.anonymous().astype(np.uint8)
    code += np.uint8(2 * _Class.PRIVATE_FILE) * (degree == 1)
    unknown = degree == 0
    code[unknown] = (code[unknown] >> 1) + 2 * _Class.UNKNOWN_FILE
    code[frames.kind == FrameKind.ZERO] = 2 * _Class.ZERO
    code[frames.kind == FrameKind.HUGETLB] = 2 * _Class.HUGETLB
    known = frames.resident() & ~unknown
    share = np.where(known, SHARE_OF_PAGE // np.maximum(degree, 1).astype(np.int64), 0)
    return np.append(code, np.uint8(0)), np.append(share, 0)


def _without_frame(flags: npt.NDArray[np.uint16]) -> tuple[I64, I64]:
    """Return the codes of pages whose frame is not known, and their shares.

    EXCLUSIVE shows that a page is mapped once.
    """
    present, file, exclusive = (
        (flags & np.uint16(flag)) != 0
        for flag in (PageFlags.PRESENT, PageFlags.FILE, PageFlags.EXCLUSIVE)
    )
    once = np.where(file, _Class.PRIVATE_FILE, _Class.PRIVATE_ANONYMOUS)
    unknown = np.where(file, _Class.UNKNOWN_FILE, _Class.UNKNOWN_ANONYMOUS)
    known = present & exclusive
    classes = np.where(present, np.where(exclusive, once, unknown), _Class.SWAPPED)
    return 2 * classes, known * np.int64(SHARE_OF_PAGE)


def _sums(counts: I64, pss: I64) -> I64:
    """Return the row of `Count` of each VMA."""
    sums = np.empty((len(counts), COLUMNS), dtype=np.int64)
    of_class = counts[:, ::2] + counts[:, 1::2]
    for column, first in ((Count.SHARED_CLEAN, 0), (Count.PRIVATE_CLEAN, 2)):
        for dirty in (0, 1):
            sums[:, column + dirty] = counts[:, first + dirty] + counts[:, first + dirty + 4]
    sums[:, Count.RSS] = of_class[:, : _Class.ZERO].sum(axis=1)
    sums[:, Count.ANONYMOUS] = (
        of_class[:, _Class.SHARED_ANONYMOUS]
        + of_class[:, _Class.PRIVATE_ANONYMOUS]
        + of_class[:, _Class.UNKNOWN_ANONYMOUS]
    )
    sums[:, Count.SWAP] = of_class[:, _Class.SWAPPED]
    sums[:, Count.ZERO] = of_class[:, _Class.ZERO]
    sums[:, Count.HUGETLB] = of_class[:, _Class.HUGETLB]
    sums[:, Count.UNKNOWN] = (
        of_class[:, _Class.UNKNOWN_FILE] + of_class[:, _Class.UNKNOWN_ANONYMOUS]
    )
    sums[:, Count.PSS] = pss
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
