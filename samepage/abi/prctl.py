"""Options of prctl, arch_prctl and personality (include/uapi/linux/prctl.h, personality.h;
arch/x86/include/uapi/asm/prctl.h)."""


class Pr:
    """`PR_*`."""

    SET_PDEATHSIG = 1
    GET_PDEATHSIG = 2
    GET_DUMPABLE = 3
    SET_DUMPABLE = 4
    GET_KEEPCAPS = 7
    SET_NAME = 15
    GET_NAME = 16
    GET_SECCOMP = 21
    SET_SECCOMP = 22
    CAPBSET_READ = 23
    SET_TIMERSLACK = 29
    GET_TIMERSLACK = 30
    SET_CHILD_SUBREAPER = 36
    GET_CHILD_SUBREAPER = 37
    SET_NO_NEW_PRIVS = 38
    GET_NO_NEW_PRIVS = 39
    SET_VMA = 0x5356_4D41


ARCH_SET_GS = 0x1001
ARCH_SET_FS = 0x1002
ARCH_GET_FS = 0x1003
ARCH_GET_GS = 0x1004

ADDR_NO_RANDOMIZE = 0x0040000
"""A flag of personality."""
