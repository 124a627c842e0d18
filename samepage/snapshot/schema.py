"""The one schema that both kernels fill in: physical memory at one instant, as tables.

A snapshot is a set of Arrow tables. `pages` is the heart: it says which frame each present
virtual page of each process has. Everything else gives names to what it refers to:

    processes.pid <- vmas.pid <- pages.pid       who
    pages.frame   -> frames.frame                which physical page
    frames.file, vmas.file -> files.file         what of which file is in it

Page numbers, not bytes, are the unit of `vpage`, `index` and all counts; addresses
(`start`, `end`, `address`) and file sizes are in bytes. `files.file` is the row's own
number, with -1 elsewhere for "no file". Frames are PFNs on a live kernel and frame
numbers in the model; 0 means that the kernel did not tell.
"""

import pyarrow as pa

from samepage.snapshot.kinds import FrameFlags, FrameKind, PageFlags

__all__ = ["SCHEMA_VERSION", "TABLES", "TOLD", "FrameFlags", "FrameKind", "PageFlags"]

SCHEMA_VERSION = 1
"""Raised when a reader of the old version could no longer understand a table."""

TOLD = ("shared_clean", "shared_dirty", "private_clean", "private_dirty", "anonymous", "pss")
"""The columns of `vmas` with the kernel's own sums: in pages, but `pss` in 1/4096 bytes."""

PROCESSES = pa.schema(
    [
        ("pid", pa.int32()),
        ("ppid", pa.int32()),
        ("argv", pa.list_(pa.string())),
        ("comm", pa.string()),
        ("exe", pa.string()),
        ("uid", pa.int32()),
        ("cgroup", pa.string()),
        ("container", pa.string()),
        ("mnt_ns", pa.int64()),
        ("exit_code", pa.int32()),  # null while it runs
        ("minor_faults", pa.int64()),
        ("major_faults", pa.int64()),
        # Clock ticks from boot to its start, null if not known: a pid is given out again and
        # again, the two together are not. Files of before there was this column lack it.
        ("start_time", pa.int64()),
    ]
)

VMAS = pa.schema(
    [
        ("pid", pa.int32()),
        ("start", pa.uint64()),
        ("end", pa.uint64()),
        ("perms", pa.string()),  # as in /proc/PID/maps: "r-xp"
        ("offset", pa.uint64()),  # bytes
        ("file", pa.int32()),
        ("name", pa.string()),  # the path, "[heap]", or ""
        # What smaps said of it, where the pages do not tell (no frame numbers, or nobody knows
        # which of them are dirty); all null elsewhere. Files of before there were these lack them.
        *((name, pa.int64()) for name in TOLD),
    ]
)

PAGES = pa.schema(
    [
        ("pid", pa.int32()),
        ("vpage", pa.uint64()),
        ("frame", pa.uint64()),
        ("flags", pa.uint16()),  # PageFlags
    ]
)

FRAMES = pa.schema(
    [
        ("frame", pa.uint64()),
        ("kind", pa.uint8()),  # FrameKind
        ("file", pa.int32()),
        ("index", pa.int64()),  # the page of the file
        ("mapcount", pa.int32()),  # by all processes of the system, also those not captured
        ("flags", pa.uint32()),  # FrameFlags
    ]
)

FILES = pa.schema(
    [
        ("file", pa.int32()),
        ("dev", pa.uint64()),
        ("ino", pa.uint64()),
        ("path", pa.string()),
        ("deleted", pa.bool_()),
        ("size", pa.int64()),  # bytes, null if it could not be told
        ("build_id", pa.string()),  # hexadecimal, null if there is none
    ]
)

EVENTS = pa.schema(
    [
        ("order", pa.int64()),
        ("pid", pa.int32()),
        ("kind", pa.string()),
        ("address", pa.uint64()),
        ("pages", pa.int64()),
        ("frame", pa.uint64()),
        ("file", pa.int32()),
        ("index", pa.int64()),
        ("cached", pa.bool_()),  # the page cache had it
        ("ip", pa.uint64()),  # the instruction, 0 if the kernel itself did it
        ("symbol", pa.string()),  # the function that holds it, null if unknown
    ]
)

META = pa.schema([("key", pa.string()), ("value", pa.string())])
"""Facts about the whole: `version` and `source` ("model" or "live") always; where they are
known `kernel` (release), `host`, `boot_id` (of /proc/sys/kernel/random; two live captures
with the same one can be compared pid by pid), `time` (ISO 8601), `command`, and
`unimplemented_syscall:NAME` with a count.
"""

TABLES: dict[str, pa.Schema] = {
    "processes": PROCESSES,
    "vmas": VMAS,
    "pages": PAGES,
    "frames": FRAMES,
    "files": FILES,
    "events": EVENTS,
    "meta": META,
}
"""Every table by name; `events` is empty in a live capture."""
