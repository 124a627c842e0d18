"""The frame that a signal handler runs on (arch/x86/kernel/signal_64.c).

    old rsp - 128 (red zone)      or the top of the alternate stack
      FXSAVE area, 64-byte aligned; of a CPU with XSAVE its whole area, and 4 bytes that
      mark its end (`fpu__alloc_mathframe`)
      struct rt_sigframe: restorer address, ucontext, siginfo     <- rsp in the handler

The kernel writes it with ordinary user accesses, so a frame below the stack's VMA grows
the stack, as a push would.
"""

from __future__ import annotations

import struct

from samepage.abi.signal import (
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESTORER,
    SIGCHLD,
    SIGSYS,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    SYS_SECCOMP,
)
from samepage.cpu.registers import Reg
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


_GENERAL = (
    Reg.R8,
    Reg.R9,
    Reg.R10,
    Reg.R11,
    Reg.R12,
    Reg.R13,
    Reg.R14,
    Reg.R15,
    Reg.RDI,
    Reg.RSI,
    Reg.RBP,
    Reg.RBX,
    Reg.RDX,
    Reg.RAX,
    Reg.RCX,
    Reg.RSP,
    Reg.RIP,
    Reg.EFLAGS,
)
"""The registers of `struct sigcontext_64` in its order."""
_UC_FLAGS = 0x6  # UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
_USER_SEGMENTS = struct.pack("<HHHH", 0x33, 0, 0, 0x2B)
_REDZONE = 128
_MAGIC2_SIZE = 4
_FXSAVE_SIZE = 512
"""A CPU that saves no more than this has no mark at the end of its area."""
_SIGINFO_SIZE = 128
AUDIT_ARCH_X86_64 = 0xC000_003E
_HEAD = struct.Struct("<QQQQIiQ")
"""pretcode, uc_flags, uc_link, ss_sp, ss_flags, padding, ss_size."""
_MCONTEXT_SIZE = 256
_FRAME_SIZE = _HEAD.size + _MCONTEXT_SIZE + 8 + _SIGINFO_SIZE
_USER_FLAGS = 0x0005_0DD5 & ~0x0005_0000
"""The flags that sigreturn may set: arithmetic ones, trap and direction (FIX_EFLAGS)."""


class FrameFault(Exception):
    """The frame could not be written or read."""


def setup_rt_frame(task: Task, cpu: Engine, info: SigInfo, action: SigAction, mask: int) -> None:
    """Make `task` run the handler; `mask` is what sigreturn puts back.

    Raises `FrameFault` if the stack cannot take the frame.
    """
    if not action.flags & SA_RESTORER:
        raise FrameFault
    registers = [cpu.read(r) for r in _GENERAL]
    sp = registers[15] - _REDZONE
    stack, trap = task.altstack, task.trap
    if action.flags & SA_ONSTACK and not stack.flags & SS_DISABLE and not stack.holds(sp):
        sp = stack.base + stack.size
    area = _fpu_area(cpu, max(task.kernel.config.xstate_size, cpu.fpu_size))
    fpstate = sp - len(area) & ~63
    frame = (fpstate - _FRAME_SIZE & ~15) - 8
    flags = SS_ONSTACK if stack.holds(registers[15]) else stack.flags
    head = _HEAD.pack(action.restorer, _UC_FLAGS, 0, stack.base, flags, 0, stack.size)
    context = struct.pack(f"<{len(_GENERAL)}Q", *registers) + _USER_SEGMENTS
    context += struct.pack("<QQQQQ", trap.error_code, trap.number, mask, trap.cr2, fpstate)
    context = context.ljust(_MCONTEXT_SIZE, b"\0")
    data = head + context + struct.pack("<Q", mask) + pack_siginfo(info)
    try:
        copy_to_user(task.mm, fpstate, area)
        copy_to_user(task.mm, frame, data)
    except SysError:
        raise FrameFault from None
    if stack.flags & SS_AUTODISARM:
        # While the handler runs there is no such stack; sigreturn puts it back.
        task.altstack = SigAltStack()
    cpu.write(Reg.RSP, frame)
    cpu.write(Reg.RIP, action.handler)
    cpu.write(Reg.RDI, info.signal)
    cpu.write(Reg.RSI, frame + _HEAD.size + _MCONTEXT_SIZE + 8)
    cpu.write(Reg.RDX, frame + 8)
    cpu.write(Reg.RAX, 0)
    blocked = task.blocked | action.mask
    if not action.flags & SA_NODEFER:
        blocked |= bit(info.signal)
    task.blocked = blocked & ~UNBLOCKABLE


def _fpu_area(cpu: Engine, size: int) -> bytes:
    """What is saved of the FPU. What our CPU does not have of a larger area is zero."""
    area = cpu.read_fpu()
    return area if size <= _FXSAVE_SIZE else area.ljust(size + _MAGIC2_SIZE, b"\0")


def rt_sigreturn(task: Task, cpu: Engine) -> None:
    """Put back what the frame below the stack pointer holds. Raises `FrameFault`."""
    frame = cpu.read(Reg.RSP) - 8
    try:
        data = copy_from_user(task.mm, frame, _FRAME_SIZE - _SIGINFO_SIZE)
        at = _HEAD.size
        registers = struct.unpack_from(f"<{len(_GENERAL)}Q", data, at)
        (fpstate,) = struct.unpack_from("<Q", data, at + 184)
        (mask,) = struct.unpack_from("<Q", data, at + _MCONTEXT_SIZE)
        _, _, _, base, stack_flags, _, size = _HEAD.unpack_from(data)
        area = copy_from_user(task.mm, fpstate, cpu.fpu_size) if fpstate else None
    except SysError:
        raise FrameFault from None
    task.blocked = mask & ~UNBLOCKABLE
    if not stack_flags & SS_DISABLE:
        task.altstack = SigAltStack(base, stack_flags & SS_AUTODISARM, size)
    old_flags = cpu.read(Reg.EFLAGS)
    for register, value in zip(_GENERAL, registers, strict=True):
        if register == Reg.EFLAGS:
            value = old_flags & ~_USER_FLAGS | value & _USER_FLAGS
        cpu.write(register, value)
    if area is not None:
        cpu.write_fpu(area)


def pack_siginfo(info: SigInfo) -> bytes:
    """`siginfo_t` in memory (128 bytes)."""
    seccomp = info.signal == SIGSYS and info.code == SYS_SECCOMP
    head = struct.pack("<iiii", info.signal, info.status if seccomp else 0, info.code, 0)
    if seccomp:
        body = struct.pack("<QiI", info.address, info.value, AUDIT_ARCH_X86_64)
    elif info.signal in SYNCHRONOUS and info.code > 0:
        body = struct.pack("<Q", info.address)
    elif info.signal == SIGCHLD and info.code > 0:
        body = struct.pack("<iiiiqq", info.pid, info.uid, info.status, 0, 0, 0)
    else:
        body = struct.pack("<iiQ", info.pid, info.uid, info.value)
    return (head + body).ljust(_SIGINFO_SIZE, b"\0")
