"""The engine: Unicorn, with our page tables behind its TLB.

Unicorn translates guest code to host code, and keeps a TLB for data and code. In its
"virtual TLB" mode it knows nothing of page tables: for an address that is not in the TLB
it calls a hook, which is the MMU here (`cpu.mmu`): it walks the tables in RAM, sets the
accessed and dirty bits as the hardware does, and returns the physical address, or raises a
page fault into the kernel through `on_page_fault`.

The dirty bit needs care, since a filled TLB entry never comes back to the hook: an entry
filled for a read gives no write permission, so that the first write comes to the hook
too.

A system call does not run inside of Unicorn's callback: the callback stops the CPU, and
`run` returns to the kernel with what happened. Measured, this costs the same, and lets
the kernel switch to another process at any system call.
"""

from __future__ import annotations

import time

from samepage.arch import ADDRESS_LIMIT, PAGE_SHIFT, PAGE_SIZE, Access
from samepage.arch.x86_64.layout import KERNEL_SPACE
from samepage.arch.x86_64.paging import Pte
from samepage.arch.x86_64.registers import Reg
from samepage.arch.x86_64.traps import Vector
from samepage.cpu.engine import CpuStop, Stop
from samepage.cpu.mmu import find_permitted, peek, touch
from samepage.cpu.ram import Ram
from samepage.cpu.unicorn import emulator as uc
from samepage.cpu.unicorn.emulator import Batch, Emulator, SavedRegisters, TlbEntry
from samepage.cpu.unicorn.features import HWCAP, RDPID_SIZE, rdpid_target
from samepage.cpu.unicorn.fxsave import FXSAVE_SIZE, fxrstor, fxsave
from samepage.cpu.unicorn.registers import NUMBERS
from samepage.cpu.unicorn.rmw import LONGEST_INSTRUCTION, is_atomic, writes_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from samepage.cpu.engine import PageFaultHandler, Registers

