"""Resource limits (include/uapi/asm-generic/resource.h)."""


class Rlimit:
    """`RLIMIT_*`."""

    CPU = 0
    FSIZE = 1
    DATA = 2
    STACK = 3
    CORE = 4
    RSS = 5
    NPROC = 6
    NOFILE = 7
    MEMLOCK = 8
    AS = 9
    LOCKS = 10
    SIGPENDING = 11
    MSGQUEUE = 12
    NICE = 13
    RTPRIO = 14
    RTTIME = 15


RLIM_NLIMITS = 16
RLIM_INFINITY = (1 << 64) - 1
