"""The registers of a thread in a core dump (`struct user_regs_struct` of
arch/x86/include/uapi/asm/ptrace.h, ELF_CORE_COPY_REGS)."""

import struct

from samepage.arch.arch import CoreDump
from samepage.arch.x86_64.registers import Reg

_GENERAL = (
    *(Reg.R15, Reg.R14, Reg.R13, Reg.R12, Reg.RBP, Reg.RBX, Reg.R11, Reg.R10),
    *(Reg.R9, Reg.R8, Reg.RAX, Reg.RCX, Reg.RDX, Reg.RSI, Reg.RDI),
)
_WORD = (1 << 64) - 1
_REGISTERS = struct.Struct("<27Q")


def _pack(values: tuple[int, ...], syscall_number: int) -> bytes:
    general, (pc, flags, sp, fs_base, gs_base) = values[: len(_GENERAL)], values[len(_GENERAL) :]
    call = syscall_number & _WORD
    return _REGISTERS.pack(
        *general, call, pc, 0x33, flags, sp, 0x2B, fs_base, gs_base, *(0, 0, 0, 0)
    )


CORE_DUMP = CoreDump(
    registers=(*_GENERAL, Reg.RIP, Reg.EFLAGS, Reg.RSP, Reg.FS_BASE, Reg.GS_BASE),
    pack=_pack,
    fpu_size=512,
)
