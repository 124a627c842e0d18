"""Ending traced processes, so that none is left behind and none stays a zombie."""

import contextlib
import ctypes
import os
import signal
import threading
import time

from samepage.abi.prctl import Pr
from samepage.trace import ptrace
from samepage.trace.ptrace import Stop, StopKind


def status_lines(pid: int | str) -> list[str]:
    """The lines of /proc/PID/status; none if the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return file.readlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(Pr.SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_subreaper(on: bool) -> bool:
    """Make this process the one that orphans below it come to, or not; as it was before."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(Pr.GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(Pr.SET_CHILD_SUBREAPER, int(on))
    return before.value != 0


def end_all(pids: set[int], kept: set[int]) -> None:
    """End these tracees, and all others of this thread but `kept`, and leave no zombie.

    A process that is killed right after a fork has a child that was never reported to us: it
    is traced from its first moment, and waits for us. Only /proc still knows it.
    """
    todo = set(pids)
    while todo:
        _kill_and_reap(todo)
        todo = tracees() - kept
    reap_adopted(pids)


def reap_adopted(pids: set[int]) -> None:
    """Reap those of these processes that are zombies and have become our children.

    A tracee whose parent is another process ends twice: first for its tracer, then it is
    a zombie of its parent, and ours (a subreaper's) once the parent is dead. Stops of tracees
    are left for whoever waits for them.
    """
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | ptrace.WAIT_THREAD)


def is_tracee(tid: int | str) -> bool:
    """Whether this thread traces that one."""
    return f"TracerPid:\t{threading.get_native_id()}\n" in status_lines(tid)


def tracees() -> set[int]:
    """The processes that this thread traces."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit() and is_tracee(name)}


def _kill_and_reap(pids: set[int]) -> None:
    """End these tracees.

    Tids cannot be waited for one after the other: a main thread is reported only after
    all other threads have been, and a process whose real parent is another one turns to
    us, after its tracer has heard of its end, when that parent is dead too.
    """
    left = set(pids)
    for pid in pids:
        _kill(pid)
    while left:
        before = len(left)
        for pid in sorted(left):
            try:
                tid, status = os.waitpid(pid, ptrace.WAIT_THREAD | os.WNOHANG)
            except ChildProcessError:
                left.discard(pid)
                continue
            if tid and Stop.decode(tid, status).kind is StopKind.GONE:
                left.discard(pid)
            elif tid:
                ptrace.resume(pid)
        if len(left) == before:
            time.sleep(0.0005)
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, ptrace.WAIT_THREAD | os.WNOHANG)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ptrace.resume(pid)
