"""Faults and exceptions that end in a signal (arch/x86/kernel/traps.c, arch/x86/mm/fault.c)."""

from samepage.abi.signal import (
    BUS_ADRERR,
    FPE_INTDIV,
    ILL_ILLOPN,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SI_KERNEL,
    SIGBUS,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    SIGTRAP,
    TRAP_BRKPT,
)
from samepage.cpu.engine import CpuStop, Vector
from samepage.cpu.mmu import Access, Pte
from samepage.cpu.ram import PAGE_MASK
from samepage.kernel.mm.fault import FaultResult
from samepage.kernel.mm.unmapped_area import TASK_SIZE
from samepage.kernel.process.signal import force_signal
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Task, Trap

_FAULT_SIGNALS = {
    FaultResult.SEGV_MAPERR: (SIGSEGV, SEGV_MAPERR),
    FaultResult.SEGV_ACCERR: (SIGSEGV, SEGV_ACCERR),
    FaultResult.BUS_ADRERR: (SIGBUS, BUS_ADRERR),
}


_EXCEPTION_SIGNALS: dict[int, tuple[int, int]] = {
    Vector.DIVIDE_ERROR: (SIGFPE, FPE_INTDIV),
    Vector.DEBUG: (SIGTRAP, TRAP_BRKPT),
    Vector.BREAKPOINT: (SIGTRAP, SI_KERNEL),
    Vector.INVALID_OPCODE: (SIGILL, ILL_ILLOPN),
}
_PF_PROTECTION, _PF_USER = 1, 4
_PF_ACCESS = {Access.READ: 0, Access.WRITE: 2, Access.EXECUTE: 16}
"""Bits of a page fault's error code (`X86_PF_*`)."""


def bad_access(task: Task, stop: CpuStop, fault: FaultResult) -> None:
    """The signal for a page fault that could not be resolved (`bad_area`, `do_sigbus`)."""
    signal, code = _FAULT_SIGNALS.get(fault, (SIGSEGV, SEGV_MAPERR))
    address = stop.address
    # Nothing is told of what the kernel has mapped (`sanitize_error_code`).
    present = address >= TASK_SIZE or task.mm.table.get(address & PAGE_MASK) & Pte.PRESENT
    error = _PF_USER | (_PF_PROTECTION if present else 0) | _PF_ACCESS[stop.access]
    task.trap = Trap(Vector.PAGE_FAULT, error, address)
    force_signal(task, SigInfo(signal, code, address=address))


def exception(task: Task, stop: CpuStop) -> None:
    """The signal for an exception of the CPU."""
    signal, code = _EXCEPTION_SIGNALS.get(stop.vector, (SIGSEGV, SI_KERNEL))
    task.trap = Trap(stop.vector, cr2=task.trap.cr2)
    address = 0 if code == SI_KERNEL else task.kernel.cpu.pc
    force_signal(task, SigInfo(signal, code, address=address))
