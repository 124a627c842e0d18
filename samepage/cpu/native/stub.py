"""A stub process: starting it, and having it execute.

It is woken through one pipe and answers through another. A pipe costs no more than a futex, and
it ends with the process at its other side, so that neither waits for one that is gone: a read of
ours that returns nothing is a stub that was killed. The other way round PR_SET_PDEATHSIG ends a
stub that executes a guest when the thread that started it does not exist any more.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import struct
import time
from contextlib import suppress

from samepage.abi.signal import SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SS_AUTODISARM
from samepage.arch import LEVEL_SHIFTS, PAGE_SIZE, STACK_TOP
from samepage.cpu.engine import EngineError
from samepage.cpu.native import control as layout
from samepage.cpu.native.control import (
    CODE_SIZE,
    FILTER_AT,
    REGION_SIZE,
    STACK_AT,
    STACK_SIZE,
    Control,
)
from samepage.cpu.native.filter import make_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SLOT_SHIFT = LEVEL_SHIFTS[0]
"""The bit of an address where its entry of the top table begins."""
_N_SLOTS = STACK_TOP >> SLOT_SHIFT
_PAGES_IN_SLOT = 1 << SLOT_SHIFT - PAGE_SIZE.bit_length() + 1

_HANDLER_AT = 8
"""Where `stub.bin` has the place of its signal handler."""
_ALL_SIGNALS = (1 << 64) - 1
STOPS = tuple(
    map(
        int,
        (
            signal.SIGILL,
            signal.SIGTRAP,
            signal.SIGBUS,
            signal.SIGFPE,
            signal.SIGUSR1,
            signal.SIGSEGV,
            signal.SIGSYS,
        ),
    )
)
MASK = _ALL_SIGNALS & ~sum(1 << number - 1 for number in STOPS)
"""A guest is stopped by these signals; others, of a terminal for instance, are not for it."""
INTERRUPT = int(signal.SIGUSR1)
_MFD_EXEC = 0x10
_WAKE = b"\1"
_RANDOM = random.SystemRandom()


def choose_base(used: Sequence[int]) -> int:
    """An address for a stub: anywhere in the user space, but where the top table of the guest
    has an entry (`used` are its entries), so that the guest has no page within 512 GiB. It is
    random, so that a guest cannot search for it."""
    slots = [slot for slot in range(1, _N_SLOTS) if not used[slot]]
    if not slots:
        raise EngineError("a guest uses all of its address space: no room is left for a stub")
    page = _RANDOM.randrange(_PAGES_IN_SLOT - REGION_SIZE // PAGE_SIZE)
    return (_RANDOM.choice(slots) << SLOT_SHIFT) + page * PAGE_SIZE


@functools.cache
def _code() -> tuple[int, int]:
    """A descriptor of the program, and where its signal handler is in its page. It is copied to
    memory, since a package may be installed without the right to execute its files."""
    path = os.path.join(os.path.dirname(__file__), "stub.bin")
    try:
        with open(path, "rb") as file:
            program = file.read()
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    try:
        fd = os.memfd_create("samepage-stub", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:  # before Linux 6.3 there is no such flag
        fd = os.memfd_create("samepage-stub", os.MFD_CLOEXEC)
    os.write(fd, program)
    return fd, int.from_bytes(program[_HANDLER_AT : _HANDLER_AT + 8], "little")


class Stub:
    """A process, at `base` in its own address space."""

    def __init__(self, control: Control, ram_fd: int, base: int) -> None:
        """Start it, until its first report is in the control memory. Raises `EngineError`."""
        self.base = base
        self.slot = base >> SLOT_SHIFT
        self.key = _RANDOM.getrandbits(32) << 32
        self.below = (0, base)
        self.above = (base + REGION_SIZE, STACK_TOP - base - REGION_SIZE)
        self._control = control
        self._write_start(control)
        self._process: int | None = None
        self._start(control.fd, ram_fd)
        self._wait()
        control.locate(base)
        self.frame = base + CODE_SIZE + control.context_at

    def _write_start(self, control: Control) -> None:
        words, here = control.words, self.base + CODE_SIZE
        words[layout.BASE], words[layout.BELOW] = self.base, self.base
        words[layout.ABOVE], words[layout.ABOVE_SIZE] = self.above
        at = 8 * layout.SIGNAL_STACK
        # The stack is always used from its upper end, wherever the guest's pointer is.
        struct.pack_into("<QIIQ", control.bytes, at, here + STACK_AT, SS_AUTODISARM, 0, STACK_SIZE)
        flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER
        at = 8 * layout.ACTION
        handler = self.base + _code()[1]
        struct.pack_into("<QQQQ", control.bytes, at, handler, flags, handler, _ALL_SIGNALS)
        program = make_filter(self.base, self.key >> 32)
        struct.pack_into(
            "<HxxxxxxQ", control.bytes, 8 * layout.FILTER, len(program) >> 3, here + FILTER_AT
        )
        assert len(program) <= STACK_AT - FILTER_AT
        control.bytes[FILTER_AT : FILTER_AT + len(program)] = program

    def _start(self, control_fd: int, ram_fd: int) -> None:
        code, _ = _code()
        to_stub = os.pipe()
        from_stub = os.pipe()
        self._bell, self._answer = to_stub[1], from_stub[0]
        # Above the targets, so that no copy overwrites a source.
        import fcntl

        sources = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16)
            for fd in (to_stub[0], from_stub[1], ram_fd, control_fd, code)
        ]
        actions = [
            (os.POSIX_SPAWN_DUP2, fd, target)
            for fd, target in zip(sources, (0, 1, 3, 4, 5), strict=True)
        ]
        try:
            self._process = os.posix_spawn(
                f"/proc/self/fd/{code}",
                ["samepage-stub"],
                {},
                file_actions=actions,
                setsigmask=[n for n in range(1, 65) if MASK >> n - 1 & 1 and n not in (32, 33)],
                setsigdef=list(STOPS),
            )
        except OSError as error:
            raise EngineError(f"the native engine cannot start a process: {error}") from None
        finally:
            for fd in (*sources, to_stub[0], from_stub[1]):
                os.close(fd)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process

    def ring(self) -> None:
        """Let it do what the control memory holds, and wait for its next report."""
        try:
            os.write(self._bell, _WAKE)
        except BrokenPipeError:
            raise self._dead() from None
        self._wait()

    def _wait(self) -> None:
        if not os.read(self._answer, 1):
            raise self._dead()

    def _dead(self) -> EngineError:
        status = self.close()
        return EngineError(f"a process of the native engine is dead (wait status {status:#x})")

    def interrupt(self) -> None:
        """End what the guest executes."""
        with suppress(OSError):
            os.kill(self.pid, INTERRUPT)

    def cpu_time_ns(self) -> int:
        """What the process has used of a CPU."""
        try:
            # clockid_t of a process: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
            return time.clock_gettime_ns(~self.pid << 3 | 2)
        except OSError:
            return 0

    def close(self) -> int:
        """End it; return its status (that of `waitpid`), 0 if it was waited for before."""
        if self._process is None:
            return 0
        pid, self._process = self._process, None
        os.close(self._bell)
        os.close(self._answer)
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        return 0
