"""Waiting for several files at once: poll and select.

Each is the same loop: look at all files, and while none is ready, wait. The deadline is a
time of the monotonic clock; a signal ends the wait with EINTR, never with a restart.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Generator

from samepage.abi.poll import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)
from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.mm.uaccess import (
    copy_to_user,
    get_array,
    get_bitmap,
    get_struct,
    get_u64,
    put_bitmap,
    put_struct,
)
from samepage.kernel.process.sigset import UNBLOCKABLE
from samepage.kernel.process.task import Interrupted, SyscallResult, Task, Wait
from samepage.kernel.syscalls.table import I32, U32, syscall
from samepage.kernel.syscalls.usermem import (
    pack_timespec,
    pack_timeval,
    read_timespec,
    read_timeval,
)

_POLLFD = struct.Struct("<ihh")
_IN_SET = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR
_OUT_SET = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR


def wait_until(
    task: Task,
    look: Callable[[], int],
    deadline: int | None,
    files: list[OpenFile],
    *,
    restarts: bool = True,
) -> Generator[Wait, None, int]:
    """Wait until `look` returns something, or up to the deadline; `restarts` as of `Wait`."""
    host_fd = next((fd for f in files if (fd := f.host_fd) is not None), None)
    clock = task.kernel.clock
    while True:
        count = look()
        if count:
            return count
        now = clock.monotonic()
        if deadline is not None and now >= deadline:
            return 0
        wakeups = [now + left for f in files if (left := f.time_left) is not None]
        if deadline is not None:
            wakeups.append(deadline)
        try:
            yield Wait(min(wakeups, default=None), host_fd, restarts)
        except Interrupted:
            raise SysError(errno.EINTR) from None


def set_mask(task: Task, address: int, size: int) -> None:
    """Use another signal mask during the call (`set_user_sigmask`)."""
    if not address:
        return
    if size != 8:
        raise SysError(errno.EINVAL)
    mask = get_u64(task.mm, address)
    task.saved_mask, task.blocked = task.blocked, mask & ~UNBLOCKABLE


def with_mask(task: Task, wait: Generator[Wait, None, int]) -> Generator[Wait, None, int]:
    """Put the mask back, except where a signal ended the wait: then its delivery does."""
    try:
        return (yield from wait)
    except SysError as error:
        if error.errno == errno.EINTR:
            raise
        _restore_mask(task)
        raise
    finally:
        if not (task.pending.mask | task.process.pending.mask) & ~task.blocked:
            _restore_mask(task)


def _restore_mask(task: Task) -> None:
    if task.saved_mask is not None:
        task.blocked, task.saved_mask = task.saved_mask, None


@syscall(Sys.POLL)
def sys_poll(task: Task, fds: int, count: U32, timeout: I32) -> SyscallResult:
    """`poll(2)`; `timeout` is in milliseconds."""
    deadline = None
    if timeout >= 0:
        deadline = task.kernel.clock.monotonic() + timeout * 1_000_000
    return _poll(task, fds, count, deadline)


@syscall(Sys.PPOLL)
def sys_ppoll(
    task: Task, fds: int, count: U32, timeout: int, mask: int, size: int
) -> SyscallResult:
    """`ppoll(2)`."""
    deadline = None
    if timeout:
        deadline = task.kernel.clock.monotonic() + read_timespec(task, timeout)
    set_mask(task, mask, size)
    return with_mask(task, _poll(task, fds, count, deadline))


def _poll(task: Task, fds: int, count: int, deadline: int | None) -> Generator[Wait, None, int]:
    if count > task.process.files.limit:
        raise SysError(errno.EINVAL)
    entries = get_array(task.mm, fds, _POLLFD, count)
    table = task.process.files

    def look() -> int:
        ready = 0
        for index, (fd, events, _) in enumerate(entries):
            found = 0
            if fd >= 0:
                try:
                    found = table.get(fd).poll() & (events | POLLERR | POLLHUP)
                except SysError:
                    found = POLLNVAL
            ready += bool(found)
            put_struct(task.mm, fds + index * _POLLFD.size + 6, "<H", found)
        return ready

    files = [table.get_raw(fd) for fd, _, _ in entries if fd in table]
    return (yield from wait_until(task, look, deadline, files))


@syscall(Sys.SELECT)
def sys_select(
    task: Task, n: I32, reads: int, writes: int, excepts: int, timeout: int
) -> SyscallResult:
    """`select(2)`."""
    deadline = None
    if timeout:
        deadline = task.kernel.clock.monotonic() + read_timeval(task, timeout)
    wait = _select(task, n, (reads, writes, excepts), deadline)
    return _store_time_left(task, wait, deadline, timeout, pack_timeval)


def _store_time_left(
    task: Task,
    wait: Generator[Wait, None, int],
    deadline: int | None,
    timeout: int,
    pack: Callable[[int], bytes],
) -> Generator[Wait, None, int]:
    """Change the caller's timeout to what is left of it (`poll_select_finish`)."""
    try:
        return (yield from wait)
    finally:
        if deadline is not None:
            left = max(deadline - task.kernel.clock.monotonic(), 0)
            copy_to_user(task.mm, timeout, pack(left))


@syscall(Sys.PSELECT6)
def sys_pselect6(
    task: Task, n: I32, reads: int, writes: int, excepts: int, timeout: int, sigmask: int
) -> SyscallResult:
    """`pselect(2)`; `sigmask` points at a pointer and a size."""
    deadline = None
    if timeout:
        deadline = task.kernel.clock.monotonic() + read_timespec(task, timeout)
    if sigmask:
        set_mask(task, *get_struct(task.mm, sigmask, "<QQ"))
    wait = with_mask(task, _select(task, n, (reads, writes, excepts), deadline))
    return _store_time_left(task, wait, deadline, timeout, pack_timespec)


def _select(
    task: Task, n: int, addresses: tuple[int, int, int], deadline: int | None
) -> Generator[Wait, None, int]:
    if n < 0:
        raise SysError(errno.EINVAL)
    n = min(n, task.process.files.limit)
    size = (n + 63) // 64 * 8
    wanted = [get_bitmap(task.mm, a, size) & (1 << n) - 1 if a else 0 for a in addresses]
    table = task.process.files
    union = wanted[0] | wanted[1] | wanted[2]
    fds = [fd for fd in range(n) if union >> fd & 1]
    files = [table.get(fd) for fd in fds]
    answers = [0, 0, 0]

    def look() -> int:
        answers[:] = [0, 0, 0]
        for fd, file in zip(fds, files, strict=True):
            found = file.poll()
            for which, events in enumerate((_IN_SET, _OUT_SET, POLLPRI)):
                if found & events and wanted[which] >> fd & 1:
                    answers[which] |= 1 << fd
        return sum(answer.bit_count() for answer in answers)

    count = yield from wait_until(task, look, deadline, files)
    for address, answer in zip(addresses, answers, strict=True):
        if address:
            put_bitmap(task.mm, address, answer, size)
    return count
