"""Stopping the CPU from outside: the timer interrupt, a time limit, and Ctrl-C.

While guest code runs, Python does not: a signal handler would wait until the guest's next
page fault or system call, which in an endless loop never comes. So a thread waits for a
signal (Python writes a byte to the wake-up descriptor at once) or for the time limit, and
stops the CPU. It is the machine's timer too: it stops the CPU once in each tick period.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

from samepage.kernel.clock import TICK_PERIOD_NS
from samepage.kernel.kernel import Kernel

_AGAIN = 0.02
"""A stop may come between two entries of the CPU and be lost, so it is repeated (seconds)."""


@contextlib.contextmanager
def watch(kernel: Kernel, timeout: float | None) -> Iterator[None]:
    """Stop `kernel`'s CPU after `timeout` seconds, or as soon as a signal comes."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    main = threading.current_thread() is threading.main_thread()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False) if main else -1
    done = threading.Event()
    thread = threading.Thread(
        target=_wait, args=(kernel, reader, timeout, done), name="watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        if main:
            signal.set_wakeup_fd(previous)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


def _wait(kernel: Kernel, reader: int, timeout: float | None, done: threading.Event) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        ready, _, _ = select.select([reader], [], [], TICK_PERIOD_NS / 1e9)
        if ready:
            break
        if end is not None and time.monotonic() >= end:
            kernel.stop_reason = f"the time limit of {timeout:g} s"
            break
        kernel.cpu.stop()
    while not done.is_set():
        kernel.cpu.stop()
        done.wait(_AGAIN)
