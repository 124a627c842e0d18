"""A capture in the schema that the model shares: Arrow tables.

The pages are expanded here from six bytes to the 22 of the schema, some at a time. What they
cannot tell, smaps told: the sums of a VMA without frame numbers, or in which it is known how
many pages are dirty, but not which. Those sums go along.
"""

import os
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from samepage.live.accounting import account
from samepage.live.procfs import read_short
from samepage.live.system import Capture
from samepage.records import fields
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.schema import TABLES, TOLD
from samepage.snapshot.tables import Snapshot

_CHUNK = 1 << 18


def to_snapshot(capture: Capture, *, use_up: bool = False, proc: str = "/proc") -> Snapshot:
    """Return the snapshot of a capture, with the counts of `Tally` in `meta`.

    With `use_up` the pages of the capture are given up while those of the snapshot are made:
    it takes less memory, and the capture is of no use afterwards.
    """
    builder = _all_but_pages(capture, proc)
    _add_pages(builder, capture, use_up)
    return builder.build()


def write_snapshot(capture: Capture, directory: str, *, proc: str = "/proc") -> None:
    """Write the snapshot of a capture, as `store.write` does, without ever having it as a whole."""
    from samepage.snapshot import store

    snapshot = _all_but_pages(capture, proc).build()
    store.write(snapshot, directory, pages=_page_batches(capture))


def _all_but_pages(capture: Capture, proc: str) -> SnapshotBuilder:
    builder = SnapshotBuilder(
        "live",
        kernel=os.uname().release,
        host=os.uname().nodename,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(capture.time_ns // 10**9)),
        frames_visible="yes" if capture.frames_visible else "no",
    )
    boot_id = _boot_id()
    if boot_id:
        builder.add_meta("boot_id", boot_id)
    tally = capture.tally
    for name in fields(tally):
        builder.add_meta(f"processes_{name}", str(getattr(tally, name)))
    builder.add_meta("pages_dirty_but_unknown_which", str(int(capture.unseen_dirty.sum())))
    builder.add_meta("frames_ksm_or_not_unknown", str(capture.ksm_unknown))
    numbers = [
        builder.add_file(
            *(file.dev, file.ino, file.path),
            deleted=file.deleted,
            size=file.size,
            build_id=file.build_id,
        )
        for file in capture.files
    ]
    _add_processes(builder, capture)
    _add_vmas(builder, capture, numbers, _told(capture, proc))
    frames = capture.frames
    if len(frames):
        file = np.append(np.array(numbers, dtype=np.int32), -1)[frames.file]
        builder.add_frames(
            *(frames.frame, frames.kind, file, frames.index, frames.mapcount, frames.flags)
        )
    return builder


def _boot_id() -> str:
    """Return the random number of this boot: pids and frames mean the same in all of it."""
    try:
        return read_short("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _add_processes(builder: SnapshotBuilder, capture: Capture) -> None:
    for process in capture.processes:
        builder.add_process(
            process.pid,
            ppid=process.ppid,
            argv=process.argv,
            comm=process.comm,
            exe=process.exe,
            uid=process.uid,
            cgroup=process.cgroup,
            container=process.container,
            mnt_ns=process.mnt_ns,
            minor_faults=process.minor_faults,
            major_faults=process.major_faults,
            start_time=process.start_time,
        )


def _told(capture: Capture, proc: str) -> dict[int, list[int]]:
    """Return the kernel's own sums of the VMAs whose pages do not tell them, by row."""
    if capture.frames_visible:
        wanted = np.flatnonzero(capture.unseen_dirty.any(axis=1))
        if not len(wanted):
            return {}
        sums = account(capture)
    else:
        from samepage.live.smaps import sums_by_smaps

        sums, wanted = sums_by_smaps(capture, proc)
    columns = [getattr(sums, name)[wanted].astype(np.int64) for name in TOLD]
    return dict(zip(wanted.tolist(), np.stack(columns, axis=1).tolist(), strict=True))


def _add_vmas(
    builder: SnapshotBuilder, capture: Capture, numbers: list[int], told: dict[int, list[int]]
) -> None:
    vmas = capture.vmas
    pids = [process.pid for process in capture.processes]
    for row, process, start, end, number in zip(
        range(len(vmas)),
        vmas.process.tolist(),
        vmas.start.tolist(),
        vmas.end.tolist(),
        vmas.mapping.tolist(),
        strict=True,
    ):
        mapping = vmas.mappings[number]
        position = int(capture.mapping_file[number])
        file = numbers[position] if position >= 0 else -1
        builder.add_vma(
            *(pids[process], start, end, mapping.perms, mapping.offset, file, mapping.name),
            told=told.get(row),
        )


def _add_pages(builder: SnapshotBuilder, capture: Capture, use_up: bool) -> None:
    pages = capture.pages
    numbers = np.append(capture.frames.frame, np.uint64(0))
    bounds = np.searchsorted(pages.run_process, np.arange(len(capture.processes) + 1))
    firsts = np.append(pages.run_first, len(pages))[bounds].tolist()
    # From the end to the beginning, since an array can only be cut off at its end.
    for process, begin, end in reversed(
        list(zip(capture.processes, firsts, firsts[1:], strict=False))
    ):
        for last in range(end, begin, -_CHUNK):
            first = max(begin, last - _CHUNK)
            builder.add_pages(
                process.pid,
                pages.vpages(first, last),
                numbers[pages.frame[first:last]],
                pages.flags[first:last],
            )
            if use_up:
                pages.frame.resize(first, refcheck=False)


def _page_batches(capture: Capture) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the table of pages, in its order."""
    pages = capture.pages
    numbers = np.append(capture.frames.frame, np.uint64(0))
    pids = np.array([process.pid for process in capture.processes], dtype=np.int32)
    for first in range(0, len(pages), _CHUNK):
        last = min(first + _CHUNK, len(pages))
        columns = (
            pids[pages.processes(first, last)],
            pages.vpages(first, last),
            numbers[pages.frame[first:last]],
            pages.flags[first:last],
        )
        yield pa.record_batch([pa.array(values) for values in columns], schema=TABLES["pages"])
