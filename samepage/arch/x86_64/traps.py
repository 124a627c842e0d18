"""Exceptions (Intel SDM volume 3A, table 6-1; arch/x86/kernel/traps.c, arch/x86/mm/fault.c)."""

from samepage.abi.signal import (
    FPE_INTDIV,
    ILL_ILLOPN,
    SI_KERNEL,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    SIGTRAP,
    TRAP_BRKPT,
)
from samepage.arch.arch import Access, Traps


class Vector:
    """Exception vectors."""

    DIVIDE_ERROR = 0
    DEBUG = 1
    BREAKPOINT = 3
    INVALID_OPCODE = 6
    GENERAL_PROTECTION = 13
    PAGE_FAULT = 14


_PF_PROTECTION, _PF_WRITE, _PF_USER, _PF_INSTRUCTION = 1, 2, 4, 16
_PF_ACCESS = {Access.READ: 0, Access.WRITE: _PF_WRITE, Access.EXECUTE: _PF_INSTRUCTION}


def fault_error_code(access: Access, valid: bool) -> int:
    """`X86_PF_*` of an access of user mode."""
    return _PF_USER | (_PF_PROTECTION if valid else 0) | _PF_ACCESS[access]


TRAPS = Traps(
    signals={
        Vector.DIVIDE_ERROR: (SIGFPE, FPE_INTDIV),
        Vector.DEBUG: (SIGTRAP, TRAP_BRKPT),
        Vector.BREAKPOINT: (SIGTRAP, SI_KERNEL),
        Vector.INVALID_OPCODE: (SIGILL, ILL_ILLOPN),
    },
    other=(SIGSEGV, SI_KERNEL),
    page_fault=Vector.PAGE_FAULT,
    fault_error_code=fault_error_code,
)
