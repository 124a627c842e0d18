"""Finding every writer of a page, not only the first: write protection that is armed again.

A fault shows who wrote first. Who writes later matters as much: the page would have been copied
anyway. Asynchronous write protection (UFFD_FEATURE_WP_ASYNC, Linux 6.7) makes the next write
to a page fault again, without a handler: the kernel notes the write and lets it happen.
PAGEMAP_SCAN with PM_SCAN_WP_MATCHING lists the pages written since the last scan, and protects
them again in the same step, from outside.

The registration needs a userfaultfd, and a process can create one for its own memory only. So
the target is made to call userfaultfd(2) (`samepage.trace.inject`), the descriptor is copied to
us (pidfd_getfd(2)), and closed there. From then on everything is done from here, and the
kernel undoes all of it when our descriptor closes, also because we were killed
(`userfaultfd_release`).

A fork passes the registration on, with a descriptor of its own that is read from the parent's
(UFFD_FEATURE_EVENT_FORK). The fork waits until it is read: whoever holds a registration
polls it.

Fault-around is off in registered areas (`uffd_disable_fault_around`), so only private
writable memory is registered.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re

import numpy as np
import numpy.typing as npt

from samepage.abi.pagemap import (
    PAGEMAP_SCAN,
    PM_SCAN_ARG,
    PM_SCAN_WP_MATCHING,
    PageCategory,
)
from samepage.abi.userfaultfd import (
    UFFD_API,
    UFFD_EVENT_FORK,
    UFFD_MSG_FORK_FD,
    UFFD_MSG_SIZE,
    UFFD_USER_MODE_ONLY,
    UFFDIO_API,
    UFFDIO_API_STRUCT,
    UFFDIO_REGISTER,
    UFFDIO_REGISTER_MODE_WP,
    UFFDIO_REGISTER_STRUCT,
    UFFDIO_WRITEPROTECT,
    UFFDIO_WRITEPROTECT_STRUCT,
    Feature,
)
from samepage.errors import SamepageError
from samepage.trace.inject import stopped

_NR_USERFAULTFD, _NR_CLOSE, _NR_PIDFD_GETFD = 323, 3, 438
_FEATURES = Feature.WP_ASYNC | Feature.WP_UNPOPULATED | Feature.EVENT_FORK
_REGIONS = 4096
_MAPS_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Registration:
    """Write protection of one address space. It lasts as long as the descriptor is open, here
    or in whoever it was sent to."""

    def __init__(self, fd: int) -> None:
        """`fd` is a userfaultfd, which this object closes."""
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        """Readable when the process forks, and waits for `forked`."""
        return self._fd

    def close(self) -> None:
        """Undo the registration."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def forked(self) -> "Registration | None":
        """The registration of a child that is being forked, which lets the fork continue;
        None if none is."""
        try:
            message = os.read(self._fd, UFFD_MSG_SIZE)
        except BlockingIOError:
            return None
        if len(message) < UFFD_MSG_SIZE or message[0] != UFFD_EVENT_FORK:
            return None
        (fd,) = UFFD_MSG_FORK_FD.unpack_from(message)
        return Registration(fd)

    def register(self, start: int, length: int) -> bool:
        """Protect an area (bytes); False where the kernel cannot (hugetlb before 6.10, a
        mapping of a device, an area that is gone)."""
        request = bytearray(UFFDIO_REGISTER_STRUCT.pack(start, length, UFFDIO_REGISTER_MODE_WP, 0))
        try:
            fcntl.ioctl(self._fd, UFFDIO_REGISTER, request)
        except OSError:
            return False
        return True

    def alive(self) -> bool:
        """Whether the address space still exists."""
        page = os.sysconf("SC_PAGESIZE")
        request = bytearray(UFFDIO_WRITEPROTECT_STRUCT.pack(page, page, 0))
        try:
            fcntl.ioctl(self._fd, UFFDIO_WRITEPROTECT, request)
        except OSError as error:
            return error.errno != errno.ESRCH
        return True


