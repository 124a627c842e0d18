"""Numbers of perf_event_open(2) (include/uapi/linux/perf_event.h)."""

import enum

NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
"""The system call's number by `uname -m`."""
ATTR_SIZE_VER5 = 112  # PERFATTR_SIZE_VER5_VER5: up to sample_max_stack
FLAG_PID_CGROUP, FLAG_FD_CLOEXEC = 1 << 2, 1 << 3

IOC_ENABLE, IOC_DISABLE, IOC_SET_OUTPUT = 0x2400, 0x2401, 0x2405
IOC_SET_FILTER, IOC_ID = 0x4008_2406, 0x8008_2407


class EventType(enum.IntEnum):
    """`PERF_TYPE_*`."""

    SOFTWARE = 1
    TRACEPOINT = 2


SW_PAGE_FAULTS_MIN = 5
"""`PERF_COUNT_SW_PAGE_FAULTS_MIN`: a fault that needed no input was finished."""
SW_DUMMY = 9
"""`PERF_COUNT_SW_DUMMY`: counts nothing; carries the records of fork, exec and mmap."""


class Sample(enum.IntFlag):
    """`PERF_SAMPLE_*`: what a record holds, in the order in which the kernel writes it
    (IDENTIFIER is first, whatever its bit)."""

    IP = 1 << 0
    TID = 1 << 1
    TIME = 1 << 2
    ADDR = 1 << 3
    CPU = 1 << 7
    RAW = 1 << 10
    REGS_USER = 1 << 12
    STACK_USER = 1 << 13
    IDENTIFIER = 1 << 16


class Flag(enum.IntFlag):
    """The bit field of `struct perf_event_attr`."""

    DISABLED = 1 << 0
    INHERIT = 1 << 1
    EXCLUDE_KERNEL = 1 << 5
    EXCLUDE_HV = 1 << 6
    MMAP = 1 << 8
    COMM = 1 << 9
    TASK = 1 << 13
    MMAP_DATA = 1 << 17
    SAMPLE_ID_ALL = 1 << 18
    EXCLUDE_CALLCHAIN_KERNEL = 1 << 21
    MMAP2 = 1 << 23
    COMM_EXEC = 1 << 24
    USE_CLOCKID = 1 << 25


class RecordType:
    """`enum perf_event_type`."""

    LOST = 2
    COMM = 3
    EXIT = 4
    FORK = 7
    SAMPLE = 9
    MMAP2 = 10
    LOST_SAMPLES = 13


MISC_COMM_EXEC = 1 << 13
"""`PERF_RECORD_MISC_COMM_EXEC`: the name is new because of an execve."""
HEADER_SIZE = 8
"""sizeof(struct perf_event_header): type u32, misc u16, size u16."""
DATA_HEAD, DATA_TAIL = 1024, 1032
"""Offsets in `struct perf_event_mmap_page`."""
