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
from samepage.cpu.cpu import CpuStop, Vector
from samepage.cpu.paging import ADDRESS_LIMIT, Access, Pte
from samepage.cpu.ram import PAGE_MASK
from samepage.cpu.registers import Reg
from samepage.kernel.errors import SysError
from samepage.kernel.mm.fault import FaultResult
from samepage.kernel.mm.uaccess import copy_from_user
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
_RDPID, _RDPID_MODRM = b"\xf3\x0f\xc7", 0xF8
_BY_NUMBER = (Reg.RAX, Reg.RCX, Reg.RDX, Reg.RBX, Reg.RSP, Reg.RBP, Reg.RSI, Reg.RDI)
"""The registers as instructions number them."""
_FIRST_SOFTWARE_VECTOR = 32
_KERNEL_SPACE = 0xFFFF_8000_0000_0000
_PF_PROTECTION, _PF_USER = 1, 4
_PF_ACCESS = {Access.READ: 0, Access.WRITE: 2, Access.EXECUTE: 16}
"""Bits of a page fault's error code (`X86_PF_*`)."""


def bad_access(task: Task, stop: CpuStop, fault: FaultResult) -> None:
    """The signal for a page fault that could not be resolved (`bad_area`, `do_sigbus`)."""
    if ADDRESS_LIMIT <= stop.address < _KERNEL_SPACE:
        # Not a canonical address: no page fault, but a general protection fault.
        task.trap = Trap(Vector.GENERAL_PROTECTION, cr2=task.trap.cr2)
        force_signal(task, SigInfo(SIGSEGV, SI_KERNEL))
        return
    signal, code = _FAULT_SIGNALS.get(fault, (SIGSEGV, SEGV_MAPERR))
    address = task.kernel.cpu.fault_address(stop)
    # Nothing is told of what the kernel has mapped (`sanitize_error_code`).
    present = address >= TASK_SIZE or task.mm.table.get(address & PAGE_MASK) & Pte.PRESENT
    error = _PF_USER | (_PF_PROTECTION if present else 0) | _PF_ACCESS[stop.access]
    task.trap = Trap(Vector.PAGE_FAULT, error, address)
    force_signal(task, SigInfo(signal, code, address=address))


def exception(task: Task, stop: CpuStop) -> None:
    """The signal for an exception of the CPU."""
    cpu, vector = task.kernel.cpu, stop.vector
    if vector == Vector.INVALID_OPCODE and _emulate_rdpid(task):
        return
    if vector >= _FIRST_SOFTWARE_VECTOR:
        # `int n`: user mode may not use these gates, and stands on the instruction.
        cpu.write(Reg.RIP, cpu.pc - 2)
        vector = Vector.GENERAL_PROTECTION
    signal, code = _EXCEPTION_SIGNALS.get(vector, (SIGSEGV, SI_KERNEL))
    task.trap = Trap(vector, cr2=task.trap.cr2)
    address = 0 if code == SI_KERNEL else cpu.pc
    force_signal(task, SigInfo(signal, code, address=address))


def _emulate_rdpid(task: Task) -> bool:
    """RDPID, which the CPU lacks, but which the host's vDSO has in its `getcpu`: the
    number of the CPU, 0. True if the instruction was one."""
    cpu = task.kernel.cpu
    try:
        code = copy_from_user(task.mm, cpu.pc, len(_RDPID) + 1)
    except SysError:
        return False
    if not code.startswith(_RDPID) or code[-1] & 0xF8 != _RDPID_MODRM:
        return False
    cpu.write(_BY_NUMBER[code[-1] & 7], 0)
    cpu.write(Reg.RIP, cpu.pc + len(code))
    return True
