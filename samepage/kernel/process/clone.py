"""fork, vfork, clone: a new thread or process from an old one (`copy_process`)."""

import errno

from samepage.abi.resource import Rlimit
from samepage.abi.sched import Clone
from samepage.arch import REG_RESULT, REG_SP, REG_THREAD_POINTER
from samepage.kernel.errors import SysError
from samepage.kernel.mm.fork import dup_mmap
from samepage.kernel.mm.uaccess import put_u32
from samepage.kernel.process.sigset import SigAltStack
from samepage.kernel.process.task import Process, Task
from samepage.records import replace

_MANY = 1 << 16
_NAMESPACES = (
    Clone.NEWNS
    | Clone.NEWCGROUP
    | Clone.NEWUTS
    | Clone.NEWIPC
    | Clone.NEWUSER
    | Clone.NEWPID
    | Clone.NEWNET
)


def do_clone(
    task: Task,
    flags: int,
    *,
    exit_signal: int = 0,
    stack: int = 0,
    tls: int = 0,
    parent_tid: int = 0,
    child_tid: int = 0,
) -> Task:
    """Make a task that continues where `task` is, with 0 as its return value.

    Raises `SysError` (EINVAL for combinations that Linux refuses and for namespaces).
    """
    if flags & (Clone.NEWNS | Clone.FS) == Clone.NEWNS | Clone.FS:
        raise SysError(errno.EINVAL)
    if flags & _NAMESPACES:
        raise SysError(errno.EPERM)
    if flags & Clone.PIDFD and flags & (Clone.DETACHED | Clone.THREAD):
        raise SysError(errno.EINVAL)
    if (flags & Clone.THREAD and not flags & Clone.SIGHAND) or (
        flags & Clone.SIGHAND and not flags & Clone.VM
    ):
        raise SysError(errno.EINVAL)
    kernel = task.kernel
    _check_process_limit(task)
    tid = kernel.processes.next_pid()
    if flags & Clone.THREAD:
        process = task.process
    else:
        process = _copy_process(task, tid, flags, exit_signal)
    registers = kernel.cpu.save()
    child = Task(tid, process, registers, blocked=task.blocked)
    child.altstack = _copy_altstack(task, flags)
    registers.write(REG_RESULT, 0)
    if stack:
        registers.write(REG_SP, stack)
    if flags & Clone.SETTLS:
        registers.write(REG_THREAD_POINTER, tls)
    if flags & Clone.CHILD_CLEARTID:
        child.clear_child_tid = child_tid
    if not flags & Clone.VM:
        child.rseq_area = task.rseq_area
    child.seccomp = task.seccomp
    child.memory_policy = task.memory_policy
    process.threads[tid] = child
    if flags & Clone.PARENT_SETTID:
        put_u32(task.mm, parent_tid, tid)
    if flags & Clone.CHILD_SETTID:
        child.set_child_tid = child_tid
    if flags & Clone.VFORK:
        process.vfork_done = False
    kernel.scheduler.add(child)
    kernel.tracers.on_fork(task, child)
    return child


def _check_process_limit(task: Task) -> None:
    """RLIMIT_NPROC, which does not bind root. Raises `SysError(EAGAIN)`."""
    uid, limit = task.process.cred.uid, task.process.limit(Rlimit.NPROC)
    if uid == 0 or limit > _MANY:
        return
    mine = [p for p in task.kernel.processes.values() if p.threads and p.cred.uid == uid]
    if sum(len(process.threads) for process in mine) >= limit:
        raise SysError(errno.EAGAIN)


def _copy_altstack(task: Task, flags: int) -> SigAltStack:
    if flags & Clone.VM and not flags & Clone.VFORK:
        return SigAltStack()
    return replace(task.altstack)


def _copy_process(task: Task, pid: int, flags: int, exit_signal: int) -> Process:
    old, kernel = task.process, task.kernel
    mm = task.mm.get() if flags & Clone.VM else dup_mmap(task.mm)
    parent = old.parent if flags & Clone.PARENT else old
    if flags & Clone.FILES:
        old.files.users += 1
    process = Process(
        kernel,
        pid,
        parent,
        mm,
        old.files if flags & Clone.FILES else old.files.copy(),
        old.fs if flags & Clone.FS else old.fs.copy(),
        old.pgid,
        old.sid,
        comm=old.comm,
        exe_path=old.exe_path,
        exe=old.exe,
        argv=old.argv,
        auxv=old.auxv,
        actions=old.actions if flags & Clone.SIGHAND else old.actions.copy(),
        limits=dict(old.limits),
        exit_signal=exit_signal,
        start_time_ns=kernel.clock.monotonic(),
        dumpable=old.dumpable,
        no_new_privs=old.no_new_privs,
        personality=old.personality,
        nice=old.nice,
        policy=old.policy,
    )
    if flags & Clone.CLEAR_SIGHAND:
        process.actions = old.actions.copy()
        process.actions.flush_handlers()
    kernel.processes.add(process)
    return process
