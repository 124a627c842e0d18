"""`struct rt_sigframe` (arch/x86/kernel/signal_64.c, arch/x86/include/uapi/asm/sigcontext.h).

old rsp - 128 (red zone)      or the top of the alternate stack
  FXSAVE area, 64-byte aligned; of a CPU with XSAVE its whole area, and 4 bytes that
  mark its end (`fpu__alloc_mathframe`)
  struct rt_sigframe: restorer address, ucontext, siginfo     <- rsp in the handler
"""

import struct

from samepage.abi.signal import SI_MAX_SIZE
from samepage.arch.arch import SignalContext, SignalFrame
from samepage.arch.x86_64.registers import Reg

_GENERAL = (
    *range(Reg.R8, Reg.R15 + 1),
    *(Reg.RDI, Reg.RSI, Reg.RBP, Reg.RBX, Reg.RDX, Reg.RAX, Reg.RCX, Reg.RSP, Reg.RIP, Reg.EFLAGS),
)
"""The registers of `struct sigcontext_64` in its order."""
_HEAD = struct.Struct("<QQQQIiQ")
"""pretcode, uc_flags, uc_link, ss_sp, ss_flags, padding, ss_size."""
_UC_FLAGS = 0x6  # UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
_REGISTERS = struct.Struct(f"<{len(_GENERAL)}Q")
_SEGMENTS = struct.pack("<HHHH", 0x33, 0, 0, 0x2B)
_REST = struct.Struct("<QQQQQ")
"""err, trapno, oldmask, cr2, fpstate."""
_MCONTEXT_SIZE = 256
_MASK = struct.Struct("<Q")
_SIZE = _HEAD.size + _MCONTEXT_SIZE + _MASK.size
_SW_BYTES_AT, _MARK_SIZE = 464, 4
_MAGIC1, _MAGIC2 = 0x4650_5853, 0x4650_5845
_USER_FLAGS = 0x0005_0DD5 & ~0x0005_0000
"""The flags that sigreturn may set: arithmetic ones, trap and direction (FIX_EFLAGS)."""


def _fpu_mark(area: bytes) -> bytes:
    """FP_XSTATE_MAGIC2, after an area whose software bytes begin with FP_XSTATE_MAGIC1 (so that
    it is known to be whole); zeros after one of a CPU without XSAVE."""
    magic = int.from_bytes(area[_SW_BYTES_AT : _SW_BYTES_AT + 4], "little")
    return (_MAGIC2 if magic == _MAGIC1 else 0).to_bytes(_MARK_SIZE, "little")


def _place(sp: int, fpu_size: int) -> tuple[int, int]:
    fpstate = sp - fpu_size & ~63
    return (fpstate - _SIZE - SI_MAX_SIZE & ~15) - 8, fpstate


def _pack(restorer: int, context: SignalContext) -> bytes:
    base, flags, size = context.stack
    error_code, number, cr2 = context.trap
    head = _HEAD.pack(restorer, _UC_FLAGS, 0, base, flags, 0, size)
    machine = _REGISTERS.pack(*context.registers) + _SEGMENTS
    machine += _REST.pack(error_code, number, context.blocked, cr2, context.fpstate)
    return head + machine.ljust(_MCONTEXT_SIZE, b"\0") + _MASK.pack(context.blocked)


def _unpack(data: bytes) -> SignalContext:
    _, _, _, base, flags, _, size = _HEAD.unpack_from(data)
    registers = _REGISTERS.unpack_from(data, _HEAD.size)
    at = _HEAD.size + _REGISTERS.size + len(_SEGMENTS)
    error_code, number, _, cr2, fpstate = _REST.unpack_from(data, at)
    (blocked,) = _MASK.unpack_from(data, _HEAD.size + _MCONTEXT_SIZE)
    trap = (error_code, number, cr2)
    return SignalContext(registers, blocked, (base, flags, size), fpstate, trap)


def _enter(frame: int, handler: int, signal: int) -> dict[int, int]:
    return {
        Reg.RSP: frame,
        Reg.RIP: handler,
        Reg.RDI: signal,
        Reg.RSI: frame + _SIZE,
        Reg.RDX: frame + 8,
        Reg.RAX: 0,
    }


def _at_return(sp: int) -> int:
    return sp - 8  # the handler's return has popped the restorer's address


def _restored(register: int, now: int, then: int) -> int:
    if register == Reg.EFLAGS:
        return now & ~_USER_FLAGS | then & _USER_FLAGS
    return then


SIGNAL_FRAME = SignalFrame(
    registers=_GENERAL,
    red_zone=128,
    legacy_fpu_size=512,
    fpu_mark_size=_MARK_SIZE,
    fpu_mark=_fpu_mark,
    size=_SIZE,
    place=_place,
    pack=_pack,
    unpack=_unpack,
    enter=_enter,
    at_return=_at_return,
    restored=_restored,
)
