"""The registers of an x86-64 CPU that the kernel knows by name.

The numbers are ours; each engine has a table to its own. The general registers come first, in
the order in which instructions number them (Intel SDM volume 2, table 3-1).
"""


class Reg:
    """Plain ints: they are used at every system call."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    RIP = 16
    EFLAGS = 17
    FS_BASE = 18
    GS_BASE = 19
