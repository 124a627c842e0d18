"""The registers of an x86-64 CPU, by Unicorn's numbers for them (its `x86.h`)."""


class Reg:
    """Plain ints: they are used at every system call."""

    EFLAGS = 25
    FPSW = 31
    RAX = 35
    RBP = 36
    RBX = 37
    RCX = 38
    RDI = 39
    RDX = 40
    RIP = 41
    RSI = 43
    RSP = 44
    FP0 = 82
    """FP0 to FP7 follow each other."""
    R8 = 106
    R9 = 107
    R10 = 108
    R11 = 109
    R12 = 110
    R13 = 111
    R14 = 112
    R15 = 113
    XMM0 = 122
    """XMM0 to XMM15 follow each other."""
    FPCW = 246
    FPTAG = 247
    MSR = 248
    MXCSR = 249
    FS_BASE = 250
    GS_BASE = 251
