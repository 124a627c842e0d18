"""Which frames KSM has merged, also where the kernel's mark of them means nothing.

Pages of equal content in areas given to `MADV_MERGEABLE` become one frame, write-protected
(mm/ksm.c). /proc/kpageflags marks such a frame with KPF_KSM. A frame's kind is in the low bits
of `folio->mapping`: ANON is 1, and KSM is 3, with ANON a part of it.

- Before Linux 6.10 the kernel compares both bits (`PageKsm`).
- Commit dee3d0bef2b0 ("proc: rewrite stable_page_flags()") tests `mapping & PAGE_MAPPING_KSM`,
  which is true for *every* anonymous frame.
- Later kernels compare both bits again. Distributions backport such changes, so the version does
  not decide: a page of our own does. It is anonymous, was just written, and nothing can have
  merged it yet. If it is marked, the mark means nothing.

Where it means nothing, what the kernel has not merged can be excluded:

- `/sys/kernel/mm/ksm/full_scans` is 0 as long as KSM has never been through all memory. A page
  must keep its content from one scan to the next before it is merged (`cmp_and_merge_page`), so
  then nothing is. (`pages_shared` is no proof: it counts what KSM tracks, and a child that was
  forked after a merge keeps the frames when its parent, which KSM tracked, has exited.)
- A merged frame is a single page, and dirty: `try_to_merge_one_page` marks it so, and only
  writing it to swap ends that, while it is in the swap cache.

The others are *doubtful*. The line "KSM:" of smaps counts the merged pages of a VMA
(`smaps_account`, since Linux 6.6, by `folio_test_ksm`). If none of a VMA's doubtful pages is
merged by it, or all are, that decides for their frames, in each VMA that maps them. If neither,
which ones is not known: they stay anonymous, and the report has their number
(`frames_ksm_or_not_unknown` in `meta`). `samepage.live.merged` does that.
"""

import mmap
import os
from ctypes import addressof, c_char

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import ENTRY_SIZE, Kpf, Pm
from samepage.live import kpage
from samepage.records import record

SYSFS = "/sys/kernel/mm/ksm"

_DIRTY_OR_IN_SWAP = Kpf.DIRTY | Kpf.SWAPCACHE
_LARGE = Kpf.COMPOUND_HEAD | Kpf.COMPOUND_TAIL


@record(eq=False)
class Marks:
    """Entries of kpageflags that can be believed."""

    flags: kpage.Numbers
    """KPF_KSM is set for frames only that are certainly merged."""
    doubtful: npt.NDArray[np.bool_]
    """Which of the others may be merged all the same."""


def read_marks(flags: kpage.Numbers, proc: str = "/proc") -> Marks:
    """Return what the KPF_KSM in `flags`, entries of kpageflags, means on this kernel."""
    marked = (flags & np.uint64(Kpf.KSM)) != 0
    if not marked.any() or mark_is_right(proc):
        return Marks(flags, np.zeros(len(flags), dtype=bool))
    if has_ever_run():
        marked &= (flags & np.uint64(_DIRTY_OR_IN_SWAP)) != 0
        marked &= (flags & np.uint64(_LARGE)) == 0
    else:
        marked[:] = False
    return Marks(flags & ~np.uint64(Kpf.KSM), marked)


def mark_is_right(proc: str = "/proc") -> bool:
    """Whether KPF_KSM is set for merged frames only, as a page of our own shows.

    True also where that page's flags cannot be read: then no page's can.
    """
    return not own_page_flags(proc) & Kpf.KSM


def own_page_flags(proc: str = "/proc") -> int:
    """Return the entry of kpageflags of an anonymous page just made; 0 if it cannot be read."""
    with mmap.mmap(-1, HOST_PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[:8] = os.urandom(8)
        first = c_char.from_buffer(page)
        address = addressof(first)
        del first  # or the page could not be unmapped
        entry = _entry(f"{proc}/self/pagemap", address // HOST_PAGE_SIZE)
        return _entry(f"{proc}/kpageflags", entry & Pm.PFRAME) if entry & Pm.PFRAME else 0


def has_ever_run(sysfs: str | None = None) -> bool:
    """Whether KSM has been through all memory at least once since the system started.

    False without the directory: the kernel is built without KSM.
    """
    try:
        with open(f"{sysfs or SYSFS}/full_scans", "rb") as file:
            return int(file.read()) > 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def _entry(path: str, number: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int.from_bytes(os.pread(fd, ENTRY_SIZE, number * ENTRY_SIZE), "little")
    except OSError:
        return 0
    finally:
        os.close(fd)