def create_in(pid: int) -> int:
    """Create a userfaultfd for the memory of a running process; our descriptor of it.

    The process is stopped for a millisecond. Raises `SamepageError` where it cannot be done,
    `ProcessLookupError` if the process is gone.
    """
    _refuse_seccomp(pid)
    with stopped(pid) as thread:
        theirs = thread.call(_NR_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        if theirs == -errno.EPERM:
            flags = os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY
            theirs = thread.call(_NR_USERFAULTFD, flags)
        if theirs < 0:
            raise SamepageError(
                f"process {pid} cannot create a userfaultfd: {os.strerror(-theirs)}"
            )
        try:
            ours = _copy_descriptor(pid, theirs)
        finally:
            thread.call(_NR_CLOSE, theirs)
    try:
        fcntl.ioctl(ours, UFFDIO_API, bytearray(UFFDIO_API_STRUCT.pack(UFFD_API, _FEATURES, 0)))
    except OSError as error:
        os.close(ours)
        raise SamepageError(
            "this kernel has no asynchronous write protection (Linux 6.7), "
            "or it needs root for processes that fork"
        ) from error
    return ours


def register_private(registration: Registration, pid: int) -> int:
    """Protect all private writable areas of a process; how many areas. Those that it maps
    later are not protected: their pages are its own from the first write."""
    count = 0
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            match = _MAPS_LINE.match(line)
            if match is None or match[3][1] != "w" or match[3][3] != "p":
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            count += registration.register(start, end - start)
    return count


class WrittenPages:
    """The pages that a registered process writes to, scan by scan."""

    def __init__(self, pid: int) -> None:
        """Raises OSError if its pagemap cannot be opened."""
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._regions = np.zeros((_REGIONS, 3), np.uint64)
        self._page = os.sysconf("SC_PAGESIZE")
        self._end = _last_address(pid)

    def close(self) -> None:
        """Forget the process."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def take(self) -> npt.NDArray[np.uint64]:
        """The virtual page numbers written to since the last call, ascending; they are
        protected again. The first call protects all that is present and returns it.
        Empty if the process is gone."""
        parts, start = [np.zeros((0, 2), np.uint64)], 0
        while True:
            found, start = self._scan(start)
            parts.append(self._regions[:found, :2] // np.uint64(self._page))
            if found < _REGIONS:
                return _expand(np.concatenate(parts))

    def _scan(self, start: int) -> tuple[int, int]:
        """One PAGEMAP_SCAN from an address on: regions found, and where it ended."""
        wanted = PageCategory.WPALLOWED | PageCategory.WRITTEN | PageCategory.PRESENT
        request = bytearray(
            PM_SCAN_ARG.pack(
                *(PM_SCAN_ARG.size, PM_SCAN_WP_MATCHING, start, self._end, 0),
                *(self._regions.ctypes.data, _REGIONS, 0),
                *(0, wanted, 0, PageCategory.WRITTEN),
            )
        )
        try:
            found = fcntl.ioctl(self._fd, PAGEMAP_SCAN, request)
        except ProcessLookupError:
            return 0, 0
        return found, PM_SCAN_ARG.unpack(request)[4]


def _expand(ranges: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The numbers in ranges (first, end), one after the other."""
    lengths = (ranges[:, 1] - ranges[:, 0]).astype(np.int64)
    before = np.cumsum(lengths) - lengths
    offsets = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
    return np.asarray(np.repeat(ranges[:, 0], lengths) + offsets.astype(np.uint64))


def _last_address(pid: int) -> int:
    """The end of a process's highest area: PAGEMAP_SCAN refuses addresses that no process can
    have. The vsyscall page, in the kernel's half, is none of its areas."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        ends = [int(match[2], 16) for match in map(_MAPS_LINE.match, file) if match]
    return max((end for end in ends if end < 1 << 63), default=0)


def _copy_descriptor(pid: int, theirs: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        ours: int = _LIBC.syscall(
            ctypes.c_long(_NR_PIDFD_GETFD), ctypes.c_int(pidfd), ctypes.c_int(theirs), 0
        )
    finally:
        os.close(pidfd)
    if ours < 0:
        number = ctypes.get_errno()
        raise SamepageError(f"pidfd_getfd of process {pid}: {os.strerror(number)}")
    return ours


def _refuse_seccomp(pid: int) -> None:
    """A filter may answer an unexpected call by killing the process: never try."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("Seccomp:") and line.split()[1] != "0":
                raise SamepageError(
                    f"process {pid} runs under seccomp, which may end it for calling "
                    "userfaultfd: its later writers cannot be seen, its first ones can"
                )
