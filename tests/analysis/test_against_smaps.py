"""The analysis of a live capture against the kernel's own smaps, VMA by VMA.

The processes do not run: a parent and its forked children, stopped. What the kernel and we
look at is then the same, and no page may be off.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest

from samepage.analysis.counting import Scope
from samepage.analysis.sharing import Sharing, VmaUse
from samepage.live.capture import capture
from samepage.snapshot.columns import Snapshot

FORKED = """
import mmap, os, time
shared = mmap.mmap(-1, 32 * 4096)
shared[: 8 * 4096] = b"s" * 8 * 4096
private = bytearray(b"p") * (2 << 20)
untouched = mmap.mmap(-1, 16 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
total = sum(untouched[::4096])
# Read, then half of it written: the kernel shows how many of these are dirty, but not which.
descriptor = os.memfd_create("half")
os.ftruncate(descriptor, 32 * 4096)
half = mmap.mmap(descriptor, 32 * 4096)
total += sum(half[::4096])
half[: 16 * 4096] = b"h" * 16 * 4096
ready, done = os.pipe()
for child in range(2):
    if os.fork() == 0:
        private[: 4096 * 100 * (child + 1)] = b"c" * (4096 * 100 * (child + 1))
        os.write(done, b".")
        time.sleep(1000)
os.read(ready, 1), os.read(ready, 1)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def stopped() -> Iterator[list[int]]:
    """The pids of a parent and its children, all of them stopped."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKED], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children") as children:
            pids = [parent.pid, *map(int, children.read().split())]
        os.killpg(parent.pid, signal.SIGSTOP)
        for pid in pids:
            wait_until_stopped(pid)
        yield sorted(pids)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()


def wait_until_stopped(pid: int) -> None:
    for _ in range(1000):
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "T":
                return
        time.sleep(0.005)
    raise AssertionError(f"{pid} does not stop")


@pytest.fixture(scope="module")
def snapshot(stopped: list[int]) -> Snapshot:
    found = capture(stopped)
    if not found.frames_visible:
        pytest.skip("the kernel shows frame numbers only with CAP_SYS_ADMIN")
    return found


def kernel_smaps(pid: int) -> dict[int, dict[str, int]]:
    """Return the KiB of each VMA by its start, as the kernel counts them."""
    found: dict[int, dict[str, int]] = {}
    current: dict[str, int] = {}
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            key, _, rest = line.partition(":")
            if "-" in key:
                current = found[int(key.split("-")[0], 16)] = {}
            elif rest.endswith(" kB\n"):
                current[key] = int(rest.split()[0])
    return found


def our_smaps(vma: VmaUse) -> dict[str, int]:
    usage = vma.usage
    return {
        "Rss": usage.rss * 4,
        "Pss": usage.pss_kib,
        "Shared_Clean": usage.shared_clean * 4,
        "Shared_Dirty": usage.shared_dirty * 4,
        "Private_Clean": usage.private_clean * 4,
        "Private_Dirty": usage.private_dirty * 4,
        "Anonymous": usage.anonymous * 4,
        "Swap": usage.swap * 4,
    }


def test_each_vma_has_the_kernels_numbers(stopped: list[int], snapshot: Snapshot) -> None:
    # Other programs of the machine map the same libraries, and come and go while we look. A
    # page that is really counted wrong is wrong in every attempt, a page of theirs is not.
    for _ in range(20):
        kernel = {pid: kernel_smaps(pid) for pid in stopped}
        sharing = Sharing(capture(stopped))
        different = differences(sharing, kernel)
        if not different:
            break
        time.sleep(0.1)
    assert different == []
    assert sharing.scope is Scope.SYSTEM


def differences(sharing: Sharing, kernel: dict[int, dict[int, dict[str, int]]]) -> list[str]:
    """Return the VMAs in which any number is not the kernel's, with both sides."""
    found = []
    for pid, smaps in kernel.items():
        number = sharing.snapshot.process_number(pid)
        assert number is not None
        vmas = sharing.vmas(number)
        assert [vma.start for vma in vmas] == list(smaps)
        for vma in vmas:
            ours = our_smaps(vma)
            theirs = {key: smaps[vma.start][key] for key in ours}
            if ours != theirs:
                found.append(f"{pid} {vma.start:x} {vma.mapping.name}: {ours} is {theirs} in smaps")
    return found


def test_the_group_alone_is_paid_for_exactly(stopped: list[int], snapshot: Snapshot) -> None:
    sharing = Sharing(snapshot, Scope.GROUP)
    assert [process.pid for process in snapshot.processes] == stopped
    pss = sum((process.pss for process in sharing.processes), Fraction(0))
    assert pss == sharing.totals.frames
    # 2 MiB of private memory: 512 pages, of which one child copied 100 and the other 200
    assert sharing.totals.saved_pages > 2 * 512 - 300
