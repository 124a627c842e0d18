"""The CPU: Unicorn, with our page tables behind its TLB.

Unicorn translates guest code to host code, and keeps a TLB for data and code. In its
"virtual TLB" mode it knows nothing of page tables: for an address that is not in the TLB
it calls a hook, which is the MMU here. The hook walks the tables in RAM, sets the
accessed and dirty bits as the hardware does, and answers with the physical address, or
raises a page fault into the kernel through `on_page_fault`.

The dirty bit needs care, since a filled TLB entry never comes back to the hook: an entry
filled for a read gives no write permission, so that the first write comes to the hook
too.

A system call does not run inside of Unicorn's callback: the callback stops the CPU, and
`run` returns to the kernel with what happened. Measured, this costs the same, and lets
the kernel switch to another process at any system call.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import unicorn
from unicorn import x86_const as x86

from samepage.hardware.paging import ADDRESS_LIMIT, Access, Pte, walk
from samepage.hardware.ram import PAGE_SHIFT, Ram

_ACCESS = {
    unicorn.UC_MEM_READ: Access.READ,
    unicorn.UC_MEM_WRITE: Access.WRITE,
    unicorn.UC_MEM_FETCH: Access.EXECUTE,
}

_SYSCALL_REGISTERS = (
    x86.UC_X86_REG_RAX,
    x86.UC_X86_REG_RDI,
    x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_R10,
    x86.UC_X86_REG_R8,
    x86.UC_X86_REG_R9,
)

_UNTIL = 0
"""Unicorn wants an address at which it stops; mmap_min_addr keeps this one unmapped."""

PageFaultHandler = Callable[[int, Access], bool]
"""Called with address and access; True if the access may be tried again."""


class Stop(enum.Enum):
    """Why the CPU came back to the kernel."""

    SYSCALL = "syscall"
    PAGE_FAULT = "page fault"
    EXCEPTION = "exception"
    BREAKPOINT = "breakpoint"
    BUDGET = "budget"
    """The instructions that were allowed are used up, or `stop` was called."""


class Vector(enum.IntEnum):
    """Exception vectors (Intel SDM volume 3A, table 6-1)."""

    DIVIDE_ERROR = 0
    DEBUG = 1
    BREAKPOINT = 3
    INVALID_OPCODE = 6
    GENERAL_PROTECTION = 13
    PAGE_FAULT = 14


@dataclass(slots=True)
class CpuStop:
    """What happened.

    `address` of a page fault is that of the page: Unicorn does not tell more of it.
    `vector` is that of an exception.
    """

    reason: Stop
    address: int = 0
    access: Access = Access.READ
    vector: int = 0


class Cpu:
    """One x86-64 CPU in user mode."""

    def __init__(self, ram: Ram, on_page_fault: PageFaultHandler) -> None:
        self._ram = ram
        self._on_page_fault = on_page_fault
        self._root = 0
        self._stop: CpuStop | None = None
        self.stopped_early = False
        """The last run ended only so that stale translations can be dropped."""
        self.tlb_fills = 0
        self._running = False
        self._stale_tlb = True
        self._tlb_root = 0
        """The address space that cached translations are of."""
        self._stale_code = False
        self._breakpoints: dict[int, Any] = {}
        self._resume_at = -1
        self.code_frames: set[int] = set()
        """Frames from which code was fetched: Unicorn may hold translations of them."""

        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._uc.mem_map_ptr(0, ram.size, unicorn.UC_PROT_ALL, ram.host_address)
        self._uc.hook_add(unicorn.UC_HOOK_TLB_FILL, self._fill_tlb)
        self._uc.hook_add(unicorn.UC_HOOK_INSN, self._syscall, None, 1, 0, x86.UC_X86_INS_SYSCALL)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.read = self._uc.reg_read
        self.write = self._uc.reg_write

    @property
    def pc(self) -> int:
        """The address of the instruction that is executing, or next to execute."""
        return int(self._uc.reg_read(x86.UC_X86_REG_RIP))

    def load_page_table(self, root: int) -> None:
        """Switch to the address space whose top table is the frame `root`, as CR3 does."""
        self._root = root

    def flush_tlb(self) -> None:
        """Forget all cached address translations, before the next instruction.

        The kernel calls it after it took rights or pages away. From within a page fault
        that is not needed for the page at fault, whose entry is replaced.
        """
        self._stale_tlb = True

    def drop_code(self, pfn: int) -> None:
        """Forget translated code of a frame that the kernel is about to write to.

        Unicorn removes translations by virtual address only, and the frame may be mapped
        at many: so all of them go, once. If this happens in a page fault, the CPU stops
        at the next chance, since translations cannot be dropped while they run.
        """
        if pfn in self.code_frames:
            self._stale_code = True
            if self._running:
                self.stopped_early = True
                self._uc.emu_stop()

    def save(self) -> Any:
        """All registers, as an opaque value for `restore`."""
        return self._uc.context_save()

    def restore(self, registers: Any) -> None:
        """Load what `save` returned."""
        self._uc.context_restore(registers)

    def syscall_arguments(self) -> tuple[int, ...]:
        """The call's number and its six arguments, as the psABI's appendix A.2 places them."""
        return tuple(self._uc.reg_read_batch(_SYSCALL_REGISTERS))

    def add_breakpoint(self, address: int) -> None:
        """Stop each time before the instruction at `address` is executed, in any address
        space; the code itself is not changed."""
        if address not in self._breakpoints:
            self._breakpoints[address] = self._uc.hook_add(
                unicorn.UC_HOOK_CODE, self._breakpoint, None, address, address
            )
            self._stale_code = True

    def remove_breakpoint(self, address: int) -> None:
        """Undo `add_breakpoint`."""
        self._uc.hook_del(self._breakpoints.pop(address))
        self._stale_code = True

    def stop(self) -> None:
        """Make `run` return soon; may be called from another thread."""
        self._uc.emu_stop()

    def run(self, max_instructions: int = 0) -> CpuStop:
        """Execute from the current instruction until the kernel is needed.

        At most `max_instructions` (0: no limit). The instruction pointer stands on the
        instruction that faulted, or after the `syscall` instruction.
        """
        # A breakpoint that the last run stopped at lets this one pass.
        at_breakpoint = self._stop is not None and self._stop.reason is Stop.BREAKPOINT
        self._resume_at = self.pc if at_breakpoint else -1
        self.stopped_early = False
        self._stop = None
        if self._stale_code:
            self._stale_code = False
            self.code_frames.clear()
            self._uc.ctl_flush_tb()
        if self._stale_tlb or self._tlb_root != self._root:
            self._stale_tlb = False
            self._tlb_root = self._root
            self._uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)
        self._running = True
        try:
            self._uc.emu_start(self.pc, _UNTIL, count=max_instructions)
        except unicorn.UcError as error:
            if self._stop is None:
                invalid = error.errno == unicorn.UC_ERR_INSN_INVALID
                vector = Vector.INVALID_OPCODE if invalid else Vector.GENERAL_PROTECTION
                return CpuStop(Stop.EXCEPTION, vector=vector)
        finally:
            self._running = False
        if self._stop is None and self.pc == _UNTIL:
            # Unicorn ends without a word at its end address; there is never a page there.
            return CpuStop(Stop.PAGE_FAULT, address=_UNTIL, access=Access.EXECUTE)
        return self._stop or CpuStop(Stop.BUDGET)

    def _breakpoint(self, uc: Any, address: int, _size: int, _data: Any) -> None:
        if address == self._resume_at:
            self._resume_at = -1
            return
        self._stop = CpuStop(Stop.BREAKPOINT, address=address)
        uc.emu_stop()

    def _syscall(self, uc: Any, _data: Any) -> None:
        self._stop = CpuStop(Stop.SYSCALL)
        uc.emu_stop()

    def _interrupt(self, uc: Any, vector: int, _data: Any) -> None:
        if self._stop is None:
            self._stop = CpuStop(Stop.EXCEPTION, vector=vector)
        uc.emu_stop()

    def _fill_tlb(self, uc: Any, address: int, kind: int, entry: Any, _data: Any) -> bool:
        access = _ACCESS[kind]
        self.tlb_fills += 1
        while True:
            perms = self._translate(address, access, entry)
            if perms:
                return True
            if address >= ADDRESS_LIMIT or not self._on_page_fault(address, access):
                self._stop = CpuStop(Stop.PAGE_FAULT, address=address, access=access)
                uc.emu_stop()
                return False

    def _translate(self, address: int, access: Access, entry: Any) -> bool:
        """The hardware's part: walk, check rights, set the A and D bits."""
        if address >= ADDRESS_LIMIT:
            return False
        words = self._ram.words
        slot = walk(self._ram, self._root, address)
        pte = words[slot]
        if not slot or not pte & Pte.PRESENT:
            return False
        if access is Access.WRITE:
            if not pte & Pte.WRITE:
                return False
            pte |= Pte.DIRTY
        elif access is Access.EXECUTE:
            if pte & Pte.NX:
                return False
            self.code_frames.add((pte & Pte.FRAME) >> PAGE_SHIFT)
        pte |= Pte.ACCESSED
        words[slot] = pte
        perms = unicorn.UC_PROT_READ
        if not pte & Pte.NX:
            perms |= unicorn.UC_PROT_EXEC
        if pte & Pte.WRITE and pte & Pte.DIRTY:
            perms |= unicorn.UC_PROT_WRITE
        entry.paddr = pte & Pte.FRAME
        entry.perms = perms
        return True
