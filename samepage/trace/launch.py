"""Starting a program so that two runs of it put the same things at the same addresses.

What decides where a program's pages lie, besides the program: address space randomization
(off, `personality(ADDR_NO_RANDOMIZE)`), the stack limit (it sets `mmap_base`), the bytes of
the path, the arguments and the environment (they lie on top of the stack), and the 16
random bytes of AT_RANDOM, which the C library makes its stack guard of. `Launch` names all
of it; whatever else a process inherits (signal dispositions, open files, a terminal) is
set to one state here. It runs on one CPU: some programs start as many threads as they may
use CPUs, and processes of a pipeline that really run at once do not behave the same twice.

The child is a fork of this process that waits at a pipe until it is traced, so there is no
moment in which it could outlive us: before that, the closed pipe ends it; afterwards,
`PTRACE_O_EXITKILL` does.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import struct
from collections.abc import Mapping, Sequence

from samepage.abi.auxv import parse_auxv
from samepage.abi.prctl import ADDR_NO_RANDOMIZE, Pr
from samepage.arch import Sys
from samepage.errors import SamepageError
from samepage.records import record
from samepage.trace import ptrace
from samepage.trace.ptrace import StopKind

STACK_LIMIT = 8 << 20
"""RLIMIT_STACK in bytes: what Linux starts with, and what `mmap_base` is computed from."""

OPEN_FILES_LIMIT = 1024
"""RLIMIT_NOFILE: some programs size a table by it."""


@record(frozen=True)
class Launch:
    """A program to start, with everything about it that decides its memory.

    `path` goes to `execve` as it is. `stdout` and `stderr` are descriptors of ours;
    standard input is always /dev/null. `random` is what AT_RANDOM will point at: 16 bytes.
    """

    path: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = "/"
    stdout: int = -1
    stderr: int = -1
    random: bytes = bytes(16)


def launch(program: Launch) -> tuple[int, int]:
    """Start `program` under this thread's trace, and stop it where it has become itself.

    Returns its pid, stopped at the exec event (the new image is mapped, and no instruction
    of it has run), and the minor faults that exec took for building it.

    Raises `SamepageError` if the kernel does not let us trace, or the program cannot be
    executed (exit status 126 or 127, as a shell has it).
    """
    gate_read, gate_write = os.pipe()
    report_read, report_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate_write)
        os.close(report_read)
        _become(program, gate_read, report_write)
    os.close(gate_read)
    os.close(report_write)
    try:
        ptrace.seize(pid)
        ptrace.interrupt(pid)
        os.write(gate_write, b"!")
        faults = _run_to_exec(pid)
        if faults is None:
            raise _refusal(program, os.read(report_read, 4))
    except OSError as error:
        _end(pid)
        raise SamepageError(f"cannot trace {program.path}: {error.strerror or error}") from error
    except BaseException:
        _end(pid)
        raise
    finally:
        os.close(gate_write)
        os.close(report_read)
    return pid, faults


def _run_to_exec(pid: int) -> int | None:
    """Let the child exec. The minor faults from the entry to `execve`, all its own, to the
    exec event; None if it ended instead."""
    before = 0
    while True:
        stop = ptrace.wait(pid)
        match stop.kind:
            case StopKind.GONE:
                return None
            case StopKind.EXEC:
                return minor_faults(pid) - before
            case StopKind.SYSCALL if ptrace.syscall_info(pid)[1] == Sys.EXECVE:
                before = minor_faults(pid)
        signal_number = stop.signal if stop.kind is StopKind.SIGNAL else 0
        ptrace.resume(pid, signal_number, syscalls=True)


def _become(program: Launch, gate: int, report: int) -> None:
    """In the child: set what a process inherits, wait to be traced, and exec. No return."""
    try:
        _set_descriptors(program)
        os.setsid()
        os.umask(0o022)
        os.chdir(program.cwd)
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})
        _limit(resource.RLIMIT_STACK, STACK_LIMIT)
        _limit(resource.RLIMIT_NOFILE, OPEN_FILES_LIMIT)
        _limit(resource.RLIMIT_CORE, 0)
        for number in signal.valid_signals():
            # exec itself takes care of handlers, and keeps what is ignored (Python: SIGPIPE).
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        libc = ctypes.CDLL(None)
        # A set-user-ID file would bring randomization back (PER_CLEAR_ON_SETID), even for root.
        libc.prctl(Pr.SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.personality(ADDR_NO_RANDOMIZE)
        argv, env = list(program.argv), dict(program.env)
        if os.read(gate, 1) == b"!":
            os.execve(program.path, argv, env)
    except OSError as error:
        os.write(report, struct.pack("i", error.errno or 0))
    finally:
        os._exit(127)


def _set_descriptors(program: Launch) -> None:
    """0, 1 and 2 as the program wants them; all others close themselves at exec."""
    null = os.open(os.devnull, os.O_RDWR)
    sources = (null, program.stdout, program.stderr)
    # Copies above all of them first, since a source may be one of the targets.
    copies = [fcntl.fcntl(fd if fd >= 0 else null, fcntl.F_DUPFD_CLOEXEC, 3) for fd in sources]
    for target, copy in enumerate(copies):
        os.dup2(copy, target)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor is gone
                os.set_inheritable(int(name), False)


def _limit(which: int, soft: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _refusal(program: Launch, report: bytes) -> SamepageError:
    code = struct.unpack("i", report)[0] if len(report) == 4 else 0
    status = 127 if code == errno.ENOENT else 126
    why = os.strerror(code) if code else "it was killed while starting"
    return SamepageError(f"cannot execute {program.path}: {why}", status)


def _end(pid: int) -> None:
    """Kill and reap a child, whatever state it is in."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        while not os.WIFSIGNALED(os.waitpid(pid, ptrace.WAIT_THREAD)[1]):
            ptrace.resume(pid)


def minor_faults(pid: int) -> int:
    """`min_flt` of a process and its ended threads, from /proc/PID/stat."""
    return fault_counts(pid)[0]


def fault_counts(pid: int) -> tuple[int, int]:
    """Minor and major faults of a process and its ended threads (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[7]), int(fields[9])


def auxiliary_vector(pid: int) -> dict[int, int]:
    """The auxv that exec gave to the process, by `AT_*` number."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        return parse_auxv(file.read())
