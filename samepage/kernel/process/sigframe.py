"""The frame that a signal handler runs on (`setup_rt_frame`, `rt_sigreturn`). Where it lies and
how it is laid out is the architecture's (`arch.SignalFrame`).

The kernel writes it with ordinary user accesses, so a frame below the stack's VMA grows
the stack, as a push would.
"""

from __future__ import annotations

import struct

from samepage.abi.signal import (
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESTORER,
    SI_MAX_SIZE,
    SIGCHLD,
    SIGSYS,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    SYS_SECCOMP,
)
from samepage.arch import ARCH, REG_SP
from samepage.arch.arch import SignalContext
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from samepage.kernel.process.sigset import (
    SYNCHRONOUS,
    UNBLOCKABLE,
    SigAction,
    SigAltStack,
    SigInfo,
    bit,
)
from samepage.kernel.process.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.cpu.engine import Engine


_FRAME = ARCH.signal_frame


class FrameFault(Exception):
    """The frame could not be written or read."""


def setup_rt_frame(task: Task, cpu: Engine, info: SigInfo, action: SigAction, mask: int) -> None:
    """Make `task` run the handler; `mask` is what sigreturn puts back.

    Raises `FrameFault` if the stack cannot take the frame.
    """
    if not action.flags & SA_RESTORER:
        raise FrameFault
    stack, trap = task.altstack, task.trap
    at = cpu.read(REG_SP)
    sp = at - _FRAME.red_zone
    if action.flags & SA_ONSTACK and not stack.flags & SS_DISABLE and not stack.holds(sp):
        sp = stack.base + stack.size
    area = _fpu_area(cpu, max(task.kernel.config.xstate_size, cpu.fpu_size))
    frame, fpstate = _FRAME.place(sp, len(area))
    context = SignalContext(
        tuple(cpu.read(register) for register in _FRAME.registers),
        mask,
        (stack.base, SS_ONSTACK if stack.holds(at) else stack.flags, stack.size),
        fpstate,
        (trap.error_code, trap.number, trap.cr2),
    )
    try:
        copy_to_user(task.mm, fpstate, area)
        copy_to_user(task.mm, frame, _FRAME.pack(action.restorer, context) + pack_siginfo(info))
    except SysError:
        raise FrameFault from None
    if stack.flags & SS_AUTODISARM:
        # While the handler runs there is no such stack; sigreturn puts it back.
        task.altstack = SigAltStack()
    for register, value in _FRAME.enter(frame, action.handler, info.signal).items():
        cpu.write(register, value)
    blocked = task.blocked | action.mask
    if not action.flags & SA_NODEFER:
        blocked |= bit(info.signal)
    task.blocked = blocked & ~UNBLOCKABLE


def _fpu_area(cpu: Engine, size: int) -> bytes:
    """What is saved of the FPU. What our CPU does not have of a larger area is zero."""
    area = cpu.read_fpu()
    if size <= _FRAME.legacy_fpu_size:
        return area
    return area.ljust(size, b"\0") + _FRAME.fpu_mark(area)


def rt_sigreturn(task: Task, cpu: Engine) -> None:
    """Put back what the frame below the stack pointer holds. Raises `FrameFault`."""
    frame = _FRAME.at_return(cpu.read(REG_SP))
    try:
        context = _FRAME.unpack(copy_from_user(task.mm, frame, _FRAME.size))
        fpstate = context.fpstate
        area = copy_from_user(task.mm, fpstate, cpu.fpu_size) if fpstate else None
    except SysError:
        raise FrameFault from None
    task.blocked = context.blocked & ~UNBLOCKABLE
    base, flags, size = context.stack
    if not flags & SS_DISABLE:
        task.altstack = SigAltStack(base, flags & SS_AUTODISARM, size)
    for register, value in zip(_FRAME.registers, context.registers, strict=True):
        cpu.write(register, _FRAME.restored(register, cpu.read(register), value))
    if area is not None:
        cpu.write_fpu(area)


def pack_siginfo(info: SigInfo) -> bytes:
    """`siginfo_t` in memory (128 bytes)."""
    seccomp = info.signal == SIGSYS and info.code == SYS_SECCOMP
    head = struct.pack("<iiii", info.signal, info.status if seccomp else 0, info.code, 0)
    if seccomp:
        body = struct.pack("<QiI", info.address, info.value, ARCH.syscalls.audit_arch)
    elif info.signal in SYNCHRONOUS and info.code > 0:
        body = struct.pack("<Q", info.address)
    elif info.signal == SIGCHLD and info.code > 0:
        body = struct.pack("<iiiiqq", info.pid, info.uid, info.status, 0, 0, 0)
    else:
        body = struct.pack("<iiQ", info.pid, info.uid, info.value)
    return (head + body).ljust(SI_MAX_SIZE, b"\0")
