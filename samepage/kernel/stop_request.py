"""A request from outside to end the run: a limit, or Ctrl-C.

It may come from a signal handler or another thread, between any two instructions of ours.
So it only leaves a note here and stops the CPU; the kernel looks for the note when it has
served what it was entered for, and raises the exception then.
"""

from __future__ import annotations


class LimitReached(Exception):
    """The run has used up what the user allowed it."""


class StopRequest:
    """`limit` is the limit that was reached, in words; `interrupted` is set for Ctrl-C."""

    def __init__(self) -> None:
        self.limit: str | None = None
        self.interrupted = False

    @property
    def pending(self) -> bool:
        """Whether the run is to end."""
        return self.interrupted or self.limit is not None

    def reach(self, limit: str) -> None:
        """End the run with `LimitReached`."""
        self.limit = limit

    def interrupt(self) -> None:
        """End the run with `KeyboardInterrupt`."""
        self.interrupted = True

    def withdraw(self) -> None:
        """The run has ended."""
        self.limit, self.interrupted = None, False

    def raise_pending(self) -> None:
        """Raise what was requested: `KeyboardInterrupt` once, `LimitReached` until the
        request is withdrawn."""
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        if self.limit is not None:
            raise LimitReached(self.limit)
