"""Reading processes out of /proc as raw bytes, before anything is made of them.

Collecting is system calls, one after the other; making sense of what they return is NumPy.
The two are apart for three reasons. The raw part needs only the standard library, so that
`samepage live` collects in a child process while it imports NumPy itself. It can be given up
when a process cannot be read (`samepage.live.patience`). And it hands out bounded
batches, so that a process with ten million pages is never held in raw form as a whole.

What is read of a process, in this order: `maps` and `pagemap` are opened together, since
each open file keeps the address space that the process had then, also across its exec;
then the rest; then the pages. If pages are missing that the kernel had announced, the process
exited or called exec meanwhile, and is read once more from the beginning.
"""

import os
from array import array
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from samepage.abi.pagemap import ENTRY_SIZE
from samepage.live.pagemap import (
    Range,
    Scanner,
    ScanUnsupported,
    end_of_memory,
    ranges_from_maps,
)
from samepage.live.procfs import Tally, read_all, read_short
from samepage.records import record

BATCH_ENTRIES = 1 << 17
"""Entries of a batch: 1 MiB, which stays in the processor's caches. Each batch costs some thirty
array operations, so many small ones are slower."""

_VSIZE_FIELD = 20
"""The place of `vsize` in /proc/PID/stat, counted after the name."""


class RawProcess(NamedTuple):
    """The files of /proc/PID as they were read; what could not be read is empty or 0."""

    pid: int
    maps: bytes
    stat: bytes
    uid: int
    """The effective user, who owns the directory /proc/PID whatever else of it is root's
    (`task_dump_owner` in fs/proc/base.c). A tenth of the time that `status` takes."""
    cgroup: bytes
    cmdline: bytes
    exe: str
    mnt_ns: int
    huge: list[Range]
    """Virtual pages that are mapped by an entry of 2 MiB or more."""


@record(eq=False)
class Batch:
    """A part of a capture.

    `runs` holds three numbers for each piece of pagemap: the process, as a number that counts
    processes from 0 in the order of all batches; its first virtual page; how many entries.
    `entries` holds the entries of all runs, one run behind the other. A process whose
    number is in `dropped` vanished: what earlier batches have of it does not count.
    """

    processes: list[RawProcess]
    runs: "array[int]"
    entries: memoryview | bytes
    dropped: list[int]
    huge_known: bool = True
    """Whether `RawProcess.huge` is complete: `PAGEMAP_SCAN` reported it."""


class Vanished(Exception):
    """The process exited or called exec while it was read."""


