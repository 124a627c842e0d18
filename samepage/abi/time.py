"""Clocks (include/uapi/linux/time.h)."""


class Clock:
    """`CLOCK_*`."""

    REALTIME = 0
    MONOTONIC = 1
    PROCESS_CPUTIME_ID = 2
    THREAD_CPUTIME_ID = 3
    MONOTONIC_RAW = 4
    REALTIME_COARSE = 5
    MONOTONIC_COARSE = 6
    BOOTTIME = 7
    REALTIME_ALARM = 8
    BOOTTIME_ALARM = 9
    TAI = 11


TIMER_ABSTIME = 1
"""The flag of clock_nanosleep, timer_settime and timerfd_settime."""

NS = 1_000_000_000
"""Nanoseconds of a second."""

USER_HZ = 100
"""Clock ticks of a second in what user space sees: times(2), /proc/PID/stat, AT_CLKTCK."""

USER_TICK_NS = NS // USER_HZ
