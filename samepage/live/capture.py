"""Capture: physical memory of the running system at one instant, as far as it can be had.

    collect     the bytes of /proc/PID/{maps,pagemap,stat,...}        samepage.live.collect
    build       a snapshot of them                                    samepage.live.system

The kernel has no snapshot of memory: processes run while they are read, and every number
is from the moment it was read. A group of processes that do not run (stopped, or idle) is
captured exactly; the rest as well as /proc allows, with what went wrong counted in `Tally`
and kept in `meta`.
"""

from collections.abc import Sequence

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.errors import SamepageError
from samepage.live.background import BackgroundCollector
from samepage.live.patience import collect_system
from samepage.live.system import CaptureBuilder
from samepage.snapshot.columns import PAGE_SIZE, Snapshot


def capture(
    pids: Sequence[int] | None = None,
    *,
    proc: str = "/proc",
    collector: BackgroundCollector | None = None,
    all_flags: bool = True,
    cgroups: Sequence[str] = (),
    without_us: bool = False,
) -> Snapshot:
    """Return a snapshot of the processes `pids`, None for all of the system.

    If `collector` is given, it collects already (the same pids, of the same `proc`).
    `all_flags` False is faster, and exact in all but what is dirty or merged (`CaptureBuilder`).
    The memory of the control groups of the processes, and of `cgroups`, is read too. `without_us`
    leaves the caller's own mappings out of the map counts (`samepage.live.own_frames`).

    Raises `SamepageError` if `proc` cannot be read, or if the kernel's pages have a size that
    reports and snapshots do not know. A pid that does not exist is only counted.
    """
    if HOST_PAGE_SIZE != PAGE_SIZE:
        raise SamepageError(
            f"this kernel has pages of {HOST_PAGE_SIZE >> 10} KiB: samepage reports pages of "
            f"{PAGE_SIZE >> 10} KiB only"
        )
    builder = CaptureBuilder(
        proc,
        all_flags=all_flags,
        everything=pids is None,
        cgroups=cgroups,
        without_us=without_us,
    )
    if collector is not None:
        batches = collector.batches(builder.tally)
    else:
        batches = collect_system(pids, builder.tally, proc=proc)
    for batch in batches:
        builder.add(batch)
    return builder.build()
