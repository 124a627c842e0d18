"""seccomp: a thread restricts its own system calls and its children's (kernel/seccomp.c).

In strict mode four calls are left. In filter mode a program in classic BPF looks at the
number and the arguments of each call and decides: do it, answer an errno, raise SIGSYS, kill
the thread or the process. All filters that were ever installed run, and the strictest answer
counts.

No task can listen to a filter (SECCOMP_FILTER_FLAG_NEW_LISTENER) or trace it here; calls for
which a filter wants that answer ENOSYS, as on Linux without a listener.
"""

import errno
import struct

from samepage.abi.signal import SIGKILL, SIGSYS, SYS_SECCOMP
from samepage.arch import ARCH, REG_RESULT, Sys
from samepage.kernel.process.exit import do_exit, end_by_signal
from samepage.kernel.process.seccomp_filter import SECCOMP_DATA, Action, Filter, Seccomp, evaluate
from samepage.kernel.process.signal import force_signal
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Process, Task

_STRICT_CALLS = {Sys.READ, Sys.WRITE, Sys.EXIT, Sys.RT_SIGRETURN}
_ACTION, _DATA, _MAX_ERRNO = 0xFFFF_0000, 0xFFFF, 4095
_WORD = 0xFFFF_FFFF


def install(task: Task, program: Filter) -> None:
    """Add a filter to those of a thread (`seccomp_attach_filter`). Raises `SysError`."""
    old = task.seccomp.filters if task.seccomp else ()
    task.seccomp = Seccomp((*old, program))


def synchronize(process: Process, task: Task) -> int:
    """Give all threads the filters of one; return 0, or the id of a thread that has filters
    of its own, and then none is changed (`seccomp_can_sync_threads`)."""
    assert task.seccomp is not None
    mine = task.seccomp.filters
    for other in process.threads.values():
        theirs = other.seccomp.filters if other.seccomp else ()
        if (other.seccomp and not theirs) or theirs != mine[: len(theirs)]:
            return other.tid
    for other in process.threads.values():
        other.seccomp = task.seccomp
    return 0


def permits(task: Task, registers: list[int]) -> bool:
    """Whether a thread may make the system call that it is about to make, given the number
    and the arguments; if not, it has got an answer already, or is gone
    (`__secure_computing`)."""
    assert task.seccomp is not None
    number = registers[0] & _WORD
    if not task.seccomp.filters:
        if number not in _STRICT_CALLS:
            _end(task, SigInfo(SIGKILL), thread_only=True)
        return number in _STRICT_CALLS
    signed = number - (1 << 32) if number >> 31 else number
    pc = task.kernel.cpu.pc
    packed = SECCOMP_DATA.pack(signed, ARCH.syscalls.audit_arch, pc, *registers[1:7])
    words = struct.unpack("<16I", packed)
    answer = min(
        (evaluate(program, words) for program in reversed(task.seccomp.filters)), key=_severity
    )
    action = answer & _ACTION
    if action in (Action.ALLOW, Action.LOG):
        return True
    if action in (Action.ERRNO, Action.TRACE, Action.USER_NOTIF):
        refused = min(answer & _DATA, _MAX_ERRNO) if action == Action.ERRNO else errno.ENOSYS
        task.kernel.cpu.write(REG_RESULT, -refused & (1 << 64) - 1)
        task.syscall_number = -1
        return False
    info = SigInfo(SIGSYS, SYS_SECCOMP, status=answer & _DATA, address=pc, value=signed)
    if action == Action.TRAP:
        task.syscall_number = -1
        force_signal(task, info)
    else:
        _end(task, info, thread_only=action == Action.KILL_THREAD)
    return False


def _severity(answer: int) -> int:
    """A sort key of answers: their actions as signed numbers."""
    action = answer & _ACTION
    return action - (1 << 32) if action >> 31 else action


def _end(task: Task, info: SigInfo, *, thread_only: bool) -> None:
    if thread_only and len(task.process.threads) > 1:
        do_exit(task, 0)
        return
    task.killed_by = info.signal
    end_by_signal(task, info)
