"""Capture: physical memory of the running system at one instant, as far as it can be had.

    collect     the bytes of /proc/PID/{maps,pagemap,stat,...}        samepage.live.collect
    build       columns of processes, VMAs, pages, frames and files   samepage.live.system
    merge       files that are one inode below overlay mounts         samepage.live.aliases
    settle      dirty and merged pages that only smaps shows          samepage.live.dirty, .merged

The kernel has no snapshot of memory: processes go on while they are read, and every number
is from the moment it was read. A group of processes that stand still (stopped, or idle) is
captured exactly; the rest as well as /proc allows, with what went wrong counted in `Tally`.

`read_system` returns a `Capture`, plain NumPy columns; `capture` returns the `Snapshot`
that the rest of samepage takes. They are apart because Arrow takes as long to import as the
whole system takes to read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.errors import SamepageError
from samepage.live.aliases import merge_aliases
from samepage.live.background import BackgroundCollector
from samepage.live.dirty import settle_dirty
from samepage.live.merged import settle_merged
from samepage.live.patience import collect_system
from samepage.live.system import Capture, CaptureBuilder

if TYPE_CHECKING:
    from samepage.snapshot.tables import Snapshot

REPORTED_PAGE_SIZE = 4096
"""What one page is in a snapshot and in every report (`samepage.report.sizes`)."""


def capture(pids: Sequence[int] | None = None, *, proc: str = "/proc") -> "Snapshot":
    """Return a snapshot of the processes `pids`, None for all of the system.

    Raises `SamepageError` if `proc` cannot be read, or if the kernel's pages have a size that
    reports and snapshots do not know. A pid that does not exist is only counted.
    """
    from samepage.live.to_snapshot import to_snapshot

    return to_snapshot(read_system(pids, proc=proc), use_up=True, proc=proc)


def read_system(
    pids: Sequence[int] | None = None,
    *,
    proc: str = "/proc",
    collector: BackgroundCollector | None = None,
    all_flags: bool = True,
) -> Capture:
    """Return the capture of the processes `pids`, None for all. Errors as in `capture`.

    If `collector` is given, it collects already (the same pids, of the same `proc`).
    `all_flags` False is faster, and exact in all but what is dirty or merged (`CaptureBuilder`).
    """
    if HOST_PAGE_SIZE != REPORTED_PAGE_SIZE:
        raise SamepageError(
            f"this kernel has pages of {HOST_PAGE_SIZE >> 10} KiB: samepage reports pages of "
            f"{REPORTED_PAGE_SIZE >> 10} KiB only"
        )
    builder = CaptureBuilder(proc, all_flags=all_flags)
    if collector is not None:
        batches = collector.batches(builder.tally)
    else:
        batches = collect_system(pids, builder.tally, proc=proc)
    for batch in batches:
        builder.add(batch)
    capture = builder.build()
    merge_aliases(capture)
    if all_flags:
        settle_dirty(capture, proc)
        settle_merged(capture, proc)
    return capture
