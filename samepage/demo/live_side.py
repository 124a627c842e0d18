"""The story's actions on the live kernel: real processes under ptrace.

Frame numbers are in `/proc/PID/pagemap` for whoever has CAP_SYS_ADMIN
(Documentation/admin-guide/mm/pagemap.rst). The page cache has no such file; but a mapping
of the file that this process makes itself is served from the page cache too, so its own
pagemap tells the cache's frames. Only pages that mincore(2) reports as cached are touched
for that: looking must not read anything in.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import threading
from array import array
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import numpy as np

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import Pm
from samepage.demo.evidence import Fault, Page, Segment
from samepage.demo.side import Program
from samepage.errors import SamepageError
from samepage.live.capture import capture
from samepage.snapshot.tables import Snapshot
from samepage.trace import ptrace
from samepage.trace.launch import Launch, fault_counts, launch
from samepage.trace.ptrace import Stop, StopKind, SyscallOp
from samepage.verify.environment import ENVIRONMENT

_MMAP = 9
_TIMEOUT = 20.0
"""Seconds until a program that does not get on is killed."""


def why_not() -> str:
    """Why the live kernel cannot be asked, in one line; "" if it can."""
    try:
        with mmap.mmap(-1, HOST_PAGE_SIZE) as page:
            page[0] = 1
            frames = _pagemap("self", _address(page), 1)
    except OSError as error:
        return f"/proc/self/pagemap cannot be read ({error.strerror})"
    if not frames[0] & Pm.PFRAME:
        return "/proc/PID/pagemap hides frame numbers from all but root (CAP_SYS_ADMIN)"
    return ""


class LiveSide:
    """Processes of the running system; a context manager that ends them all."""

    def __init__(self) -> None:
        self._held: list[LiveHeld] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for held in self._held:
            held.end()

    def start(self, program: Program) -> "LiveHeld":
        """As `Side.start`."""
        argv = [program.path, *program.argv[1:]]
        pid, _ = launch(Launch(program.path, argv, ENVIRONMENT))
        held = LiveHeld(pid, program.path)
        self._held.append(held)
        return held

    def cached(self, library: str) -> dict[int, int]:
        """As `Side.cached`."""
        with _mapped_file(library) as view:
            pages = (len(view) + HOST_PAGE_SIZE - 1) // HOST_PAGE_SIZE
            resident = (ctypes.c_ubyte * pages)()
            libc = ctypes.CDLL(None, use_errno=True)
            start = ctypes.c_void_p(_address(view))
            if libc.mincore(start, ctypes.c_size_t(len(view)), resident):
                code = ctypes.get_errno()
                raise SamepageError(f"{library}: mincore: {os.strerror(code)}")
            found = [number for number in range(pages) if resident[number] & 1]
            for number in found:
                view[number * HOST_PAGE_SIZE]  # read a byte, so that it is mapped
            entries = _pagemap("self", _address(view), pages)
            return {n: entries[n] & Pm.PFRAME for n in found if entries[n] & Pm.PRESENT}

    def cached_bytes(self, library: str, file_page: int) -> bytes:
        """As `Side.cached_bytes`."""
        with _mapped_file(library) as view:
            start = file_page * HOST_PAGE_SIZE
            return view[start : start + HOST_PAGE_SIZE]

    def snapshot(self) -> Snapshot:
        """As `Side.snapshot`."""
        return capture([held.pid for held in self._held])


class LiveHeld:
    """A traced process, stopped between any two calls."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self._name = name

    def _stops(self, *, syscalls: bool = False) -> Iterator[Stop]:
        """Let it run, from stop to stop; signals are delivered. Its exit stop is the last.

        Raises `SamepageError` if it is killed or does not get on.
        """
        watchdog = threading.Timer(_TIMEOUT, os.kill, (self.pid, signal.SIGKILL))
        watchdog.daemon = True
        watchdog.start()
        try:
            deliver = 0
            while True:
                ptrace.resume(self.pid, deliver, syscalls=syscalls)
                stop = ptrace.wait(self.pid)
                if stop.kind is StopKind.GONE:
                    raise SamepageError(f"{self._name}: was killed, or ran too long")
                yield stop
                deliver = stop.signal if stop.kind is StopKind.SIGNAL else 0
                deliver = 0 if deliver == signal.SIGTRAP else deliver
        finally:
            watchdog.cancel()

    def run_until_mapped(self, library: str) -> None:
        """As `Held.run_until_mapped`."""
        called = -1
        for stop in self._stops(syscalls=True):
            if stop.kind is StopKind.EXIT:
                break
            if stop.kind is not StopKind.SYSCALL:
                continue
            op, number = ptrace.syscall_info(self.pid)
            if op is SyscallOp.ENTRY:
                called = number
            elif called == _MMAP and any("w" in s.perms for s in self.segments(library)):
                return
        raise SamepageError(f"{self._name} has ended: it has not mapped {library}")

    def run_until_call(self, addresses: Mapping[int, str]) -> tuple[int, int]:
        """As `Held.run_until_call`. The CPU has four debug registers, this uses one: it
        takes one address. The stop is before the fetch; one step makes it."""
        (address,) = addresses
        ptrace.set_breakpoint(self.pid, address)
        for stop in self._stops():
            if stop.kind is StopKind.EXIT:
                raise SamepageError(f"{self._name} has ended: {addresses[address]} was not called")
            if stop.signal == signal.SIGTRAP and ptrace.get_registers(self.pid).rip == address:
                break
        ptrace.clear_breakpoint(self.pid)
        start, end = self._vma(address)
        before = self._present(start, end)
        ptrace.set_trap_flag(self.pid, True)
        for stop in self._stops():
            if stop.kind is StopKind.EXIT:
                raise SamepageError(f"{self._name}: was killed in {addresses[address]}")
            if stop.signal == signal.SIGTRAP:
                break
        ptrace.set_trap_flag(self.pid, False)
        return address, self._present(start, end) - before

    def _vma(self, address: int) -> tuple[int, int]:
        return next((s, e) for s, e, *_ in _maps(self.pid) if s <= address < e)

    def _present(self, start: int, end: int) -> int:
        entries = _pagemap(str(self.pid), start, (end - start) // HOST_PAGE_SIZE)
        return sum(entry >> 63 for entry in entries)

    def run_to_exit(self) -> None:
        """As `Held.run_to_exit`: the stop of PTRACE_EVENT_EXIT."""
        for stop in self._stops():
            if stop.kind is StopKind.EXIT:
                return

    def segments(self, library: str) -> list[Segment]:
        """As `Held.segments`."""
        return [
            Segment(start, end, perms, offset)
            for start, end, perms, offset, name in _maps(self.pid)
            if name == library
        ]

    def pages(self, library: str) -> list[Page]:
        """As `Held.pages`."""
        found = []
        for segment in self.segments(library):
            entries = _pagemap(str(self.pid), segment.start, segment.pages)
            for number, entry in enumerate(entries):
                if entry & Pm.PRESENT:
                    file_page = segment.offset // HOST_PAGE_SIZE + number
                    address = segment.start + number * HOST_PAGE_SIZE
                    found.append(Page(file_page, address, entry & Pm.PFRAME, not entry & Pm.FILE))
        return found

    def touch(self, address: int) -> None:
        """As `Held.touch`: the kernel faults the page in for a reader of /proc/PID/mem."""
        self.read(address, 1)

    def read(self, address: int, length: int) -> bytes:
        """As `Held.read`."""
        return ptrace.read_memory(self.pid, address, length)

    def faults(self) -> tuple[int, int]:
        """As `Held.faults`."""
        return fault_counts(self.pid)

    def library_faults(self, library: str) -> list[Fault]:
        """Linux counts faults, and does not keep a list of them."""
        return []

    def end(self) -> None:
        """Kill and reap it."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            ptrace.resume(self.pid)  # a process in its exit stop does not hear the signal
            while ptrace.wait(self.pid).kind is not StopKind.GONE:
                ptrace.resume(self.pid)


def evict(path: str) -> None:
    """Ask the kernel to drop a file from the page cache (it keeps what is mapped or dirty)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _mapped_file(path: str) -> Iterator[mmap.mmap]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        view.madvise(mmap.MADV_RANDOM)
        yield view


def _address(view: mmap.mmap) -> int:
    """Where a mapping of our own is. NumPy takes read-only buffers too, ctypes does not."""
    return int(np.frombuffer(view, np.uint8, 1).ctypes.data)


def _pagemap(pid: str, address: int, pages: int) -> "array[int]":
    entries: array[int] = array("Q")
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries.frombytes(os.pread(fd, pages * 8, address // HOST_PAGE_SIZE * 8))
    finally:
        os.close(fd)
    return entries


def _maps(pid: int) -> Iterator[tuple[int, int, str, int, str]]:
    """Start, end, rights, offset and name of each VMA."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            span, perms, offset, _, _, *name = line.rstrip("\n").split(None, 5)
            start, end = (int(number, 16) for number in span.split("-"))
            yield start, end, perms, int(offset, 16), name[0] if name else ""
