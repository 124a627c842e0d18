"""The model does what the live kernel does: random sequences, and each difference that was
ever found, under the name of the rule it taught."""

import os
import platform

import pytest

from tests.kernel.mm.live_compare import ARENA, PAGE, first_difference, sequence

PRIVATE_FIXED, SHARED_FIXED, ANONYMOUS = 0x12, 0x11, 0x20
POPULATE = 0x8000


def _why_not() -> str:
    if os.geteuid():
        return "needs root: frame numbers in /proc/self/pagemap"
    release = tuple(int(n) for n in platform.release().split(".")[:2])
    if release != (6, 18):
        return f"the rules are those of Linux 6.18, this is {platform.release()}"
    return ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@pytest.mark.parametrize("seed", range(6))
def test_random_sequences_agree(seed):
    assert first_difference(sequence(seed, 100)) is None


def private(page, pages, prot=3, fd=None, offset=0):
    flags = PRIVATE_FIXED | (0 if fd else ANONYMOUS)
    return ["mmap", ARENA + page * PAGE, pages * PAGE, prot, flags, fd, offset * PAGE]


def shared(page, pages, prot=3, fd=None, offset=0):
    return [
        *private(page, pages, prot, fd, offset)[:4],
        SHARED_FIXED | (0 if fd else ANONYMOUS),
        fd,
        offset * PAGE,
    ]


def touch(page, write=0):
    return ["touch", ARENA + page * PAGE, write]


def on(name, page, pages, *rest):
    return [name, ARENA + page * PAGE, pages * PAGE, *rest]


CASES = {
    "fault-around maps nothing if the last page of a file comes first and no table is there": [
        private(0, 8, 1, "a", 39),
        touch(3),
    ],
    "fault-around maps the last page of a file if the table is there": [
        [*private(64, 4)[:4], PRIVATE_FIXED | ANONYMOUS | POPULATE, None, 0],
        private(42, 8, 1, "a", 39),
        touch(45),
    ],
    "a private mapping of /dev/zero cannot move together with others": [
        private(0, 8, 1, "zero"),
        on("mremap", 4, 8, 8 * PAGE, 3, ARENA + 40 * PAGE),
    ],
    "MADV_FREE clears the dirty bit of pages that are shared after fork": [
        private(0, 4),
        touch(0, 1),
        ["fork"],
        on("madvise", 0, 4, 8),
    ],
    "MADV_REMOVE of a private mapping of /dev/zero is EACCES": [
        private(0, 4, 3, "zero"),
        on("madvise", 0, 4, 9),
    ],
    "MADV_WIPEONFORK of a private mapping of /dev/zero is EINVAL": [
        private(0, 4, 3, "zero"),
        on("madvise", 0, 4, 18),
    ],
    "MADV_POPULATE_READ needs PROT_READ although a read access does not": [
        private(0, 4, 2),
        on("madvise", 0, 4, 22),
        touch(0),
    ],
    "populating for writing makes a clean page dirty without a fault": [
        private(0, 4),
        touch(0, 1),
        on("madvise", 0, 4, 8),
        on("mlock", 0, 4),
    ],
    "truncation of shared memory does not bring its last page in": [
        ["truncate", "mem", 9 * PAGE + 5],
        private(0, 16, 3, "mem", 4),
        touch(15),
        touch(0),
    ],
    "a truncated file loses the private copies past its end": [
        private(0, 16, 3, "a"),
        touch(1, 1),
        touch(9, 1),
        ["truncate", "a", 5 * PAGE + 7],
        touch(5),
        touch(9),
    ],
    "a punched hole leaves private copies where they are": [
        private(0, 16, 3, "a"),
        touch(1, 1),
        touch(2),
        shared(20, 16, 3, "a"),
        on("madvise", 20, 8, 9),
        touch(1),
    ],
    "neighbours share an anon_vma and merge when their rights agree again": [
        private(0, 8),
        on("mprotect", 4, 4, 1),
        touch(0, 1),
        on("mprotect", 4, 4, 3),
    ],
    "two faulted neighbours that were mapped apart do not merge": [
        private(0, 4),
        touch(0, 1),
        private(5, 4),
        touch(5, 1),
        private(4, 1),
    ],
    "a forked VMA does not merge with a new one beside it": [
        private(0, 4),
        touch(0, 1),
        ["descend"],
        private(4, 4),
        touch(4, 1),
    ],
    "mappings of one file by two descriptors do not merge": [
        private(0, 4, 1, "a", 0),
        private(4, 4, 1, "a", 4),
        private(8, 4, 1, "b", 8),
    ],
    "an untouched anonymous mapping merges where it is moved to": [
        private(0, 4),
        private(20, 4),
        on("mremap", 20, 4, 4 * PAGE, 3, ARENA + 4 * PAGE),
    ],
    "a touched anonymous mapping keeps its offset and does not merge where it is moved to": [
        private(0, 4),
        private(20, 4),
        touch(20, 1),
        on("mremap", 20, 4, 4 * PAGE, 3, ARENA + 4 * PAGE),
    ],
    "mprotect gives an exclusive page its write permission back": [
        private(0, 4),
        touch(0, 1),
        on("mprotect", 0, 4, 1),
        on("mprotect", 0, 4, 3),
        touch(0, 1),
    ],
    "mprotect after fork and exit of the child leaves it to the write fault": [
        private(0, 4),
        touch(0, 1),
        ["fork"],
        ["reap"],
        on("mprotect", 0, 4, 1),
        on("mprotect", 0, 4, 3),
        touch(0, 1),
    ],
    "shared anonymous memory is written without a second fault": [
        shared(0, 4),
        touch(0),
        touch(0, 1),
    ],
    "a shared file page faults on its first write": [
        shared(0, 4, 3, "a"),
        touch(0),
        touch(0, 1),
        touch(1, 1),
    ],
    "pages of a PROT_NONE range stay": [
        private(0, 4),
        touch(0, 1),
        on("mprotect", 0, 4, 0),
        touch(0),
        on("mprotect", 0, 4, 3),
        touch(0),
    ],
    "fork copies the page table of a VMA that was written privately, and no other": [
        private(0, 16, 3, "a"),
        private(16, 16, 3, "a"),
        touch(0),
        touch(16),
        touch(1, 1),
        ["descend"],
    ],
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule):
    assert first_difference(CASES[rule]) is None
