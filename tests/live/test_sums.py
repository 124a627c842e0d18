"""The sums of a live system: from frames, from smaps, and with less read."""

from collections.abc import Callable

import numpy as np
from live_processes import group_members, needs_frames

from samepage.analysis.counting import Count
from samepage.analysis.sharing import Sharing
from samepage.live.capture import capture
from samepage.live.smaps import sums_by_smaps
from samepage.snapshot.columns import SMAPS_SUMS

pytestmark = needs_frames


def test_smaps_gives_the_same_sums_without_frames(
    stopped_program: Callable[[str], int],
) -> None:
    code = (
        "import os, time\nif os.fork() == 0: time.sleep(1000)\n"
        "time.sleep(0.2)\nprint('ready', flush=True)\ntime.sleep(1000)"
    )
    pids = group_members(stopped_program(code))
    left: set[tuple[int, ...]] | None = None
    # Other programs of the machine map the same libraries, and come and go, which changes a Pss.
    # What is really wrong is wrong each time.
    for _ in range(60):
        snapshot = capture(pids)
        rows, kernel = sums_by_smaps(snapshot)
        assert rows.tolist() == list(range(len(snapshot.vmas)))
        columns = [getattr(Count, name.upper()) for name in SMAPS_SUMS]
        ours = Sharing(snapshot).counted.vmas[:, columns]
        ours[:, -1] >>= 22  # smaps prints Pss in KiB
        kernel[:, -1] >>= 22
        found = set(map(tuple, np.argwhere(ours != kernel).tolist()))
        left = found if left is None else left & found
        if not left:
            return
    raise AssertionError(left)


def test_what_is_left_unread_changes_no_sum(stopped_program: Callable[[str], int]) -> None:
    code = """
import mmap, os, time
area = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_HUGEPAGE)
area[::4096] = b"h" * 2048
plain = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
total = sum(plain[::4096])
plain[4096] = 1
if os.fork() == 0:
    area[0] = plain[0] = 1
    time.sleep(1000)
time.sleep(0.2)
print("ready", flush=True)
time.sleep(1000)
"""
    pids = group_members(stopped_program(code))
    columns = [Count.RSS, Count.ANONYMOUS, Count.SWAP, Count.ZERO, Count.PSS]
    left: set[tuple[int, ...]] | None = None
    for _ in range(60):  # as above
        exact, quick = (
            Sharing(capture(pids, all_flags=flags)).counted.vmas for flags in (True, False)
        )
        private = (exact[:, 2:4].sum(axis=1), quick[:, 2:4].sum(axis=1))
        unequal = np.argwhere(exact[:, columns] != quick[:, columns]).tolist()
        unequal += np.argwhere(private[0] != private[1]).tolist()
        found = set(map(tuple, unequal))
        left = found if left is None else left & found
        if not left:
            return
    raise AssertionError(left)
