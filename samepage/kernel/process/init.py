"""Processes that the machine itself starts, ends and reaps: what init does on Linux.

Init is not a process of the machine: the programs that it starts have no parent, and nor has
a process whose ancestors are gone.
"""

from __future__ import annotations

from samepage.abi.resource import Rlimit
from samepage.abi.signal import SIGKILL
from samepage.kernel.fs.context import FsContext
from samepage.kernel.fs.fdtable import FdTable
from samepage.kernel.process.exec import do_execve
from samepage.kernel.process.exit import do_group_exit, release_memory
from samepage.kernel.process.task import Process, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.process.services import Services


def new_process(
    kernel: Services[Process, Task], context: FsContext, limits: dict[int, tuple[int, int]]
) -> Task:
    """A process with one thread, no file open and nothing in its memory; `limits` are
    (soft, hard) by `Rlimit`. Raises `OutOfFrames`."""
    mm = kernel.new_address_space()
    pid = kernel.processes.next_pid()
    process = Process(kernel, pid, None, mm, FdTable(), context, pid, pid)
    process.limits.update(limits)
    process.files.limit = process.limit(Rlimit.NOFILE)
    process.start_time_ns = kernel.clock.monotonic()
    task = Task(pid, process, kernel.cpu.save())
    process.threads[pid] = task
    kernel.processes.add(process)
    return task


def start(
    task: Task, path: bytes, argv: list[bytes], envp: list[bytes], *, run_interpreter: bool
) -> None:
    """Load the program of a new process (`kernel_execve`); it runs when its turn comes.
    Parameters, and what is raised, as for `do_execve`."""
    scheduler = task.kernel.scheduler
    scheduler.acting = task.process
    do_execve(task, path, argv, envp, run_interpreter=run_interpreter)
    scheduler.add(task)


def abandon(task: Task) -> None:
    """Undo `new_process` and `start`: the process has never been."""
    process, kernel = task.process, task.kernel
    if task in kernel.scheduler.tasks:
        kernel.scheduler.remove(task)
    process.threads.clear()
    process.files.close_all()
    release_memory(process)
    kernel.processes.remove(process)


def kill_descendants(ancestor: Process) -> None:
    """End a process, its descendants and all processes of its session with SIGKILL."""
    kernel, ended = ancestor.kernel, {ancestor.pid}
    for process in list(kernel.processes.values()):
        parent = process.parent
        if (
            process.pid in ended
            or process.sid == ancestor.pid
            or (parent is not None and parent.pid in ended)
        ):
            ended.add(process.pid)
            if process.threads:
                kernel.scheduler.switch_to(process.leader)
                do_group_exit(process.leader, SIGKILL)


def reap(process: Process) -> None:
    """Give back the memory of an exited process that was held, and forget it."""
    release_memory(process)
    process.kernel.processes.remove(process)
