"""A set of events recorded for a set of processes, read as fast as they come.

The kernel wants one descriptor for each event, target and CPU. All events of a CPU write
into the ring of the first one there (PERF_EVENT_IOC_SET_OUTPUT), so there are as many rings
as CPUs. A target is a thread, with whatever it starts later (`inherit`), or a cgroup. Where
the descriptors would be too many, root records all threads of the system instead, and the
decoder leaves out those that were not asked for.

A thread of ours empties the rings. What it does not read in time is lost, and counted.
"""

import contextlib
import errno
import fcntl
import os
import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from samepage.abi.perf_event import IOC_DISABLE, IOC_ENABLE, IOC_SET_OUTPUT, Flag
from samepage.errors import SamepageError
from samepage.trace.perf.event import EventSpec, event_id, perf_event_open
from samepage.trace.perf.ring import Ring

_DRAIN_EVERY = 0.01
"""Seconds: 2048 pages take what 20,000 faults a second write in half a second."""
_ROUNDS = 20
_IN_FLIGHT = 10_000_000
"""ns between the time in a record and the moment when a reader sees it: ample, since it is
written with interrupts off."""
_RESERVED_FDS = 64


class Session:
    """Events on threads or on a cgroup, disabled until `enable`.

    `specs` maps the id in each record to its event. `chunks` is what was recorded, as
    bytes of whole records, in the order of reading (not of time); `take` empties it.
    """

    def __init__(self, events: Sequence[EventSpec], *, ring_pages: int = 2048) -> None:
        """Nothing is opened yet. `ring_pages`: data pages per CPU, a power of two."""
        self._events = events
        self._ring_pages = ring_pages
        self._fds: list[int] = []
        self._outputs: dict[int, int] = {}
        self._rings: list[Ring] = []
        self._reader: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.specs: dict[int, EventSpec] = {}
        self.chunks: list[bytes] = []

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- targets ---

    def add_processes(self, pids: Sequence[int]) -> None:
        """Record all threads of these processes, and all that these start.

        A thread may start another one while the list is read: it is read again until it
        holds no new thread. Processes that are gone are left out. Raises `SamepageError`.
        """
        done: set[int] = set()
        for _ in range(_ROUNDS):
            new = [tid for pid in pids for tid in _threads(pid) if tid not in done]
            if not new:
                return
            self._need_descriptors(len(new) * len(self._events) * len(_online_cpus()))
            for tid in new:
                done.add(tid)
                with contextlib.suppress(ProcessLookupError):
                    self._open(tid, inherit=True)
        raise SamepageError("the processes start threads faster than they can be attached to")

    def add_cgroup(self, directory: str) -> bool:
        """Record all processes of a cgroup (v2, or v1's perf_event hierarchy); False if
        events do not belong to its hierarchy. Raises `SamepageError`."""
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SamepageError(f"{directory}: {error.strerror}") from error
        try:
            self._need_descriptors(len(self._events) * len(_online_cpus()))
            self._open(fd, cgroup=True)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return False
        finally:
            os.close(fd)
        return True

    def add_system(self) -> None:
        """Record every thread of the system (root)."""
        self._open(-1)

    def _need_descriptors(self, count: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = len(self._fds) + count + _RESERVED_FDS
        if needed <= soft:
            return
        if hard != resource.RLIM_INFINITY and needed > hard:
            raise SamepageError(
                f"{needed} descriptors are needed, and the limit is {hard}: "
                "raise it (ulimit -Hn), choose a cgroup, or fewer processes"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

    def _open(self, target: int, *, inherit: bool = False, cgroup: bool = False) -> None:
        for cpu in _online_cpus():
            for event in self._events:
                spec = _inherited(event) if inherit else event
                fd = perf_event_open(spec, target, cpu, cgroup=cgroup)
                self._fds.append(fd)
                self.specs[event_id(fd)] = event
                if cpu in self._outputs:
                    _ioctl(fd, IOC_SET_OUTPUT, self._outputs[cpu])
                else:
                    self._rings.append(self._map(fd))
                    self._outputs[cpu] = fd

    def _map(self, fd: int) -> Ring:
        try:
            return Ring(fd, self._ring_pages)
        except OSError as error:
            raise SamepageError(
                f"a ring of {self._ring_pages} pages cannot be mapped ({error.strerror}): "
                "raise kernel.perf_event_mlock_kb, or ulimit -l"
            ) from error

    # --- recording ---

    def enable(self) -> None:
        """Start to record. Threads that were started since they were attached to their
        parent have inherited the event, and are enabled with it."""
        self._reader = threading.Thread(target=self._read, name="perf", daemon=True)
        self._reader.start()
        for fd in self._fds:
            _ioctl(fd, IOC_ENABLE, 0)

    def disable(self) -> None:
        """Stop to record; then everything recorded is in `chunks`."""
        for fd in self._fds:
            _ioctl(fd, IOC_DISABLE, 0)
        self._stopping.set()
        if self._reader is not None:
            self._reader.join()
            self._reader = None
        self._drain()

    def close(self) -> None:
        """Give everything back. `chunks` stays."""
        self._stopping.set()
        if self._reader is not None:
            self._reader.join()
            self._reader = None
        for ring in self._rings:
            ring.close()
        for fd in self._fds:
            os.close(fd)
        self._rings, self._fds, self._outputs = [], [], {}

    def _read(self) -> None:
        while not self._stopping.wait(_DRAIN_EVERY):
            self._drain()

    def take(self) -> tuple[list[bytes], int]:
        """What was recorded since the last call, out of `chunks`, and a time (ns of
        CLOCK_MONOTONIC) from before which no record is missing."""
        with self._lock:
            until = time.monotonic_ns() - _IN_FLIGHT
            self._drain_rings()
            chunks, self.chunks = self.chunks, []
        return chunks, until

    def _drain(self) -> None:
        with self._lock:
            self._drain_rings()

    def _drain_rings(self) -> None:
        for ring in self._rings:
            data = ring.drain()
            if data:
                self.chunks.append(data)


def _inherited(event: EventSpec) -> EventSpec:
    return replace(event, flags=event.flags | Flag.INHERIT)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _online_cpus() -> list[int]:
    """The CPUs that events can be opened on (/sys/devices/system/cpu/online: `0-3,8`)."""
    with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
        parts = file.read().strip().split(",")
    ranges = [part.split("-") for part in parts if part]
    return [cpu for part in ranges for cpu in range(int(part[0]), int(part[-1]) + 1)]


def _ioctl(fd: int, request: int, argument: int) -> None:
    fcntl.ioctl(fd, request, argument)
