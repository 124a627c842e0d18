"""Addresses are chosen as the live kernel chooses them, given the same mappings."""

import os
import random

import pytest

from samepage.abi.mman import MapFlags
from samepage.kernel.errors import SysError
from samepage.kernel.mm.mmap import do_mmap
from samepage.kernel.mm.vma import Vma, VmFlags
from tests.kernel.mm.live_compare import PAGE, run_live
from tests.kernel.mm.live_model import OpenFile
from tests.kernel.mm.mm_helpers import Memory, MemoryFile
from tests.kernel.mm.test_against_kernel import pytestmark as only_where_it_can

pytestmark = only_where_it_can
HUGE = 2 << 20


def random_places(seed: int, count: int) -> list[list]:
    """mmap calls without MAP_FIXED, some of whose mappings are removed again."""
    rng = random.Random(seed)
    operations = []
    for _ in range(count):
        length = rng.choice(
            [PAGE, 5 * PAGE, 200 * PAGE, HUGE - PAGE, HUGE, HUGE + PAGE, 2 * HUGE, 3 * HUGE + 1]
        )
        fd = rng.choice([None, None, "a", "a", "mem", "zero"])
        flags = rng.choice([1, 2, 2, 2]) | (0 if fd else 0x20) | rng.choice([0, 0, 0, 0x40])
        offset = rng.choice([0, PAGE, HUGE // 2, HUGE - PAGE, HUGE]) if fd else 0
        hint = rng.choice(
            [0, 0, 0, 0x7FFFF0000000, 0x10_0000_0000 + rng.randrange(64) * HUGE // 8, 0x1234]
        )
        operations.append(["place", hint, length, rng.choice([1, 3]), flags, fd, offset])
        if rng.randrange(4) == 0:
            operations.append(["drop"])
    return operations


@pytest.mark.parametrize("seed", range(3))
def test_addresses_agree(seed):
    operations = random_places(seed, 60)
    live = run_live(operations, 64 << 20)
    compared = 0
    for operation, (answer, _) in zip(operations, live, strict=True):
        if operation[0] != "place" or answer[1] is None:
            continue  # something else in the process was mapped at the same time
        address, ranges = answer
        assert place(ranges, *operation[1:]) == address, operation
        compared += 1
    assert compared > 40


def place(ranges, hint, length, prot, flags, fd, offset):
    """What the model answers in a process with these mappings."""
    memory = Memory(64 << 20)
    mm = memory.space()
    for start, end, grows_down in ranges:
        bits = VmFlags.READ | (VmFlags.GROWSDOWN if grows_down else 0)
        mm.vmas.insert(Vma(start, end, bits, special="[other]"))
    file = None
    if fd == "a":
        file = MemoryFile(b"")
        file.size = 64 << 20
    elif fd == "mem":
        file = memory.cache.shmem.create(24 * PAGE)
    try:
        return do_mmap(
            mm,
            hint,
            length,
            prot,
            flags,
            file,
            offset,
            path="/dev/zero" if fd == "zero" else "",
            filp=OpenFile() if fd else None,
            zero_device=fd == "zero",
        )
    except SysError as error:
        return -error.errno


def test_flags_are_those_of_the_host():
    assert MapFlags.LOW_32BIT == 0x40
    assert os.sysconf("SC_PAGESIZE") == PAGE
