"""The summary of a capture against the analysis of the same capture as a snapshot."""

from collections.abc import Callable

from live_processes import group_members, needs_frames

from samepage.analysis.groups import Groups, by_container, by_user
from samepage.analysis.lost_sharing import lost_sharing
from samepage.analysis.sharing import Sharing
from samepage.live.capture import read_system
from samepage.live.smaps import account_by_smaps
from samepage.live.summary import Summary
from samepage.live.to_snapshot import to_snapshot

pytestmark = needs_frames


def test_both_say_the_same_of_the_whole_system() -> None:
    capture = read_system()
    summary, sharing = Summary(capture), Sharing(to_snapshot(capture))
    ours = {
        row.process.pid: (row.rss, row.uss, row.swapped, row.dirty) for row in summary.processes
    }
    theirs = {
        use.pid: (
            use.usage.rss,
            use.usage.uss,
            use.usage.swap,
            use.usage.private_dirty + use.usage.shared_dirty,
        )
        for use in sharing.processes
    }
    assert ours == theirs
    pss = {use.pid: use.usage.kernel_pss >> 12 for use in sharing.processes}
    assert {row.process.pid: row.pss for row in summary.processes} == pss
    assert summary.total.rss == sharing.totals.resident_pages
    assert summary.total.frames == sharing.totals.frames
    assert summary.total.copied == sharing.totals.copied_pages
    files = {(use.dev, use.inode): use for use in sharing.files}
    assert len(files) == len(summary.files)
    for row in summary.files:
        use = files[row.file.dev, row.file.ino]
        assert (row.mapped, row.frames, row.copied, row.processes) == (
            use.mapped_pages,
            use.frames,
            use.copied_pages,
            len(use.mappers),
        )
        assert summary.degrees(row.number) == use.degrees


def test_both_say_the_same_of_groups_and_lost_sharing() -> None:
    capture = read_system()
    summary, sharing = Summary(capture), Sharing(to_snapshot(capture))
    for groups, key in (
        (summary.users, by_user),
        (summary.groups(lambda process: f"container {process.container}"), by_container),
    ):
        theirs = {
            use.name: (use.rss, use.frames, use.own_frames) for use in Groups(sharing).by(key)
        }
        found = {row.name.removeprefix("container "): row for row in groups}
        assert {name: (row.rss, row.frames, row.own) for name, row in found.items()} == theirs
    assert sorted((lost.frames, lost.saved) for lost in summary.lost) == sorted(
        (lost.frames, lost.saved_frames) for lost in lost_sharing(sharing)
    )


def test_smaps_gives_the_same_sums_without_frames(
    stopped_program: Callable[[str], int],
) -> None:
    code = (
        "import os, time\nif os.fork() == 0: time.sleep(1000)\n"
        "time.sleep(0.2)\nprint('ready', flush=True)\ntime.sleep(1000)"
    )
    pids = group_members(stopped_program(code))
    for _ in range(10):
        capture = read_system(pids)
        ours, kernel = Summary(capture).sums, account_by_smaps(capture)
        names = ("rss", "uss", "private_dirty", "shared_dirty", "anonymous", "swapped", "pss_kb")
        unequal = [name for name in names if (getattr(ours, name) != getattr(kernel, name)).any()]
        if not unequal:
            return
    raise AssertionError(unequal)


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
    names = ("rss", "uss", "anonymous", "swapped", "pss_kb")
    for _ in range(10):
        exact, quick = (Summary(read_system(pids, all_flags=flags)).sums for flags in (True, False))
        unequal = [name for name in names if (getattr(exact, name) != getattr(quick, name)).any()]
        if not unequal:
            return
    raise AssertionError(unequal)
