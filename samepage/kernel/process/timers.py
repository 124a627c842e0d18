"""Timers of a process that send signals: `alarm`, `setitimer` and `timer_create`.

A timer counts a clock: time since boot, or the CPU time that the process has used. The
kernel looks at all timers when time has passed (see `timer_interrupt`), and jumps to the earliest
one when every task sleeps.
"""

from samepage.records import field, record


@record
class Timer:
    """`deadline` and `interval` are in ns of the timer's clock; a deadline of None is a
    timer that is not armed."""

    signal: int
    on_cpu_time: bool = False
    deadline: int | None = None
    interval: int = 0
    overrun: int = 0
    """How many periods went by with the last signal."""
    value: int = 0
    """What `si_value` carries, of a timer made by `timer_create`."""
    target: int = 0
    """The thread that gets the signal, 0 for the process."""

    def set(self, now: int, value: int, interval: int) -> None:
        """Arm it `value` ns from `now`, or disarm it with 0."""
        self.deadline = now + value if value else None
        self.interval = interval if value else 0
        self.overrun = 0

    def left(self, now: int) -> int:
        """How long until it expires; 0 if it is not armed."""
        return 0 if self.deadline is None else max(self.deadline - now, 1)

    def expire(self, now: int) -> bool:
        """Whether it has expired; if it has, it is armed for its next period."""
        if self.deadline is None or self.deadline > now:
            return False
        if self.interval:
            periods = (now - self.deadline) // self.interval + 1
            self.overrun = periods - 1
            self.deadline += periods * self.interval
        else:
            self.deadline = None
        return True


@record
class Timers:
    """All timers of a process: the three of `setitimer` by their numbers, and the POSIX
    ones by their ids. A child of fork has none."""

    interval: dict[int, Timer] = field(default_factory=dict)
    posix: dict[int, Timer] = field(default_factory=dict)

    def all(self) -> list[tuple[int | None, Timer]]:
        """(the id of a POSIX timer or None, the timer)."""
        return [*((None, t) for t in self.interval.values()), *self.posix.items()]

    def next_deadline(self) -> int | None:
        """The earliest time since boot at which one expires."""
        armed = [
            timer.deadline
            for _, timer in self.all()
            if timer.deadline is not None and not timer.on_cpu_time
        ]
        return min(armed, default=None)
