"""Stopping the CPU from outside: the timer interrupt, a time limit, and Ctrl-C.

While guest code runs, Python does not: a signal handler would wait until the guest's next
page fault or system call, which in an endless loop never comes. So a thread waits for a
signal (Python writes a byte to the wake-up descriptor at once) or for the time limit, and
stops the CPU. It is the machine's timer too: it stops the CPU once in each tick period.

Python runs a handler between any two of its instructions. A `KeyboardInterrupt` from there
could cut a system call of the guest in two, or start in the first instruction of a callback
of the CPU, where the C code that called it drops the exception. So the handler of Ctrl-C
leaves a note for the kernel, which raises the exception when it has done what it was at.
Only if it does not come to that, since it waits for the host, the handler raises. The
thread sends the signal for a time limit, too, that the kernel does not come to.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from samepage.kernel.boot import Kernel
from samepage.kernel.clock import TICK_PERIOD_NS
from samepage.kernel.stop_request import LimitReached

_PATIENCE = 0.2
"""How long the kernel may take to find the note (seconds): if longer, it waits for the host."""


@contextlib.contextmanager
def watch(kernel: Kernel, timeout: float | None, period_ns: int = TICK_PERIOD_NS) -> Iterator[None]:
    """Stop `kernel`'s CPU after `timeout` seconds, or as soon as a signal comes,
    and let it feel its timer every `period_ns`.

    Ctrl-C raises `KeyboardInterrupt`, unless the program has a SIGINT handler of its own.
    """
    request = kernel.stop_request
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    main = threading.current_thread() is threading.main_thread()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False) if main else -1
    ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    done = threading.Event()
    if ours:
        signal.signal(signal.SIGINT, _interrupt_handler(kernel, done))
    thread = threading.Thread(
        target=_wait,
        args=(kernel, reader, timeout, done, ours, period_ns),
        name="watchdog",
        daemon=True,
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
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(reader)
        os.close(writer)
        # What came after the last instruction does not concern the next run.
        late = request.interrupted and request.limit is None
        request.withdraw()
    if late:
        raise KeyboardInterrupt


def _interrupt_handler(
    kernel: Kernel, done: threading.Event
) -> Callable[[int, FrameType | None], None]:
    request = kernel.stop_request

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        may_raise = not kernel.cpu.running and not done.is_set()
        if request.limit is not None and may_raise:
            raise LimitReached(request.limit)
        if request.interrupted and may_raise:
            request.raise_pending()
        request.interrupt()
        kernel.cpu.interrupt()

    return interrupt


def _wait(
    kernel: Kernel,
    reader: int,
    timeout: float | None,
    done: threading.Event,
    ours: bool,
    period_ns: int,
) -> None:
    """Stop the CPU once in each tick period, and when there is a byte to read.

    With `ours` a signal comes to our handler, and can end a wait for the host.
    """
    request = kernel.stop_request
    end = None if timeout is None else time.monotonic() + timeout
    repeat_at = time.monotonic() + _PATIENCE
    while not done.is_set():
        if select.select([reader], [], [], period_ns / 1e9)[0]:
            os.read(reader, 4096)
            if done.is_set():
                break
        now = time.monotonic()
        if end is not None and now >= end:
            request.reach(f"the time limit of {timeout:g} s")
        if not request.pending:
            repeat_at = now + _PATIENCE
        elif ours and now >= repeat_at:
            repeat_at = now + _PATIENCE
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        kernel.cpu.interrupt()
