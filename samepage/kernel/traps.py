"""Faults and exceptions that end in a signal (arch/x86/kernel/traps.c, arch/x86/mm/fault.c)."""

from samepage.abi.signal import (
    BUS_ADRERR,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SI_KERNEL,
    SIGBUS,
    SIGSEGV,
)
from samepage.arch import ARCH, PAGE_MASK, TASK_SIZE, pte_valid
from samepage.cpu.engine import CpuStop
from samepage.kernel.mm.fault import FaultResult
from samepage.kernel.process.signal import force_signal
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Task, Trap

_FAULT_SIGNALS = {
    FaultResult.SEGV_MAPERR: (SIGSEGV, SEGV_MAPERR),
    FaultResult.SEGV_ACCERR: (SIGSEGV, SEGV_ACCERR),
    FaultResult.BUS_ADRERR: (SIGBUS, BUS_ADRERR),
}


def bad_access(task: Task, stop: CpuStop, fault: FaultResult) -> None:
    """The signal for a page fault that could not be resolved (`bad_area`, `do_sigbus`)."""
    signal, code = _FAULT_SIGNALS.get(fault, (SIGSEGV, SEGV_MAPERR))
    address = stop.address
    # Nothing is revealed of what the kernel has mapped (`sanitize_error_code`).
    present = address >= TASK_SIZE or pte_valid(task.mm.table.get(address & PAGE_MASK))
    error = ARCH.traps.fault_error_code(stop.access, present)
    task.trap = Trap(ARCH.traps.page_fault, error, address)
    force_signal(task, SigInfo(signal, code, address=address))


def exception(task: Task, stop: CpuStop) -> None:
    """The signal for an exception of the CPU."""
    signal, code = ARCH.traps.signals.get(stop.vector, ARCH.traps.other)
    task.trap = Trap(stop.vector, cr2=task.trap.cr2)
    address = 0 if code == SI_KERNEL else task.kernel.cpu.pc
    force_signal(task, SigInfo(signal, code, address=address))
