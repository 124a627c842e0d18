"""The machine's clocks: virtual, so that a run does not depend on how fast the host is.

Time passes by a fixed amount with each system call, and by as much as is waited for when
every task sleeps. A program that computes for long without a system call must see time
pass too: for it there is a tick, which comes in real time. Apart from that, only the time
at boot comes from outside.
"""

from samepage.abi.time import NS

SYSCALL_NS = 1_000
"""The time that a system call takes."""
TICK_PERIOD_NS = 50_000_000
"""How often the tick comes."""
TICK_NS = 4_000_000
"""The granularity of the coarse clocks (HZ=250)."""


class Clock:
    """Nanoseconds since boot, and since the epoch."""

    def __init__(self, boot_time_ns: int, uptime_ns: int = 100 * NS) -> None:
        self.boot_time_ns = boot_time_ns - uptime_ns
        self._now = uptime_ns
        self._next_tick = uptime_ns
        self.system_calls = 0

    def monotonic(self) -> int:
        """CLOCK_MONOTONIC and CLOCK_BOOTTIME."""
        return self._now

    def realtime(self) -> int:
        """CLOCK_REALTIME."""
        return self.boot_time_ns + self._now

    def system_call(self) -> bool:
        """Let the time of one system call pass; True if the coarse clocks changed."""
        self.system_calls += 1
        self._now += SYSCALL_NS
        return self._tick()

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self._now += ns

    def sleep_until(self, deadline: int) -> None:
        """Let time pass up to a monotonic deadline, which may be in the past."""
        self._now = max(self._now, deadline)

    def _tick(self) -> bool:
        if self._now < self._next_tick:
            return False
        self._next_tick = self._now - self._now % TICK_NS + TICK_NS
        return True
