"""Keeping an address space after its process has gone: the ghost.

A group is compared as it is at one instant, with all its processes stopped together. A
parent that waits for its child makes that impossible: the child has to go before the
parent continues, and with the child its page tables go.

But an address space outlives a process if another task uses it (`mm_users`). So before a
process ends, it is made to call `clone(CLONE_VM)`: the new process, its ghost, shares the
address space itself, not a copy. There is no second page table, no page is write-protected
or copied, no map count changes. The process then runs to its end, its parent hears of
it, and `/proc/GHOST/pagemap` shows the memory as it was.

The ghost executes one system call, `close_range` of everything, since open pipe ends that
it inherited would keep their readers waiting; then it stays stopped until it is killed.
Both calls are made with the `syscall` instruction that the process itself has just
executed, so no page is touched that was not in use already.
"""

import os
import signal

from samepage.abi.sched import Clone
from samepage.arch import Sys
from samepage.trace import ptrace
from samepage.trace.ptrace import SYSCALL_INSTRUCTION, Registers, StopKind, SyscallOp

_SYSCALL_LENGTH = len(SYSCALL_INSTRUCTION)


class Killed(Exception):
    """The process was killed while its ghost was being made."""


def make_ghost(tid: int) -> int:
    """Give the address space of a stopped thread to a ghost; its pid.

    `tid` is stopped at the entry of a system call, or at the delivery of a signal with a
    `syscall` instruction just behind it (`is_behind_syscall`). Afterwards it is at
    the exit of the injected call, with its registers as they were before; the caller
    decides how it continues. Raises `Killed`.
    """
    saved = ptrace.get_registers(tid)
    if ptrace.syscall_info(tid)[0] is SyscallOp.ENTRY:
        # The system call about to be made becomes the clone.
        _arrange(tid, saved, Sys.CLONE, (Clone.VM,), entered=True)
    else:
        _arrange(tid, saved, Sys.CLONE, (Clone.VM,))
        _run_until(tid, StopKind.SYSCALL)
    _run_until(tid, StopKind.CLONE)
    ghost = ptrace.event_message(tid)
    _run_until(tid, StopKind.SYSCALL)
    ptrace.set_registers(tid, saved)
    _close_files(ghost)
    return ghost


def call_again(tid: int, number: int) -> None:
    """Have a thread that is just behind a `syscall` instruction make that call (again)."""
    registers = ptrace.get_registers(tid)
    arguments = (registers.rdi, registers.rsi, registers.rdx)
    _arrange(tid, registers, number, arguments)


def is_behind_syscall(tid: int) -> bool:
    """Whether the thread's last instruction was `syscall`, as in a write that got SIGPIPE."""
    registers = ptrace.get_registers(tid)
    if registers.orig_rax == ptrace.NO_SYSCALL:
        return False
    code = ptrace.read_memory(tid, registers.rip - _SYSCALL_LENGTH, _SYSCALL_LENGTH)
    return code == SYSCALL_INSTRUCTION


def _close_files(ghost: int) -> None:
    while ptrace.wait(ghost).kind is not StopKind.NEW:
        ptrace.resume(ghost)
    _arrange(ghost, ptrace.get_registers(ghost), Sys.CLOSE_RANGE, (0, 2**32 - 1))
    _run_until(ghost, StopKind.SYSCALL)
    _run_until(ghost, StopKind.SYSCALL)


def _arrange(
    tid: int,
    registers: Registers,
    number: int,
    arguments: tuple[int, ...],
    *,
    entered: bool = False,
) -> None:
    """Set the registers for a system call: the one just entered, or one to be entered."""
    changed = Registers.from_buffer_copy(registers)
    names = ("rdi", "rsi", "rdx", "r10", "r8")
    for name, value in zip(names, arguments + (0,) * len(names), strict=False):
        setattr(changed, name, value)
    if entered:
        changed.orig_rax = number
    else:
        changed.rax = number
        changed.orig_rax = ptrace.NO_SYSCALL
        changed.rip -= _SYSCALL_LENGTH
    ptrace.set_registers(tid, changed)


def _run_until(tid: int, kind: StopKind) -> None:
    """Let the thread run to its next stop of this kind; signals wait until it is done."""
    held_back: list[int] = []
    while ptrace.resume(tid, syscalls=True):
        stop = ptrace.wait(tid)
        if stop.kind is kind:
            for number in held_back:
                os.kill(tid, number)
            return
        if stop.kind in (StopKind.GONE, StopKind.EXIT):
            break
        if stop.kind is StopKind.SIGNAL and stop.signal != signal.SIGKILL:
            held_back.append(stop.signal)
    raise Killed
