"""The end of threads and processes (kernel/exit.c).

A process gives its memory back, and stays a zombie until its parent has waited for it. One
that a tracer holds at its exit keeps its memory as its last instruction left it, until
`release_memory`.
"""

from samepage.abi.resource import Rlimit
from samepage.abi.signal import (
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    SA_NOCLDWAIT,
    SI_KERNEL,
    SIG_IGN,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user, get_struct, get_u32, get_u64, put_u32
from samepage.kernel.process.futex import FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS, wake
from samepage.kernel.process.signal import send_to_process
from samepage.kernel.process.sigset import CORE_BY_DEFAULT, SigInfo
from samepage.kernel.process.task import Process, Task, TaskState
from samepage.kernel.process.timers import Timers

_ROBUST_LIST_LIMIT = 2048
CORE_DUMPED = 0x80
"""The bit of a wait status beside the signal (WCOREDUMP)."""


def do_exit(task: Task, code: int) -> None:
    """End one thread (`do_exit`); the last one ends the process with status `code` << 8."""
    process = task.process
    if len(process.threads) == 1:
        _end_process(task, (code & 0xFF) << 8)
        return
    release_futexes(task)
    _clear_child_tid(task)
    _end_thread(task)


def do_group_exit(task: Task, status: int) -> None:
    """End the whole process with a wait status word (`do_group_exit`)."""
    kill_other_threads(task)
    _end_process(task, status)


def end_by_signal(task: Task, info: SigInfo) -> None:
    """End the process by a signal, with a core dump if it is one for that and the limits allow
    it (`get_signal`)."""
    status = info.signal
    if status in CORE_BY_DEFAULT and task.process.limit(Rlimit.CORE):
        from samepage.kernel.process.coredump import do_coredump  # few processes have one

        if do_coredump(task, info):
            status |= CORE_DUMPED
    do_group_exit(task, status)


def kill_other_threads(task: Task) -> None:
    """End all threads of the process but `task` (`de_thread`, `zap_other_threads`)."""
    for other in list(task.process.threads.values()):
        if other is not task:
            _end_thread(other)


def _end_thread(task: Task) -> None:
    process = task.process
    if task.blocked_call is not None:
        task.blocked_call.close()
        task.blocked_call = None
    task.state = TaskState.ZOMBIE
    process.dead_faults.minor += task.faults.minor
    process.dead_faults.major += task.faults.major
    del process.threads[task.tid]
    task.kernel.scheduler.remove(task)


def _end_process(task: Task, status: int) -> None:
    process, kernel, mm = task.process, task.kernel, task.mm
    held = process.tracing_stop = kernel.tracers.on_exit(process)
    process.peak_rss_pages = max(process.peak_rss_pages, mm.peak_rss, mm.rss_pages)
    process.exit_status = status
    if not held:
        release_futexes(task)
        _clear_child_tid(task)
    _end_thread(task)
    process.files.users -= 1
    if process.files.users == 0:
        process.files.close_all()
    if held:
        # Its memory stays, but the file is not executed any more.
        mm.set_executable(None)
    else:
        release_memory(process)
    process.vfork_done = True
    process.timers = Timers()
    for child in process.children:
        if child.parent_death_signal and child.threads:
            send_to_process(child, SigInfo(child.parent_death_signal, pid=process.pid))
        _reparent(kernel.processes.find_new_reaper(process), child)
        _kill_orphaned_pgrp(child, process)
    process.children.clear()
    _kill_orphaned_pgrp(process, process.parent)
    _notify_parent(process)


def release_memory(process: Process) -> None:
    """Give back the memory of a process that has exited (`exit_mm`), also of one that was
    held there; its address space lives on in others that share it."""
    process.tracing_stop = False
    mm, process.mm = process.mm, None
    if mm is not None:
        mm.put()


def _kill_orphaned_pgrp(process: Process, parent: Process | None) -> None:
    """Wake the stopped jobs of the group of `process` if it is orphaned without the link between
    `process` and `parent`, one of which has just exited (`kill_orphaned_pgrp`)."""
    table = process.kernel.processes
    if parent is None or parent.pgid == process.pgid or parent.sid != process.sid:
        return
    group = [each for each in table.values() if each.pgid == process.pgid]
    if not any(task.stopped for each in group for task in each.threads.values()):
        return
    if table.is_orphaned(process.pgid):
        for signal in (SIGHUP, SIGCONT):
            for each in group:
                send_to_process(each, SigInfo(signal, SI_KERNEL))


def _reparent(new_parent: Process | None, child: Process) -> None:
    """A child whose parent is gone: the machine's init, which is None, reaps at once."""
    child.parent = new_parent
    if new_parent is not None:
        new_parent.children.append(child)
    elif child.exit_status is not None:
        child.kernel.processes.reap(child)


def _notify_parent(process: Process) -> None:
    parent = process.parent
    if parent is None:
        if not process.tracing_stop:
            process.kernel.processes.reap(process)
        return
    status = process.exit_status or 0
    killed, dumped = status & 0x7F, status & CORE_DUMPED
    action = parent.actions[SIGCHLD]
    if process.exit_signal:
        info = SigInfo(
            process.exit_signal,
            CLD_DUMPED if dumped else CLD_KILLED if killed else CLD_EXITED,
            process.pid,
            process.cred.uid,
            killed or status >> 8,
        )
        send_to_process(parent, info)
    if process.exit_signal == SIGCHLD and (
        action.handler == SIG_IGN or action.flags & SA_NOCLDWAIT
    ):
        process.kernel.processes.reap(process)


def _clear_child_tid(task: Task) -> None:
    """Wake the thread that joins this one (`mm_release`)."""
    address, task.clear_child_tid = task.clear_child_tid, 0
    if address and task.mm.users + len(task.process.threads) > 2:
        try:
            copy_to_user(task.mm, address, bytes(4))
        except SysError:
            return
        wake(task.kernel.futexes, task.mm, address, 1)


def release_futexes(task: Task) -> None:
    """A thread ends, or its program does: others get the locks that it holds
    (`futex_exit_release`)."""
    _release_robust_list(task)
    if task.kernel.futexes.inheriting:
        from samepage.kernel.process.pi_futex import release_all

        release_all(task)


def _release_robust_list(task: Task) -> None:
    """Mark the futexes that a dying thread still holds (`exit_robust_list`)."""
    head, task.robust_list = task.robust_list, 0
    if not head:
        return
    try:
        entry, offset, pending = get_struct(task.mm, head, "<QqQ")
        for _ in range(_ROBUST_LIST_LIMIT):
            if entry & ~1 == head:
                break
            following = get_u64(task.mm, entry & ~1)
            if entry & ~1 != pending & ~1:
                _owner_died(task, (entry & ~1) + offset)
            entry = following
        if pending & ~1:
            _owner_died(task, (pending & ~1) + offset)
    except SysError:
        return


def _owner_died(task: Task, address: int) -> None:
    word = get_u32(task.mm, address)
    if word & FUTEX_TID_MASK != task.tid:
        return
    word = word & FUTEX_WAITERS | FUTEX_OWNER_DIED
    put_u32(task.mm, address, word)
    if word & FUTEX_WAITERS:
        wake(task.kernel.futexes, task.mm, address, 1)
