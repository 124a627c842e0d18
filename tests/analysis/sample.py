"""A group of three processes, small enough to be counted by hand.

libc is file 0 (inode 100), its copy in a container file 1 (inode 900, same build-id), and
file 2 is shared memory. Pages that are present:

    pid 1  a    0x100  libc 0 -> 10    0x101  libc 1 -> 11    0x102  libc 2 -> 12
                0x104  libc 4 copied -> 20 (dirty)            0x105  libc 5 -> 15
                0x200  heap -> 21 (dirty)                     0x201  zero page -> 7
                0x2ff  vvar -> 91 (not resident)              0x300  vdso -> 90
    pid 2  b    0x501  libc 1 -> 11    0x502  libc 2 -> 12    0x503  libc 3 -> 13
                0x504  libc 4 copied -> 22 (dirty)            0x505  libc 5 copied -> 23 (dirty)
                0x200  heap -> 21 (dirty, shared since fork)  0x202  heap, swapped out
                0x300  vdso -> 90
    pid 3  c    0x100  copy 0 -> 30    0x101  copy 1 -> 31    0x400  shmem 0 -> 40 (dirty)

Frame 14 is libc 4 in the page cache; no process maps it. On the whole system frame 11 is mapped
10 times, frame 40 is mapped 4 times, and the rest as in the group.
"""

import random

from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Event, Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

P = PageFlags.PRESENT
F = P | PageFlags.FILE
D = P | PageFlags.DIRTY

LIBC, COPY, SHM = "/lib/libc.so.6", "/layer/lib/libc.so.6", "/dev/zero"

PAGES = {
    1: [
        (0x100, 10, F), (0x101, 11, F), (0x102, 12, F), (0x104, 20, D), (0x105, 15, F),
        (0x200, 21, D), (0x201, 7, P), (0x2FF, 91, P), (0x300, 90, P),
    ],
    2: [
        (0x200, 21, D), (0x202, 0, PageFlags.SWAPPED), (0x300, 90, P), (0x501, 11, F),
        (0x502, 12, F), (0x503, 13, F), (0x504, 22, D), (0x505, 23, D),
    ],
    3: [(0x100, 30, F), (0x101, 31, F), (0x400, 40, F | D)],
}  # fmt: skip

FRAMES = [
    # frame, kind, file, index, mapcount
    *((10 + index, FrameKind.FILE, 0, index, 1) for index in (0, 3, 5)),
    (11, FrameKind.FILE, 0, 1, 10), (12, FrameKind.FILE, 0, 2, 2), (14, FrameKind.FILE, 0, 4, 0),
    *((frame, FrameKind.ANON, -1, 0, 1) for frame in (20, 22, 23)),
    (21, FrameKind.ANON, -1, 0, 2), (7, FrameKind.ZERO, -1, 0, 900),
    (90, FrameKind.SPECIAL, -1, 0, 2), (91, FrameKind.SPECIAL, -1, 0, 3),
    (30, FrameKind.FILE, 1, 0, 1), (31, FrameKind.FILE, 1, 1, 1), (40, FrameKind.SHMEM, 2, 0, 4),
]  # fmt: skip

PROCESSES = {
    1: {"argv": ("a", "-x"), "comm": "a", "exe": "/bin/a", "uid": 0, "exit_code": 0},
    2: {"argv": ("b",), "comm": "b", "exe": "/bin/b", "uid": 1000, "exit_code": 3},
    3: {"argv": ("c",), "comm": "c", "exe": "/bin/c", "uid": 1000, "container": "web"},
}
FAULTS = {1: (12, 1), 2: (9, 0), 3: (4, 2)}

VMAS = [
    (1, 0x100, 0x104, "r-xp", 0, 0, LIBC),
    (1, 0x104, 0x106, "rw-p", 4, 0, LIBC),
    (1, 0x200, 0x203, "rw-p", 0, -1, "[heap]"),
    (1, 0x2FF, 0x300, "r--p", 0, -1, "[vvar]"),
    (1, 0x300, 0x302, "r-xp", 0, -1, "[vdso]"),
    (2, 0x200, 0x203, "rw-p", 0, -1, "[heap]"),
    (2, 0x300, 0x302, "r-xp", 0, -1, "[vdso]"),
    (2, 0x500, 0x504, "r-xp", 0, 0, LIBC),
    (2, 0x504, 0x506, "rw-p", 4, 0, LIBC),
    (3, 0x100, 0x104, "r-xp", 0, 1, COPY),
    (3, 0x400, 0x401, "rw-s", 0, 2, SHM),
]

EVENTS = [
    (1, 1, "mmap", {"address": 0x100000, "pages": 4, "file": 0, "page": 0}),
    (2, 1, "file_read", {"address": 0x101000, "pages": 3, "frame": 11, "file": 0, "page": 1,
                         "cached": True, "ip": 0x100040, "symbol": "strlen"}),
    (3, 2, "cow", {"address": 0x504000, "pages": 1, "frame": 22, "file": 0, "page": 4,
                   "cached": False}),
]  # fmt: skip


def sample(source: str = "model", seed: int | None = None) -> Snapshot:
    """Return the snapshot; with a `seed`, its rows are added in another order."""
    shuffle = random.Random(seed).shuffle if seed is not None else lambda _: None
    builder = SnapshotBuilder(source, kernel="6.18.0", time="2026-01-02T03:04:05+00:00")
    builder.add_unimplemented_syscall("io_uring_setup", 2)
    builder.add_file(1, 100, LIBC, size=6 * 4096, build_id="c0ffee")
    builder.add_file(2, 900, COPY, size=6 * 4096, build_id="c0ffee")
    builder.add_file(3, 5, SHM, deleted=True)
    pids, vmas, frames = list(PAGES), list(VMAS), list(FRAMES)
    for rows in (pids, vmas, frames):
        shuffle(rows)
    for pid in pids:
        minor, major = FAULTS[pid]
        process = Process(pid, **PROCESSES[pid])
        builder.add_process(process._replace(minor_faults=minor, major_faults=major))
        pages = list(PAGES[pid])
        shuffle(pages)
        builder.add_pages(pid, *zip(*pages, strict=True))
    for pid, start, end, perms, offset, file, name in vmas:
        builder.add_vma(pid, start << 12, end << 12, perms, offset << 12, file, name)
    builder.add_frames(*zip(*((*frame, 0) for frame in frames), strict=True))
    for order, pid, kind, rest in EVENTS:
        builder.add_event(Event(order, pid, kind, **rest))
    return builder.build()
