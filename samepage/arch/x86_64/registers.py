"""The registers of an x86-64 CPU that the kernel knows by name.

The numbers are ours; each engine has a table to its own. The general registers come first, in
the order in which instructions number them (Intel SDM volume 2, table 3-1). Which of them hold
what: System V psABI for AMD64, figure 3.4 and appendix A.2.
"""

from samepage.arch.arch import Registers


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


REGISTERS = Registers(
    names={name: number for name, number in vars(Reg).items() if name.isupper()},
    pc=Reg.RIP,
    sp=Reg.RSP,
    thread_pointer=Reg.FS_BASE,
    result=Reg.RAX,
    arguments=(Reg.RDI, Reg.RSI, Reg.RDX, Reg.RCX, Reg.R8, Reg.R9),
    syscall_number=Reg.RAX,
    syscall_arguments=(Reg.RDI, Reg.RSI, Reg.RDX, Reg.R10, Reg.R8, Reg.R9),
    syscall_size=2,
)
