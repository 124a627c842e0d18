"""Restartable sequences: the area in which the kernel publishes a thread's CPU (rseq(2)).

Each time a thread that has one comes back to user mode after it had lost the CPU, the
kernel writes to the area (`__rseq_handle_notify_resume` in kernel/rseq.c). The write is an
access like any other: in a page that fork has just write-protected it is a page fault, and
the page is copied, although the program itself has not touched it. Seen on Linux 6.18: both
parent and child take it after a fork, in `put_user` of `rseq_cs`.
"""

from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.process.task import Task

_RSEQ_CS = 8
"""Where the pointer to the critical section is: cleared, as no thread is inside of one."""


def handle_notify_resume(task: Task) -> None:
    """Write what a switched-in thread finds in its area; CPU and node are always 0."""
    if not task.rseq_area:
        return
    try:
        copy_to_user(task.mm, task.rseq_area + _RSEQ_CS, bytes(8))
        copy_to_user(task.mm, task.rseq_area, bytes(8))
    except SysError:
        return
