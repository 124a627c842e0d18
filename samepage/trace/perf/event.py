"""Opening one perf event (perf_event_open(2), include/uapi/linux/perf_event.h)."""

import ctypes
import errno
import fcntl
import os
import struct
import time
from dataclasses import dataclass

from samepage.abi.perf_event import (
    ATTR_SIZE_VER5,
    FLAG_FD_CLOEXEC,
    FLAG_PID_CGROUP,
    IOC_ID,
    IOC_SET_FILTER,
    NR_PERF_EVENT_OPEN,
    EventType,
    Flag,
    Sample,
)
from samepage.errors import SamepageError

_LIBC = ctypes.CDLL(None, use_errno=True)
NO_FLAG = Flag(0)


@dataclass(frozen=True, slots=True)
class EventSpec:
    """What to record. `sample` is what each record holds; `filter` is a filter of a
    tracepoint; `stack` is how many bytes of user stack to copy (a multiple of 8), with
    the user registers in the mask `registers`."""

    name: str
    type: EventType
    config: int
    sample: Sample
    flags: Flag = NO_FLAG
    filter: str = ""
    stack: int = 0
    registers: int = 0


def perf_event_open(spec: EventSpec, target: int, cpu: int, *, cgroup: bool = False) -> int:
    """Open the event, disabled, on the thread `target` (or the cgroup whose directory is open
    as descriptor `target`; -1: all threads) and one CPU. Returns the descriptor.

    Raises `ProcessLookupError` if the thread is gone, `SamepageError` for what the user can
    change (rights, descriptors).
    """
    sample = spec.sample | Sample.IDENTIFIER
    flags = spec.flags | Flag.DISABLED | Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID
    attr = struct.pack(
        "<IIQQQQQIIQQQQIiQIHH",
        *(spec.type, ATTR_SIZE_VER5, spec.config, 1, sample, 0, flags),
        *(0, 0, 0, 0, 0, spec.registers, spec.stack, time.CLOCK_MONOTONIC, 0, 0, 0, 0),
    )
    buffer = ctypes.create_string_buffer(attr, ATTR_SIZE_VER5)
    fd: int = _LIBC.syscall(
        ctypes.c_long(NR_PERF_EVENT_OPEN[os.uname().machine]),
        buffer,
        ctypes.c_int(target),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(FLAG_FD_CLOEXEC | (FLAG_PID_CGROUP if cgroup else 0)),
    )
    if fd < 0:
        raise _reason(spec, ctypes.get_errno())
    if spec.filter:
        text = ctypes.create_string_buffer(spec.filter.encode())
        if _LIBC.ioctl(fd, ctypes.c_ulong(IOC_SET_FILTER), text) < 0:
            number = ctypes.get_errno()
            os.close(fd)
            raise OSError(number, f"filter of {spec.name} {spec.filter!r}: {os.strerror(number)}")
    return fd


def event_id(fd: int) -> int:
    """The number that the records of this event carry (`PERF_EVENTIOC_ID`)."""
    answer = fcntl.ioctl(fd, IOC_ID, bytes(8))
    return int.from_bytes(answer, "little")


def _reason(spec: EventSpec, number: int) -> OSError | SamepageError:
    if number == errno.ESRCH:
        return ProcessLookupError(number, os.strerror(number))
    if number in (errno.EACCES, errno.EPERM):
        return SamepageError(
            f"the kernel does not let this user record {spec.name} "
            f"(kernel.perf_event_paranoid is {_setting('/proc/sys/kernel/perf_event_paranoid')}"
            f"{_lockdown()}): "
            "run as root, or give samepage CAP_PERFMON and CAP_SYS_PTRACE"
        )
    if number == errno.EMFILE:
        return SamepageError(
            "too many open files: raise the limit (ulimit -n), or choose fewer processes"
        )
    if number in (errno.ENOSYS, errno.ENOENT, errno.EOPNOTSUPP):
        return SamepageError(f"this kernel does not have the perf event {spec.name}")
    return OSError(number, f"perf_event_open {spec.name}: {os.strerror(number)}")


def _lockdown() -> str:
    """The kernel's lockdown, which forbids perf to root too, if it is on."""
    chosen = _setting("/sys/kernel/security/lockdown").partition("[")[2].partition("]")[0]
    return f", and kernel lockdown is {chosen}" if chosen not in ("", "none") else ""


def _setting(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"