class Collector:
    """Reads one process after the other.

    A watcher in another thread may read `progress`, which changes with every step, and
    `position`, how many processes were begun; and when it gives up on the last of these, take
    what is complete with `salvage`. The first batch is of `first_entries`, the next ones of
    twice as many as the last, up to `batch_entries`. `first_number` is the number of the first
    process captured.
    """

    def __init__(
        self,
        pids: Iterable[int],
        *,
        proc: str = "/proc",
        first_number: int = 0,
        batch_entries: int = BATCH_ENTRIES,
        first_entries: int = BATCH_ENTRIES,
    ) -> None:
        self.pids = list(pids)
        self.proc = proc
        self.position = 0
        self.progress = 0
        self.next_number = first_number
        self.tally = Tally()
        self._scanner: Scanner | None = Scanner()
        # One is filled while the batch that was handed out last still refers to the other.
        self._view, self._other = (
            memoryview(bytearray(batch_entries * ENTRY_SIZE)) for _ in range(2)
        )
        self._room = min(first_entries, batch_entries)
        self._filled = 0  # entries of the buffer in use
        self._batch = Batch([], array("Q"), b"", [])
        self._taken = 0  # batches handed out
        self._done = self._state()

    def batches(self) -> Iterator[Batch]:
        """Yield everything, in batches; a batch is valid until the second next is asked for."""
        for pid in self.pids:
            self.position += 1
            self.progress += 1
            yield from self._process(pid)
            self._done = self._state()
        yield self._take_batch()

    def salvage(self) -> tuple[Batch, int]:
        """Return what is complete, without the process being read, and the next number.

        To be called when the thread that runs `batches` is to be given up; it may continue
        until its next batch is full, but changes nothing of what is returned.
        """
        batch, view, processes, runs, filled, number = self._done
        if batch is not self._batch:
            # Earlier batches hold a part of the process, and this one holds nothing else.
            return Batch([], array("Q"), b"", [number]), number + 1
        entries = bytes(view[: filled * ENTRY_SIZE])
        return (
            Batch(batch.processes[:processes], batch.runs[:runs], entries, list(batch.dropped)),
            number,
        )

    def _state(self) -> tuple[Batch, memoryview, int, int, int, int]:
        batch = self._batch
        counts = len(batch.processes), len(batch.runs), self._filled
        return batch, self._view, *counts, self.next_number

    def _process(self, pid: int) -> Iterator[Batch]:
        for last_try in (False, True):
            number, mark = self.next_number, (self._taken, len(self._batch.runs), self._filled)
            try:
                yield from self._attempt(pid, number, last_try)
                return
            except (Vanished, FileNotFoundError, ProcessLookupError):
                self._undo(number, mark)
            except OSError:
                self._undo(number, mark)
                if self._has_no_memory(pid):
                    self.tally.without_memory += 1
                else:
                    self.tally.denied += 1
                return
            if self._has_no_memory(pid):
                self.tally.without_memory += 1
                return
        self.tally.vanished += 1

    def _has_no_memory(self, pid: int) -> bool:
        """Whether it is a kernel thread or a zombie (no virtual memory at all in `stat`).

        Linux since 6.17 answers ESRCH when the maps of one are opened; they were empty before.
        """
        try:
            fields = read_short(f"{self.proc}/{pid}/stat").rpartition(b")")[2].split()
        except OSError:
            return False
        return len(fields) > _VSIZE_FIELD and fields[_VSIZE_FIELD] == b"0"

    def _attempt(self, pid: int, number: int, last_try: bool) -> Iterator[Batch]:
        base = f"{self.proc}/{pid}/"
        maps_fd = os.open(base + "maps", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fd = os.open(base + "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(maps_fd)
            raise
        try:
            maps = read_all(maps_fd)
            if not maps:
                self.tally.without_memory += 1
                return
            ranges, huge = self._ranges(fd, pid, maps)
            self._batch.processes.append(self._describe(pid, base, maps, huge))
            self.next_number += 1
            complete = yield from self._pages(fd, number, ranges)
        finally:
            os.close(fd)
            os.close(maps_fd)
        if not complete:
            if not last_try or not os.path.exists(base):
                raise Vanished
            self.tally.changed += 1
        self.tally.captured += 1

    def _describe(self, pid: int, base: str, maps: bytes, huge: list[Range]) -> RawProcess:
        return RawProcess(
            pid,
            maps,
            read_short(base + "stat"),
            os.stat(base).st_uid,
            _optional(base + "cgroup"),
            _optional(base + "cmdline"),
            _link(base + "exe"),
            _namespace(base + "ns/mnt"),
            huge,
        )

    def _ranges(self, fd: int, pid: int, maps: bytes) -> tuple[list[Range], list[Range]]:
        if self._scanner is not None:
            try:
                return self._scanner.scan(fd, end_of_memory(maps))
            except ScanUnsupported:
                self._scanner = None
        return ranges_from_maps(maps, self.proc, pid), []

    def _pages(self, fd: int, number: int, ranges: list[Range]) -> Generator[Batch, None, bool]:
        """Read all entries of the ranges; the value is whether the kernel had them all."""
        complete = True
        for start, end in ranges:
            while start < end:
                if self._filled == self._room:
                    yield self._take_batch()
                count = min(end - start, self._room - self._filled)
                low = self._filled * ENTRY_SIZE
                view = self._view[low : low + count * ENTRY_SIZE]
                self.progress += 1
                got = os.preadv(fd, [view], start * ENTRY_SIZE) // ENTRY_SIZE
                if got:
                    self._batch.runs.extend((number, start, got))
                    self._filled += got
                    start += got
                if got < count:
                    complete = False
                    break
        return complete

    def _undo(self, number: int, mark: tuple[int, int, int]) -> None:
        """Take back what was collected of process `number` since `mark`."""
        if number == self.next_number:
            return
        taken, runs, filled = mark
        if taken == self._taken:
            self._batch.processes.pop()
            self.next_number = number
        else:
            # Its beginning is handed out already; this batch holds nothing but the process.
            runs = filled = 0
            self._batch.dropped.append(number)
        del self._batch.runs[runs:]
        self._filled = filled

    def _take_batch(self) -> Batch:
        batch, self._batch = self._batch, Batch([], array("Q"), b"", [])
        batch.entries = self._view[: self._filled * ENTRY_SIZE]
        self._view, self._other = self._other, self._view
        batch.huge_known = self._scanner is not None
        self._room = min(2 * self._room, len(self._view) // ENTRY_SIZE)
        self._filled = 0
        self._taken += 1
        return batch


def _optional(path: str) -> bytes:
    """Return a file that a report can do without: empty if it may not be read."""
    try:
        return read_short(path)
    except PermissionError:
        return b""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _namespace(path: str) -> int:
    """Return the inode of a namespace from the text of its link, "mnt:[4026531841]".

    Following the link would give the same number, but the kernel would make the inode for it.
    """
    number = _link(path).partition("[")[2].rstrip("]")
    return int(number) if number.isascii() and number.isdigit() else 0
