"""The registers as Unicorn numbers them (its `x86.h`)."""

from samepage.arch.x86_64.registers import Reg


class UcReg:
    """Those that only this engine names."""

    FPSW = 31
    FP0 = 82
    """FP0 to FP7 follow each other, of 80 bits."""
    XMM0 = 122
    """XMM0 to XMM15 follow each other, of 128 bits."""
    FPCW = 246
    FPTAG = 247
    MSR = 248
    MXCSR = 249


_GENERAL = {
    Reg.RAX: 35,
    Reg.RCX: 38,
    Reg.RDX: 40,
    Reg.RBX: 37,
    Reg.RSP: 44,
    Reg.RBP: 36,
    Reg.RSI: 43,
    Reg.RDI: 39,
    Reg.R8: 106,
    Reg.R9: 107,
    Reg.R10: 108,
    Reg.R11: 109,
    Reg.R12: 110,
    Reg.R13: 111,
    Reg.R14: 112,
    Reg.R15: 113,
    Reg.RIP: 41,
    Reg.EFLAGS: 25,
    Reg.FS_BASE: 250,
    Reg.GS_BASE: 251,
}
NUMBERS = tuple(_GENERAL[register] for register in range(len(_GENERAL)))
"""By our number of a register: Unicorn's."""
