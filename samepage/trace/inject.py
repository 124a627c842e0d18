"""System calls made by a running process on our behalf, which leave no trace in it.

A thread is seized and interrupted; its registers are set so that its next instruction is the
`syscall` of the vDSO; it is stopped again at the call's exit, and gets its registers back. No
byte of its memory is written or read: arguments are numbers only, and where the instruction
lies is known from our own vDSO, which is the same file at another address.

Three things could change what the program computes, and are looked after:

- A thread that was interrupted in a system call has the restart of that call pending. The
  kernel decides about it when it leaves the stop (`arch_do_signal_or_restart`), so the
  registers are put back in a stop of that kind, not at the exit of our own call.
- A thread in a restartable sequence (rseq) must be sent to its abort handler if it was
  preempted, and the kernel looks at the instruction pointer to find out. Such a thread is let
  go, and asked again a moment later.
- Signals that arrive meanwhile are delivered when it is let go.

If this process is killed, the kernel lets the thread run with whatever registers it has at that
moment. `samepage.trace.keeper` runs injections in a process of its own for that reason.
"""

import contextlib
import ctypes
import errno
import os
import platform
import time
from collections.abc import Iterator

from samepage.abi.ptrace import Options
from samepage.errors import SamepageError
from samepage.trace import ptrace
from samepage.trace.ptrace import NO_SYSCALL, SYSCALL_INSTRUCTION, Registers, Stop, StopKind

_ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_STOP_LIMIT = 2.0
"""Seconds to wait for a thread to stop: one in uninterruptible sleep does not."""
_ATTEMPTS = 50
_RSEQ_CS_OFFSET = 8  # offsetof(struct rseq, rseq_cs)
_USER32_CS = 0x23


class Injector:
    """One stopped thread of another process, which makes system calls for us."""

    def __init__(self, tid: int, vdso: int) -> None:
        """Use `stopped`, which makes it."""
        self._tid = tid
        self._entry = vdso + _syscall_offset()
        self._saved = ptrace.get_registers(tid)
        self.signals: list[int] = []
        """Signals that arrived meanwhile."""

    def call(self, number: int, *arguments: int) -> int:
        """Make one system call; its result, or the negative errno.

        Raises `ProcessLookupError` if the thread was killed.
        """
        registers = Registers.from_buffer_copy(self._saved)
        for name, value in zip(_ARGUMENTS, arguments, strict=False):
            setattr(registers, name, value)
        registers.rax, registers.orig_rax, registers.rip = number, NO_SYSCALL, self._entry
        ptrace.set_registers(self._tid, registers)
        self._run_until(StopKind.SYSCALL)
        self._run_until(StopKind.SYSCALL)
        result = ctypes.c_long(ptrace.get_registers(self._tid).rax).value
        # Into a stop at which the kernel still decides about restarts.
        ptrace.interrupt(self._tid)
        # (GROUP_STOP where the whole process is stopped by a signal.)
        self._run_until(StopKind.NEW, StopKind.GROUP_STOP, syscalls=False)
        ptrace.set_registers(self._tid, self._saved)
        return result

    def in_restartable_sequence(self) -> bool:
        """Whether the thread has announced a critical section (rseq(2))."""
        area = ptrace.rseq_area(self._tid)
        if not area:
            return False
        try:
            word = ptrace.read_memory(self._tid, area + _RSEQ_CS_OFFSET, 8)
        except OSError:
            return True
        return any(word)

    def _run_until(self, *kinds: StopKind, syscalls: bool = True) -> None:
        while True:
            if not ptrace.resume(self._tid, syscalls=syscalls):
                raise ProcessLookupError(errno.ESRCH, f"{self._tid} was killed")
            stop = wait_for_stop(self._tid)
            if stop.kind in kinds:
                return
            if stop.kind in (StopKind.GONE, StopKind.EXIT):
                raise ProcessLookupError(errno.ESRCH, f"{self._tid} was killed")
            if stop.kind is StopKind.SIGNAL:
                self.signals.append(stop.signal)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[Injector]:
    """A thread of `pid`, stopped and ready for calls; afterwards it continues as if nothing
    had happened. A process that was stopped before by a signal stays stopped.

    Raises `SamepageError` where that is not possible: no right to trace, traced by another,
    in uninterruptible sleep, a 32-bit process, a processor that this is not written for.
    `ProcessLookupError`: the process is gone.
    """
    if platform.machine() != "x86_64":
        raise SamepageError(f"injecting system calls is not supported on {platform.machine()}")
    vdso = vdso_address(pid)
    _seize(pid)
    with _detached_at_the_end(pid):
        injector = _stop(pid, vdso)
        try:
            yield injector
        finally:
            for number in injector.signals:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def wait_for_stop(tid: int, limit: float = _STOP_LIMIT) -> Stop:
    """The next stop of a tracee. Raises `SamepageError` after `limit` seconds."""
    end, pause = time.monotonic() + limit, 0.00002
    while time.monotonic() < end:
        done, status = os.waitpid(tid, ptrace.WAIT_THREAD | os.WNOHANG)
        if done:
            return Stop.decode(tid, status)
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
    raise SamepageError(
        f"process {tid} did not stop within {limit:g} s: it waits for a device or file system"
    )


