"""What the tests of the live kernel have in common: the oracle, and waiting for processes."""

import os
import time

import pytest

SmapsVma = dict[str, int]
KEYS = (
    "Pss",
    "Rss",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Anonymous",
    "Swap",
)


def frames_are_visible() -> bool:
    """Whether the kernel shows us frame numbers (CAP_SYS_ADMIN)."""
    page = memoryview(bytearray(4096))
    assert page
    with open("/proc/self/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(start // 4096 * 8)
        return int.from_bytes(pagemap.read(8), "little") & ((1 << 55) - 1) != 0


needs_frames = pytest.mark.skipif(
    not frames_are_visible(), reason="the kernel shows frame numbers only with CAP_SYS_ADMIN"
)


def read_smaps(pid: int) -> dict[int, SmapsVma]:
    """Return the kB of each VMA by its start address, as the kernel counts them."""
    found: dict[int, SmapsVma] = {}
    current: SmapsVma = {}
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="surrogateescape") as smaps:
        for line in smaps:
            key, colon, value = line.partition(":")
            if key in KEYS and colon:
                current[key] = int(value.split()[0])
            elif "-" in key and not key[0].isupper():
                current = found[int(key.split("-")[0], 16)] = {}
    return found


def group_members(pgid: int) -> list[int]:
    """Return the pids of a process group, ascending."""
    members = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getpgid(int(name)) == pgid:
                    members.append(int(name))
            except ProcessLookupError:
                pass
    return sorted(members)


def wait_until_stopped(pid: int) -> None:
    """Wait until the process is in state T."""
    for _ in range(1000):
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "T":
                return
        time.sleep(0.005)
    raise AssertionError(f"{pid} does not stop")
