"""The distinct frames of a capture, and what each is.

What a frame is, follows from kpageflags (`stable_page_flags` in fs/proc/page.c):

    ZERO_PAGE         the zero page, 4 KiB or 2 MiB
    HUGE              hugetlb
    KSM               anonymous, merged by KSM (if the kernel marks no others: `samepage.live.ksm`)
    ANON              anonymous
    SWAPBACKED        of the others: tmpfs, shared memory, memfd
    the rest          the page cache, or the kernel's own page if it is in `[vdso]`

**Dirty** as smaps counts it is `pte_dirty || folio_test_dirty` (`smaps_page_accumulate`).
The second is in kpageflags. The first is in no file of /proc; it follows from how PTEs
become dirty:

- Anonymous: the fault that makes the page makes the PTE dirty, and it stays so. It may be
  clean in two cases, and each shows in the flags: a page read back from swap (SWAPCACHE), and
  one given up by MADV_FREE (not SWAPBACKED). If the PTE was dirtied afterwards, that is not
  seen. And the last few pages (at most 30 per CPU) of MADV_FREE count as dirty until the kernel
  empties its batch of folios to mark.
- KSM marks the frame itself dirty when it merges it (`try_to_merge_one_page`).
- Page cache: filesystems with dirty accounting write-protect clean pages, and the write fault
  marks the folio (`fault_dirty_shared_page`), so the folio's flag is enough.
- tmpfs has no such accounting: a page that was first *read* through a writable shared mapping
  and then written there has a dirty PTE and a clean folio.

The frames of which the PTE would have to be seen are `uncertain`; for processes that have
pages with such frames, `samepage.live.dirty` asks smaps.
"""

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import Kpf
from samepage.live import kpage, ksm
from samepage.records import record
from samepage.snapshot.columns import Frames, Marks
from samepage.snapshot.kinds import FrameFlags, FrameKind

Numbers = npt.NDArray[np.uint64]


@record(eq=False)
class FrameTable:
    """The frames, and what is known of their pages; the columns have the same length."""

    frames: Frames
    dirty: Marks
    """Whether a page with this frame counts as dirty in smaps."""
    uncertain: Marks
    """Not `dirty`, but a page with it may have a dirty PTE that cannot be seen."""
    maybe_ksm: Marks
    """ANON, but may be merged by KSM: the kernel does not show which frames are."""


def classify(
    numbers: Numbers,
    mapped: npt.NDArray[np.int32],
    assumed: Marks,
    exclusive: Marks,
    proc: str,
    ours: Numbers,
) -> FrameTable:
    """Return the frames with these numbers with the kernel's flags and counts; without files yet.

    `mapped` is how many pages of the capture have each. Frames that are `exclusive` need no look
    into kpagecount. Those that are `assumed` to be anonymous and small, as pagemap shows them,
    need none into kpageflags, unless they have no map count: so do zero pages, which pagemap does
    not set apart. If the kernel does not let its flags be read, kinds are UNKNOWN. `ours` are
    frames, ascending, of which one mapping each does not count.
    """
    count = len(numbers)
    mapcount = np.ones(count, dtype=np.int32)
    shared = np.flatnonzero(~exclusive)
    counts = kpage.read_counts(numbers[shared], proc)
    mapcount[shared] = 0 if counts is None else counts
    asked = ~assumed | (mapcount == 0)
    if len(ours):
        low, high = (np.searchsorted(ours, numbers, side=side) for side in ("left", "right"))
        mapcount -= (high - low).astype(np.int32)
    # The counts were read after the pages; a process may have exited in between.
    np.maximum(mapcount, mapped, out=mapcount)
    known = np.full(count, Kpf.ANON | Kpf.SWAPBACKED, dtype=np.uint64)
    known[asked] = kpage.read_flags(numbers[asked], proc)
    marks = ksm.read_marks(known, proc)
    kind = _kinds(marks.flags)
    dirty = _dirty(kind, known)
    flags = np.zeros(count, dtype=np.uint32)
    for bit, flag in (
        (Kpf.DIRTY, FrameFlags.DIRTY),
        (Kpf.REFERENCED, FrameFlags.REFERENCED),
        (Kpf.LRU, FrameFlags.LRU),
        (Kpf.THP, FrameFlags.THP),
        (Kpf.MLOCKED, FrameFlags.MLOCKED),
    ):
        flags |= _has(known, bit) * np.uint32(flag)
    nothing = np.full(count, -1, dtype=np.int32)
    return FrameTable(
        Frames(numbers, kind, nothing, nothing.astype(np.int64), mapcount, flags, mapped),
        dirty,
        ~dirty & ((kind == FrameKind.ANON) | (kind == FrameKind.SHMEM)),
        marks.doubtful,
    )


def _has(flags: Numbers, bit: int) -> Marks:
    found: Marks = (flags & np.uint64(bit)) != 0
    return found


def _kinds(flags: Numbers) -> npt.NDArray[np.uint8]:
    kind = np.full(len(flags), FrameKind.FILE, dtype=np.uint8)
    # From the weakest statement to the strongest, each overrules the ones before it.
    for bit, value in (
        (Kpf.SWAPBACKED, FrameKind.SHMEM),
        (Kpf.ANON, FrameKind.ANON),
        (Kpf.KSM, FrameKind.KSM),
        (Kpf.HUGE, FrameKind.HUGETLB),
        (Kpf.ZERO_PAGE, FrameKind.ZERO),
        (Kpf.NOPAGE, FrameKind.UNKNOWN),
    ):
        kind[_has(flags, bit)] = value
    return kind


def _dirty(kind: npt.NDArray[np.uint8], flags: Numbers) -> Marks:
    may_be_clean = _has(flags, Kpf.SWAPCACHE) | ~_has(flags, Kpf.SWAPBACKED)
    dirty: Marks = _has(flags, Kpf.DIRTY)
    dirty |= (kind == FrameKind.ANON) & ~may_be_clean
    return dirty