def vdso_address(pid: int) -> int:
    """Where the vDSO of a process begins. Raises `SamepageError` if it has none, and
    `ProcessLookupError` if it is gone."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.endswith("[vdso]\n"):
                    return int(line.split("-", 1)[0], 16)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from error
    except PermissionError as error:
        raise SamepageError(f"process {pid} belongs to another user: run as root") from error
    raise SamepageError(f"process {pid} has no vDSO (a kernel thread, or vdso=0)")


def _syscall_offset() -> int:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.endswith("[vdso]\n"):
                start, end = (int(word, 16) for word in line.split(" ", 1)[0].split("-"))
                offset = ctypes.string_at(start, end - start).find(SYSCALL_INSTRUCTION)
                if offset >= 0:
                    return offset
    raise SamepageError("the vDSO of this kernel has no system call instruction")


def _seize(pid: int) -> None:
    try:
        ptrace.seize(pid, Options.TRACESYSGOOD)
    except PermissionError as error:
        tracer = _tracer(pid)
        if tracer:
            raise SamepageError(f"process {pid} is traced by process {tracer} already") from error
        raise SamepageError(
            f"process {pid} may not be traced: run as root (CAP_SYS_PTRACE); "
            "kernel.yama.ptrace_scope 3 forbids it to everyone"
        ) from error


def _tracer(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("TracerPid:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _stop(pid: int, vdso: int) -> Injector:
    """Stop the thread at an instant at which its registers may be borrowed."""
    for attempt in range(_ATTEMPTS):
        ptrace.interrupt(pid)
        stop = wait_for_stop(pid)
        while stop.kind is StopKind.SIGNAL:
            ptrace.resume(pid, stop.signal)
            stop = wait_for_stop(pid)
        if stop.kind in (StopKind.GONE, StopKind.EXIT):
            raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
        injector = Injector(pid, vdso)
        if ptrace.get_registers(pid).cs == _USER32_CS:
            raise SamepageError(f"process {pid} is a 32-bit program: that is not supported")
        if not injector.in_restartable_sequence():
            return injector
        ptrace.resume(pid)
        time.sleep(0.001 * (attempt + 1))
    raise SamepageError(f"process {pid} is always in a restartable sequence")


@contextlib.contextmanager
def _detached_at_the_end(pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            ptrace.detach(pid)
        except OSError:
            # It runs: stop it once more, since only a stopped thread can be let go.
            with contextlib.suppress(OSError, SamepageError):
                ptrace.interrupt(pid)
                wait_for_stop(pid)
                ptrace.detach(pid)