_ACCESS = {
    uc.MEM_READ: Access.READ,
    uc.MEM_WRITE: Access.WRITE,
    uc.MEM_FETCH: Access.EXECUTE,
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
_SEVERAL = -1
"""Instead of a page: a frame is used at more than one."""
_FIRST_SOFTWARE_VECTOR = 32
_INT_SIZE = 2
"""Bytes of the instruction `int n`."""

_SYSCALL_STOP = CpuStop(Stop.SYSCALL)
_PAUSE_STOP = CpuStop(Stop.PAUSE)


class UnicornContext:
    """An address space: the frame of its top table. Nothing else is kept of it but what
    Unicorn's TLB holds, which is of one address space at a time."""

    def __init__(self, engine: UnicornEngine, root: int) -> None:
        self._engine = engine
        self.root = root

    def activate(self) -> None:
        """See `MmuContext`."""
        self._engine.activate(self)

    def flush_tlb_range(self, start: int, end: int) -> None:
        """See `MmuContext`."""
        self._engine.flush_tlb_range(self, start, end)

    def release(self) -> None:
        """See `MmuContext`."""
        self._engine.forget(self)


class UnicornEngine:
    """The `Engine` that emulates. What its methods promise is in `cpu.engine`."""

    name = "unicorn"
    counts_instructions = True
    hwcap = HWCAP
    fpu_size = FXSAVE_SIZE

    def __init__(self, ram_size: int, on_page_fault: PageFaultHandler) -> None:
        self.ram = ram = Ram(ram_size)
        self._on_page_fault = on_page_fault
        self.read_clock: Callable[[], int] = time.monotonic_ns
        """Not asked: Unicorn has a counter of its own."""
        self._active: UnicornContext | None = None
        self._root = 0
        """Of the active address space."""
        self._tlb_of: UnicornContext | None = None
        """The address space that cached translations are of."""
        self._stop: CpuStop | None = None
        self._paused = False
        self.splits_updates = False
        self.tlb_fills = 0
        self._running = False
        self._stale_tlb = True
        self._stale_code = False
        self._breakpoints: dict[int, int] = {}
        self._resume_at = -1
        self._at_port: SavedRegisters | None = None
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

        self._emulator = Emulator()
        self._emulator.map_memory(ram.size, ram.host_address)
        self._emulator.enter_user_mode(0, ram)  # in frame 0, which nothing else uses
        self._emulator.on_tlb_fill(self._fill_tlb)
        # First, since once a stop was requested Unicorn asks no further hook of instructions.
        self._emulator.on_syscall(self._syscall)
        self._emulator.on_interrupt(self._interrupt)
        self._emulator.on_port_access(self._port_access)
        self._syscall_registers = Batch(_SYSCALL_REGISTERS)
        self._blank = self._emulator.save()
        self.read = self._emulator.read
        self.write = self._emulator.write
        self.save = self._emulator.save

    @property
    def running(self) -> bool:
        """See `Engine`; an exception could come to Unicorn's C code."""
        return self._running

    @property
    def pc(self) -> int:
        """See `Engine`."""
        return self._emulator.read(Reg.RIP)

    @property
    def executed(self) -> int:
        """See `Engine`."""
        return self._emulator.executed

    def cpu_time_ns(self) -> int:
        """See `Engine`: the emulator works in the thread that calls it."""
        return time.thread_time_ns()

    # --- address spaces ---

    def new_context(self, root: int) -> UnicornContext:
        """See `Engine`."""
        return UnicornContext(self, root)

    def activate(self, context: UnicornContext) -> None:
        """`MmuContext.activate`."""
        self._active, self._root = context, context.root

    def forget(self, context: UnicornContext) -> None:
        """`MmuContext.release`."""
        if self._active is context:
            self._active, self._root = None, 0

    def flush_tlb_range(self, context: UnicornContext, start: int, end: int) -> None:
        """`MmuContext.flush_tlb_range`.

        Unicorn forgets either all or, when it fills an entry, the page's older one: so for
        the page at fault nothing is left to do. But it finds code by virtual address, so
        that for a page with code all is forgotten, before anything else is executed.
        """
        if context is not self._tlb_of:
            return  # all is forgotten when it is activated
        page = start >> PAGE_SHIFT
        at_fault = self._running and page == self._filling and end - start == PAGE_SIZE
        if not at_fault or page in self._code_pages:
            self._stale_tlb = True
            self.pause()

    def flush_icache(self, pfn: int) -> None:
        """See `Engine`.

        Unicorn removes translations by virtual address only, and the frame may be mapped
        at many: so all of them go, once. If this happens in a page fault, the CPU stops
        at the next chance, since translations cannot be dropped while they run.
        """
        if pfn in self.code_frames:
            self._stale_code = True
            self.pause()

    # --- registers ---

    def syscall_arguments(self) -> list[int]:
        """See `Engine`."""
        return self._syscall_registers.read(self._emulator)

    def restore(self, registers: Registers) -> None:
        """See `Engine`."""
        assert isinstance(registers, SavedRegisters), "registers of another engine"
        self._emulator.restore(registers)

    def read_fpu(self) -> bytes:
        """See `Engine`: this CPU has FXSAVE only."""
        return fxsave(self._emulator)

    def write_fpu(self, area: bytes) -> None:
        """See `Engine`."""
        fxrstor(self._emulator, area)

    # --- execution ---

    def add_breakpoint(self, address: int) -> None:
        """See `Engine`."""
        if address not in self._breakpoints:
            self._breakpoints[address] = self._emulator.add_code_hook(address, self._breakpoint)
            self._stale_code = True

    def remove_breakpoint(self, address: int) -> None:
        """See `Engine`."""
        self._emulator.remove_hook(self._breakpoints.pop(address))
        self._stale_code = True

    def pause(self) -> None:
        """See `Engine`.

        Only to ask Unicorn to stop would let it execute the instruction at fault, and others,
        and yet come back with this one's address, so that it is executed twice.
        """
        if self._running:
            self._paused = True

    def interrupt(self) -> None:
        """See `Engine`."""
        self._emulator.request_stop()

    def step(self) -> CpuStop:
        """See `Engine`."""
        return self.run(1)

    def run(self, max_instructions: int = 0) -> CpuStop:
        """See `Engine`."""
        assert self._active is not None, "no address space is active"
        at_breakpoint = self._stop is not None and self._stop.reason is Stop.BREAKPOINT
        self._resume_at = self.pc if at_breakpoint else -1
        self._paused = False
        self._stop = None
        if self._stale_code:
            # With the TLB: the next fetch or write of each page must be seen.
            self._stale_code, self._stale_tlb = False, True
            self.code_frames.clear()
            self._code_pages.clear()
            self._emulator.flush_translations()
        if self._stale_tlb or self._tlb_of is not self._active:
            self._stale_tlb = False
            self._tlb_of = self._active
            self._writable.clear()
            self._filled.clear()
            self._fills_at_flush = self.tlb_fills
            self._emulator.flush_tlb()
        self._running = True
        try:
            status = self._emulator.run(self.pc, _UNTIL, max_instructions)
        finally:
            self._running = False
        return self._what_happened(status)

    def _what_happened(self, status: int) -> CpuStop:
        """Make of Unicorn's status and what the callbacks have noted what the hardware
        reports."""
        if self._at_port is not None:
            self._emulator.restore(self._at_port)
            self._at_port = None
        if status != uc.ERR_OK and self._stop is None:
            invalid = status == uc.ERR_INSN_INVALID
            if invalid and self._emulate_rdpid():
                self._stop = _PAUSE_STOP
            else:
                vector = Vector.INVALID_OPCODE if invalid else Vector.GENERAL_PROTECTION
                self._stop = CpuStop(Stop.EXCEPTION, vector=vector)
        if self._stop is None and self.pc == _UNTIL:
            # Unicorn ends at its end address as if nothing were there; there is never a page.
            self._stop = CpuStop(Stop.PAGE_FAULT, address=_UNTIL, access=Access.EXECUTE)
        elif self._stop is None:
            self._stop = CpuStop(Stop.INTERRUPT)
        elif self._stop.reason is Stop.EXCEPTION:
            self._forget_exception()
            if self._stop.vector >= _FIRST_SOFTWARE_VECTOR:
                # `int n`: user mode may not use these gates, and stays on the instruction.
                self.write(Reg.RIP, self.pc - _INT_SIZE)
                self._stop = CpuStop(Stop.EXCEPTION, vector=Vector.GENERAL_PROTECTION)
        elif self._stop.reason is Stop.PAGE_FAULT:
            self._stop = self._exact_fault(self._stop)
        return self._stop

    def _exact_fault(self, stop: CpuStop) -> CpuStop:
        """The page fault with its address: Unicorn reports no more of it than the page."""
        from samepage.cpu.unicorn.operands import fault_address

        if ADDRESS_LIMIT <= stop.address < KERNEL_SPACE:
            # Not a canonical address: no page fault, but a general protection fault.
            return CpuStop(Stop.EXCEPTION, vector=Vector.GENERAL_PROTECTION)
        page, pc = stop.address, self.pc
        if stop.access is Access.EXECUTE:
            address = pc if pc >> PAGE_SHIFT == page >> PAGE_SHIFT else page
        else:
            address = fault_address(self._code_at_pc(), pc, self.read, page)
        return CpuStop(Stop.PAGE_FAULT, address=address, access=stop.access)

    def _emulate_rdpid(self) -> bool:
        """Execute the instruction at the pointer if it is RDPID: the CPU's number is 0."""
        target = rdpid_target(self._code_at_pc())
        if target is None:
            return False
        self.write(target, 0)
        self.write(Reg.RIP, self.pc + RDPID_SIZE)
        return True

    def _forget_exception(self) -> None:
        """Let the next exception be the first one.

        The emulator remembers that an exception is being delivered, and would make the next
        one a double fault, since it never sees the end of the delivery. Only its initial
        state is free of that: it is loaded, and the registers are put into it.
        """
        values = [self.read(register) for register in range(len(NUMBERS))]
        area = fxsave(self._emulator)
        self._emulator.restore(self._blank)
        for register, value in enumerate(values):
            self.write(register, value)
        fxrstor(self._emulator, area)

    def _breakpoint(self, address: int) -> None:
        if address == self._resume_at:
            self._resume_at = -1
            return
        self._stop = CpuStop(Stop.BREAKPOINT, address=address)
        self._emulator.stop()

    def _syscall(self) -> None:
        self._stop = _SYSCALL_STOP
        self._emulator.stop()

    def _interrupt(self, vector: int) -> None:
        if self._stop is None:
            self._stop = CpuStop(Stop.EXCEPTION, vector=vector)
        self._emulator.stop()

    def _port_access(self) -> None:
        # User mode has no I/O ports. Unicorn only stops at the end of the block: so the
        # registers of now are kept, and no later instruction gets at memory.
        if self._stop is None:
            self._stop = CpuStop(Stop.EXCEPTION, vector=Vector.GENERAL_PROTECTION)
            self._at_port = self._emulator.save()
            self._emulator.flush_tlb()
            self._stale_tlb = True
        self._emulator.stop()

    def _fill_tlb(self, address: int, kind: int, entry: TlbEntry) -> bool:
        if self._at_port is not None:
            return False
        access = _ACCESS[kind]
        self.tlb_fills += 1
        self._filling = address >> PAGE_SHIFT
        if self._tlb_is_too_small():
            self._stale_tlb = self._paused = True
            return self._stop_filling(_PAUSE_STOP)
        if access is Access.EXECUTE and self._breakpoints and self._stops_before_fetch(address):
            return False
        while not self._translate(address, access, entry):
            if access is Access.READ and not self._paused and self._is_update():
                access = Access.WRITE  # a real CPU translates for writing at once
                continue
            resolved = self._paused or (
                address < ADDRESS_LIMIT and self._on_page_fault(address, access)
            )
            if resolved and self._paused:
                return self._stop_filling(_PAUSE_STOP)
            if not resolved:
                stop = CpuStop(Stop.PAGE_FAULT, address=address, access=access)
                return self._stop_filling(stop)
        return True

    def _stop_filling(self, stop: CpuStop) -> bool:
        """Make `run` return for this reason, before the access; False is the answer to Unicorn."""
        self._stop = stop
        self._emulator.stop()
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
            self._emulator.stop()
        return stops

    def _is_update(self) -> bool:
        """Whether the load is of an instruction that faults as a store."""
        code = self._code_at_pc()
        return writes_back(code) and (not self.splits_updates or is_atomic(code))

    def _code_at_pc(self) -> bytes:
        """The bytes of the instruction that executes, as far as they are present."""
        return peek(self.ram, self._root, self.pc, LONGEST_INSTRUCTION)

    def _translate(self, address: int, access: Access, entry: TlbEntry) -> bool:
        """Fill the TLB entry in, if the tables permit the access."""
        words = self.ram.words
        slot = find_permitted(words, self._root, address, access)
        if not slot:
            return False
        page, pfn = address >> PAGE_SHIFT, (words[slot] & Pte.FRAME) >> PAGE_SHIFT
        if access is Access.WRITE:
            if not self._note_write(pfn, page):
                return False
        elif access is Access.EXECUTE and not self._note_fetch(pfn, page):
            return False
        pte = touch(words, slot, access)
        perms = uc.PROT_READ
        # Rights that need no further fill, and so nothing that must still be noted.
        if access is Access.EXECUTE or (not pte & Pte.NX and self.code_frames.get(pfn) == page):
            perms |= uc.PROT_EXEC
        if access is Access.WRITE or (pte & Pte.WRITE and self._writable.get(pfn) == page):
            perms |= uc.PROT_WRITE
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
        self._stale_tlb = self._paused = True
        return False

    def _note_write(self, pfn: int, page: int) -> bool:
        if self.code_frames.get(pfn, page) == page:
            if self._writable.setdefault(pfn, page) != page:
                self._writable[pfn] = _SEVERAL
            return True
        self._stale_code = self._paused = True
        return False
