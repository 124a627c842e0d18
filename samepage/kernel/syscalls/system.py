"""The machine as a whole: its name, memory, randomness; and calls that it refuses."""

from __future__ import annotations

import errno
import struct

from samepage.abi.time import NS
from samepage.arch import ARCH, PAGE_SIZE, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, U32, syscall

_UTS_LENGTH = 65
_MAX_RANDOM = 1 << 25
_CHUNK = 1 << 16


@syscall(Sys.UNAME)
def sys_uname(task: Task, address: int) -> int:
    """`uname(2)`."""
    config = task.kernel.config
    fields = ("Linux", config.hostname, config.release, config.version, ARCH.name, config.domain)
    data = b"".join(f.encode()[: _UTS_LENGTH - 1].ljust(_UTS_LENGTH, b"\0") for f in fields)
    copy_to_user(task.mm, address, data)
    return 0


@syscall(Sys.SYSINFO)
def sys_sysinfo(task: Task, address: int) -> int:
    """`sysinfo(2)`."""
    kernel = task.kernel
    total, free = kernel.frames.ram.n_frames * PAGE_SIZE, kernel.frames.n_free * PAGE_SIZE
    uptime = kernel.clock.monotonic() // NS
    data = struct.pack(
        "<q3QQQQQQQHHxxxxQQI",
        uptime,
        0,
        0,
        0,
        total,
        free,
        0,
        0,
        0,
        0,
        len(kernel.processes),
        0,
        0,
        0,
        1,
    )
    copy_to_user(task.mm, address, data.ljust(112, b"\0"))
    return 0


@syscall(Sys.GETRANDOM)
def sys_getrandom(task: Task, buffer: int, count: int, flags: U32) -> int:
    """`getrandom(2)`: from the machine's seed."""
    if flags & ~7 or flags & 6 == 6:
        raise SysError(errno.EINVAL)
    count = min(count, _MAX_RANDOM)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        copy_to_user(task.mm, buffer + start, task.kernel.random_bytes(size))
    return count


@syscall(Sys.SYSLOG)
def sys_syslog(task: Task, kind: I32, buffer: int, size: I32) -> int:
    """`syslog(2)`: reading the kernel's messages."""
    text = "".join(f"<4>{line}\n" for line in task.kernel.log).encode()
    if kind == 10:
        return 1 << 17
    if kind not in (2, 3, 4):
        raise SysError(errno.EPERM if kind > 1 else errno.EINVAL)
    data = text[-size:] if size > 0 else b""
    copy_to_user(task.mm, buffer, data)
    return len(data)


@syscall(
    Sys.MOUNT,
    Sys.UMOUNT2,
    Sys.PIVOT_ROOT,
    Sys.SWAPON,
    Sys.SWAPOFF,
    Sys.REBOOT,
    Sys.SETHOSTNAME,
    Sys.SETDOMAINNAME,
    Sys.INIT_MODULE,
    Sys.FINIT_MODULE,
    Sys.DELETE_MODULE,
    Sys.ACCT,
    Sys.KEXEC_LOAD,
    Sys.UNSHARE,
    Sys.SETNS,
    Sys.PTRACE,
    Sys.BPF,
    Sys.PERF_EVENT_OPEN,
    Sys.USERFAULTFD,
    Sys.IOPL,
    Sys.IOPERM,
    Sys.QUOTACTL,
    Sys.OPEN_BY_HANDLE_AT,
    Sys.FANOTIFY_INIT,
)
def sys_not_permitted(task: Task) -> int:
    """Calls that a program without the right capability is refused, and so is every
    program here: they would change the machine."""
    raise SysError(errno.EPERM)
