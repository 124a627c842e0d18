"""System calls of a thread about itself: its start, its registers, its end."""

from __future__ import annotations

import errno

from samepage.abi.prctl import ARCH_GET_FS, ARCH_GET_GS, ARCH_SET_FS, ARCH_SET_GS
from samepage.arch import ADDRESS_LIMIT, ARCH, Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_to_user, put_u64
from samepage.kernel.process.exit import do_exit, do_group_exit
from samepage.kernel.process.task import Task
from samepage.kernel.syscalls.table import I32, U32, syscall

_FS_BASE, _GS_BASE = ARCH.registers.names["FS_BASE"], ARCH.registers.names["GS_BASE"]


@syscall(Sys.EXIT)
def sys_exit(task: Task, code: I32) -> int:
    """`exit(2)`: ends this thread."""
    do_exit(task, code)
    return 0


@syscall(Sys.EXIT_GROUP)
def sys_exit_group(task: Task, code: I32) -> int:
    """`exit_group(2)`: ends the process."""
    do_group_exit(task, (code & 0xFF) << 8)
    return 0


@syscall(Sys.SET_TID_ADDRESS)
def sys_set_tid_address(task: Task, address: int) -> int:
    """`set_tid_address(2)`."""
    task.clear_child_tid = address
    return task.tid


@syscall(Sys.SET_ROBUST_LIST)
def sys_set_robust_list(task: Task, head: int, size: int) -> int:
    """`set_robust_list(2)`."""
    if size != 24:
        raise SysError(errno.EINVAL)
    task.robust_list = head
    return 0


@syscall(Sys.GET_ROBUST_LIST)
def sys_get_robust_list(task: Task, pid: I32, head: int, size: int) -> int:
    """`get_robust_list(2)`."""
    target = task if not pid else task.kernel.processes.find_task(pid)
    if target is None:
        raise SysError(errno.ESRCH)
    put_u64(task.mm, head, target.robust_list)
    put_u64(task.mm, size, 24)
    return 0


_RSEQ_MIN_SIZE = 32


@syscall(Sys.RSEQ)
def sys_rseq(task: Task, address: int, size: U32, flags: I32, signature: U32) -> int:
    """`rseq(2)`: the kernel publishes the thread's CPU, which is always 0."""
    if flags & 1:
        task.rseq_area = 0
        return 0
    if flags:
        raise SysError(errno.EINVAL)
    if task.rseq_area:
        raise SysError(errno.EBUSY if task.rseq_area == address else errno.EINVAL)
    if size < _RSEQ_MIN_SIZE or address & 31:
        raise SysError(errno.EINVAL)
    task.rseq_area = address
    # On the way back to user mode: cpu_id_start, cpu_id, and node_id, mm_cid.
    copy_to_user(task.mm, address, bytes(8))
    copy_to_user(task.mm, address + 20, bytes(8))
    return 0


@syscall(Sys.ARCH_PRCTL)
def sys_arch_prctl(task: Task, code: I32, address: int) -> int:
    """`arch_prctl(2)`: the FS and GS bases."""
    cpu = task.kernel.cpu
    if code in (ARCH_SET_FS, ARCH_SET_GS):
        if address >= ADDRESS_LIMIT:
            raise SysError(errno.EPERM)
        register = _FS_BASE if code == ARCH_SET_FS else _GS_BASE
        cpu.write(register, address)
        return 0
    if code in (ARCH_GET_FS, ARCH_GET_GS):
        register = _FS_BASE if code == ARCH_GET_FS else _GS_BASE
        put_u64(task.mm, address, cpu.read(register))
        return 0
    raise SysError(errno.EINVAL)


@syscall(Sys.MEMBARRIER)
def sys_membarrier(task: Task, command: I32, flags: U32) -> int:
    """`membarrier(2)`: with one CPU every barrier is in place already."""
    supported = 0x1 | 0x2 | 0x4 | 0x8 | 0x10
    if flags:
        raise SysError(errno.EINVAL)
    if command == 0:
        return supported
    if command & ~supported or command & (command - 1):
        raise SysError(errno.EINVAL)
    return 0
