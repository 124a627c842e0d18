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

from samepage.cpu import engine
from samepage.cpu.engine import Batch, Context, Engine, TlbEntry
from samepage.cpu.fxsave import fxrstor, fxsave
from samepage.cpu.paging import ADDRESS_LIMIT, Access, Pte, walk
from samepage.cpu.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from samepage.cpu.registers import Reg
from samepage.cpu.rmw import LONGEST_INSTRUCTION, writes_back
from samepage.records import record

_ACCESS = {
    engine.MEM_READ: Access.READ,
    engine.MEM_WRITE: Access.WRITE,
    engine.MEM_FETCH: Access.EXECUTE,
}

_SYSCALL_REGISTERS = (
    Reg.RAX,
    Reg.RDI,
    Reg.RSI,
    Reg.RDX,
    Reg.R10,
    Reg.R8,
    Reg.R9,
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


class Vector:
    """Exception vectors (Intel SDM volume 3A, table 6-1)."""

    DIVIDE_ERROR = 0
    DEBUG = 1
    BREAKPOINT = 3
    INVALID_OPCODE = 6
    GENERAL_PROTECTION = 13
    PAGE_FAULT = 14


@record
class CpuStop:
    """What happened.

    `address` of a page fault is that of the page: Unicorn does not tell more of it
    (`Cpu.fault_address` does). `vector` is that of an exception.
    """

    reason: Stop
    address: int = 0
    access: Access = Access.READ
    vector: int = 0


_STATE = (
    *(Reg.RAX, Reg.RBX, Reg.RCX, Reg.RDX, Reg.RSI, Reg.RDI, Reg.RBP, Reg.RSP),
    *range(Reg.R8, Reg.R15 + 1),
    *(Reg.RIP, Reg.EFLAGS, Reg.FS_BASE, Reg.GS_BASE),
)
"""All registers but the floating-point ones."""
_SEVERAL = -1
"""Instead of a page: a frame is used at more than one."""

_SYSCALL_STOP = CpuStop(Stop.SYSCALL)


class Cpu:
    """One x86-64 CPU in user mode."""

    def __init__(self, ram: Ram, on_page_fault: PageFaultHandler) -> None:
        self._ram = ram
        self._on_page_fault = on_page_fault
        self._root = 0
        self._stop: CpuStop | None = None
        self.stopped_early = False
        """The last run ended only so that the kernel can look after something."""
        self.tlb_fills = 0
        self._running = False
        self._stale_tlb = True
        self._tlb_root = 0
        """The address space that cached translations are of."""
        self._stale_code = False
        self._breakpoints: dict[int, int] = {}
        self._resume_at = -1
        self._at_port: Context | None = None
        """The registers at an access to a port."""
        self.code_frames: dict[int, int] = {}
        """Frames from which code was fetched, since Unicorn may hold translations of them:
        the page they were fetched at, or `_SEVERAL`."""
        self._code_pages: set[int] = set()
        """Pages, in any address space, from which code was fetched."""
        self._filling = -1
        """The page whose TLB entry is being filled."""
        self._filled: set[int] = set()
        """The pages that were filled in since the TLB was last flushed."""
        self._fills_at_flush = 0
        """What `tlb_fills` was then."""
        self._writable: dict[int, int] = {}
        """Frames that the TLB lets the program write to without a fill, likewise."""

        self._engine = Engine()
        self._engine.map_memory(ram.size, ram.host_address)
        # Frame 0 is never given to anybody.
        ram.bytes[: len(engine.SYSRETQ)] = engine.SYSRETQ
        self._engine.enter_user_mode(0)
        ram.bytes[: len(engine.SYSRETQ)] = bytes(len(engine.SYSRETQ))
        self._engine.on_tlb_fill(self._fill_tlb)
        # First, since once a stop was requested Unicorn asks no further hook of instructions.
        self._engine.on_syscall(self._syscall)
        self._engine.on_interrupt(self._interrupt)
        self._engine.on_port_access(self._port_access)
        self._syscall_registers = Batch(_SYSCALL_REGISTERS)
        self._blank = self._engine.save()
        self.read = self._engine.read
        self.write = self._engine.write

    @property
    def running(self) -> bool:
        """Inside `run`: an exception raised now could come to Unicorn's C code."""
        return self._running

    @property
    def pc(self) -> int:
        """The address of the instruction that is executing, or next to execute."""
        return self._engine.read(Reg.RIP)

    @property
    def executed(self) -> int:
        """How many instructions the last `run` executed, if it had a limit."""
        return self._engine.executed

    def load_page_table(self, root: int) -> None:
        """Switch to the address space whose top table is the frame `root`, as CR3 does."""
        self._root = root

    def flush_tlb(self) -> None:
        """Forget all cached address translations, before the next instruction.

        The kernel calls it after it took rights or pages away. From within a page fault
        that is not needed for the page at fault, whose entry is replaced.
        """
        self._stale_tlb = True

    def flush_tlb_page(self, address: int) -> None:
        """The page at `address` is in another frame now: forget what is cached of it.

        Unicorn forgets either all or, when it fills an entry, the page's older one: so for
        the page at fault nothing is left to do. But it finds code by virtual address, so
        that for a page with code all is forgotten, before anything else is executed.
        """
        page = address >> PAGE_SHIFT
        if page in self._code_pages:
            self._stale_tlb = True
            self.pause()
        elif not self._running or page != self._filling:
            self._stale_tlb = True

    def drop_code(self, pfn: int) -> None:
        """Forget translated code of a frame that the kernel is about to write to.

        Unicorn removes translations by virtual address only, and the frame may be mapped
        at many: so all of them go, once. If this happens in a page fault, the CPU stops
        at the next chance, since translations cannot be dropped while they run.
        """
        if pfn in self.code_frames:
            self._stale_code = True
            self.pause()

    def save(self) -> Context:
        """All registers, for `restore`."""
        return self._engine.save()

    def restore(self, registers: Context) -> None:
        """Load what `save` returned."""
        self._engine.restore(registers)

    def fault_address(self, stop: CpuStop) -> int:
        """Where in its page the page fault was that ended the last run (CR2)."""
        from samepage.cpu.operands import fault_address

        page, pc = stop.address, self.pc
        if stop.access is Access.EXECUTE:
            return pc if pc >> PAGE_SHIFT == page >> PAGE_SHIFT else page
        return fault_address(self._code_at_pc(), pc, self.read, page)

    def syscall_arguments(self) -> list[int]:
        """The call's number and its six arguments, as the psABI's appendix A.2 places them."""
        return self._syscall_registers.read(self._engine)

    def add_breakpoint(self, address: int) -> None:
        """Stop each time before the instruction at `address` is executed, in any address
        space; the code itself is not changed."""
        if address not in self._breakpoints:
            self._breakpoints[address] = self._engine.add_code_hook(address, self._breakpoint)
            self._stale_code = True

    def remove_breakpoint(self, address: int) -> None:
        """Undo `add_breakpoint`."""
        self._engine.remove_hook(self._breakpoints.pop(address))
        self._stale_code = True

    def pause(self) -> None:
        """From within a page fault: make `run` return once the fault is resolved.

        The instruction at fault has not been executed then; it is when `run` is called
        again. (Only to ask Unicorn to stop would let it execute the instruction, and
        others, and yet come back with this one's address, so that it is executed twice.)
        """
        if self._running:
            self.stopped_early = True

    def stop(self) -> None:
        """Make `run` return soon, with Stop.BUDGET; may be called from another thread."""
        self._engine.request_stop()

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
            # With the TLB: the next fetch or write of each page must be seen.
            self._stale_code, self._stale_tlb = False, True
            self.code_frames.clear()
            self._code_pages.clear()
            self._engine.flush_translations()
        if self._stale_tlb or self._tlb_root != self._root:
            self._stale_tlb = False
            self._tlb_root = self._root
            self._writable.clear()
            self._filled.clear()
            self._fills_at_flush = self.tlb_fills
            self._engine.flush_tlb()
        self._running = True
        try:
            status = self._engine.run(self.pc, _UNTIL, max_instructions)
        finally:
            self._running = False
        if self._at_port is not None:
            self._engine.restore(self._at_port)
            self._at_port = None
        if status != engine.ERR_OK and self._stop is None:
            invalid = status == engine.ERR_INSN_INVALID
            vector = Vector.INVALID_OPCODE if invalid else Vector.GENERAL_PROTECTION
            self._stop = CpuStop(Stop.EXCEPTION, vector=vector)
        if self._stop is not None and self._stop.reason is Stop.EXCEPTION:
            self._forget_exception()
        if self._stop is None and self.pc == _UNTIL:
            # Unicorn ends without a word at its end address; there is never a page there.
            return CpuStop(Stop.PAGE_FAULT, address=_UNTIL, access=Access.EXECUTE)
        return self._stop or CpuStop(Stop.BUDGET)

    def _forget_exception(self) -> None:
        """Let the next exception be the first one.

        The emulator remembers that an exception is being delivered, and would make the next
        one a double fault, since it never sees the end of the delivery. Only its initial
        state is free of that: it is loaded, and the registers are put into it.
        """
        values = [(register, self.read(register)) for register in _STATE]
        area = fxsave(self)
        self._engine.restore(self._blank)
        for register, value in values:
            self.write(register, value)
        fxrstor(self, bytes(area))

    def _breakpoint(self, address: int) -> None:
        if address == self._resume_at:
            self._resume_at = -1
            return
        self._stop = CpuStop(Stop.BREAKPOINT, address=address)
        self._engine.stop()

    def _syscall(self) -> None:
        self._stop = _SYSCALL_STOP
        self._engine.stop()

    def _interrupt(self, vector: int) -> None:
        if self._stop is None:
            self._stop = CpuStop(Stop.EXCEPTION, vector=vector)
        self._engine.stop()

    def _port_access(self) -> None:
        # User mode has no I/O ports. Unicorn only stops at the end of the block: so the
        # registers of now are kept, and no later instruction gets at memory.
        if self._stop is None:
            self._stop = CpuStop(Stop.EXCEPTION, vector=Vector.GENERAL_PROTECTION)
            self._at_port = self._engine.save()
            self._engine.flush_tlb()
            self._stale_tlb = True
        self._engine.stop()

    def _fill_tlb(self, address: int, kind: int, entry: TlbEntry) -> bool:
        if self._at_port is not None:
            return False
        access = _ACCESS[kind]
        self.tlb_fills += 1
        self._filling = address >> PAGE_SHIFT
        if self._tlb_is_too_small():
            self._stale_tlb = self.stopped_early = True
            return self._stop_filling(CpuStop(Stop.BUDGET))
        if access is Access.EXECUTE and self._breakpoints and self._stops_before_fetch(address):
            return False
        while not self._translate(address, access, entry):
            if access is Access.READ and not self.stopped_early and writes_back(self._code_at_pc()):
                access = Access.WRITE  # a real CPU translates for writing at once
                continue
            resolved = self.stopped_early or (
                address < ADDRESS_LIMIT and self._on_page_fault(address, access)
            )
            if resolved and self.stopped_early:
                return self._stop_filling(CpuStop(Stop.BUDGET))
            if not resolved:
                stop = CpuStop(Stop.PAGE_FAULT, address=address, access=access)
                return self._stop_filling(stop)
        return True

    def _stop_filling(self, stop: CpuStop) -> bool:
        """Make `run` return for this reason, before the access; False says so to Unicorn."""
        self._stop = stop
        self._engine.stop()
        return False

    def _tlb_is_too_small(self) -> bool:
        """Whether the same pages are filled in again and again.

        Unicorn's TLB has 256 entries at first, and doubles when it is flushed while most are
        in use (`tlb_mmu_resize_locked` of QEMU), which happens to no program that only
        computes: so such a one gets a flush. A page may need two fills, to read and to write.
        """
        self._filled.add(self._filling)
        return self.tlb_fills - self._fills_at_flush > 2 * len(self._filled) + 512

    def _stops_before_fetch(self, address: int) -> bool:
        """Whether the instruction to be fetched has a breakpoint: that comes before the
        fetch and its page fault (Intel SDM volume 3A, table 6-2)."""
        pc = self.pc
        stops = (
            pc in self._breakpoints
            and pc != self._resume_at
            and pc >> PAGE_SHIFT == address >> PAGE_SHIFT
        )
        if stops:
            self._stop = CpuStop(Stop.BREAKPOINT, address=pc)
            self._engine.stop()
        return stops

    def _code_at_pc(self) -> bytes:
        """The bytes of the instruction that executes, as far as they are present."""
        pc = self.pc
        code = b""
        while len(code) < LONGEST_INSTRUCTION:
            pte = self._ram.words[walk(self._ram, self._root, pc + len(code))]
            if not pte & Pte.PRESENT:
                break
            at = pc + len(code) & PAGE_SIZE - 1
            start = (pte & Pte.FRAME) + at
            size = min(LONGEST_INSTRUCTION - len(code), PAGE_SIZE - at)
            code += self._ram.bytes[start : start + size]
        return code

    def _translate(self, address: int, access: Access, entry: TlbEntry) -> bool:
        """The hardware's part: walk, check rights, set the A and D bits."""
        if address >= ADDRESS_LIMIT:
            return False
        words = self._ram.words
        slot = walk(self._ram, self._root, address)
        pte = words[slot]
        if not slot or not pte & Pte.PRESENT:
            return False
        pfn, page = (pte & Pte.FRAME) >> PAGE_SHIFT, address >> PAGE_SHIFT
        if access is Access.WRITE:
            if not pte & Pte.WRITE or not self._note_write(pfn, page):
                return False
            pte |= Pte.DIRTY
        elif access is Access.EXECUTE and (pte & Pte.NX or not self._note_fetch(pfn, page)):
            return False
        pte |= Pte.ACCESSED
        words[slot] = pte
        perms = engine.PROT_READ
        # Rights that need no further fill, and so nothing that must still be noted.
        if access is Access.EXECUTE or (not pte & Pte.NX and self.code_frames.get(pfn) == page):
            perms |= engine.PROT_EXEC
        if access is Access.WRITE or (pte & Pte.WRITE and self._writable.get(pfn) == page):
            perms |= engine.PROT_WRITE
        entry.paddr = pte & Pte.FRAME
        entry.perms = perms
        return True

    # Unicorn itself sees to a program that rewrites code through the page it runs at. But
    # code may have two addresses, one to write and one to run it. These two methods notice
    # when a frame is used in both ways: False sends the CPU back to `run`, which forgets
    # what was translated or filled, and the access is then done again.

    def _note_fetch(self, pfn: int, page: int) -> bool:
        self._code_pages.add(page)
        if self.code_frames.setdefault(pfn, page) != page:
            self.code_frames[pfn] = _SEVERAL
        if self._writable.get(pfn, page) == page:
            return True
        self._stale_tlb = self.stopped_early = True
        return False

    def _note_write(self, pfn: int, page: int) -> bool:
        if self.code_frames.get(pfn, page) == page:
            if self._writable.setdefault(pfn, page) != page:
                self._writable[pfn] = _SEVERAL
            return True
        self._stale_code = self.stopped_early = True
        return False
