"""The engine: what to do at each stop of a stub.

    run --- calls, registers ---> the guest executes
        <--- SIGSYS               a system call
        <--- SIGSEGV, vector 14   a page fault: the MMU (`cpu.mmu`) permits the access, at once or
                                  once the kernel has resolved it, and the stub gets a mapping; or
                                  the kernel gets the fault
        <--- SIGSEGV, vector 13   RDTSC, which is answered from the machine's clock; or an
                                  exception, as all that SIGILL, SIGFPE, SIGTRAP and SIGBUS report
        <--- SIGUSR1              `interrupt`

A page with a breakpoint is not executable in a stub, and its other instructions are executed one
by one (with the trap flag).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
import weakref

from samepage.abi.auxv import Aux, parse_auxv
from samepage.abi.mman import Prot
from samepage.abi.signal import SIGSEGV, SIGSYS, SIGTRAP, SS_AUTODISARM
from samepage.arch import ADDRESS_LIMIT, ARCH, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Access
from samepage.arch.x86_64.paging import Pte
from samepage.arch.x86_64.registers import Reg
from samepage.arch.x86_64.traps import Vector
from samepage.cpu.engine import CpuStop, EngineError, Stop
from samepage.cpu.mmu import find_permitted, peek, touch
from samepage.cpu.native import control as layout
from samepage.cpu.native.control import (
    CALLS_AT,
    CODE_SIZE,
    CR2,
    ERROR_CODE,
    FPSTATE,
    GENERAL,
    MAX_CALLS,
    N_WORDS,
    ONLY_CALLS,
    REGION_SIZE,
    RESUME,
    SEGMENTS,
    TRAP,
    Control,
)
from samepage.cpu.native.mappings import Mappings, munmap, rights
from samepage.cpu.native.stub import (
    INTERRUPT,
    MASK,
    SLOT_SHIFT,
    Stub,
    choose_base,
)
from samepage.cpu.native.xstate import XState
from samepage.cpu.ram import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from samepage.cpu.engine import PageFaultHandler, Registers

_WORD = (1 << 64) - 1
_TRAP_FLAG = 0x100
_FIRST_FLAGS = 0x202
_PF_WRITE, _PF_INSTRUCTION = 2, 16
_INT_SIZE = 2
"""Bytes of the instruction `int n`."""
_VSYSCALL = 0xFFFF_FFFF_FF60_0000
_RDTSC, _RDTSCP = b"\x0f\x31", b"\x0f\x01\xf9"
_HWCAP2_FSGSBASE = 2
_ORDER = struct.Struct("<4Q")
"""The first words of the control memory."""
_SPARE = 4
"""Stubs without an address space that are kept for the next one."""

_SYSCALL_STOP = CpuStop(Stop.SYSCALL)
_INTERRUPT_STOP = CpuStop(Stop.INTERRUPT)
_PAUSE_STOP = CpuStop(Stop.PAUSE)


class SavedRegisters:
    """A set of registers (`Registers`)."""

    def __init__(self, words: list[int], fs_base: int, gs_base: int, fpu: bytes) -> None:
        self.words, self.fs_base, self.gs_base, self.fpu = words, fs_base, gs_base, fpu

    def read(self, register: int) -> int:
        """See `Registers`."""
        if register == Reg.FS_BASE:
            return self.fs_base
        if register == Reg.GS_BASE:
            return self.gs_base
        return self.words[GENERAL[register]]

    def write(self, register: int, value: int) -> None:
        """See `Registers`."""
        value &= _WORD
        if register == Reg.FS_BASE:
            self.fs_base = value
        elif register == Reg.GS_BASE:
            self.gs_base = value
        else:
            self.words[GENERAL[register]] = value


class NativeContext:
    """An address space: its top table, the stub that executes in it (None until it must), what
    is mapped there, and the calls that the stub has to make before anything else."""

    def __init__(self, engine: NativeEngine, root: int) -> None:
        self._engine = engine
        self.root = root
        self.stub: Stub | None = None
        self.mappings = Mappings()
        self.calls: list[bytes] = []

    def activate(self) -> None:
        """See `MmuContext`."""
        self._engine.activate(self)

    def flush_tlb_range(self, start: int, end: int) -> None:
        """See `MmuContext`."""
        if self.mappings.forget(start, end):
            self.calls.append(munmap(start, end - start))

    def release(self) -> None:
        """See `MmuContext`."""
        self._engine.forget(self)


class NativeEngine:
    """The `Engine` of the processor itself. What its methods promise is in `cpu.engine`."""

    name = "native"
    counts_instructions = False
    executed = 0

    def __init__(self, ram_size: int, on_page_fault: PageFaultHandler) -> None:
        self.hwcap = _check_host()
        self._stubs: list[Stub] = []
        """All that there are."""
        self._spare: list[Stub] = []
        try:
            self._ram_fd = os.memfd_create("samepage-ram")
            self._control = Control()
        except OSError as error:
            raise EngineError(f"the native engine has no shared memory: {error}") from None
        self._close = weakref.finalize(
            self, _close, os.getpid(), self._stubs, self._control, self._ram_fd
        )
        self.ram = Ram(ram_size, self._make_block)
        self._on_page_fault = on_page_fault
        self.read_clock: Callable[[], int] = time.monotonic_ns
        self.splits_updates = False  # the host's CPU does as it does
        self._contexts: set[NativeContext] = set()
        self._active: NativeContext | None = None
        self._current: Stub | None = None
        self._running = self._paused = self._interrupted = False
        self._breakpoints: set[int] = set()
        self._no_exec: frozenset[int] = frozenset()
        """Pages with breakpoints."""
        self._resume_at = -1
        """The address of the breakpoint that the last run stopped at."""
        self._open_page = -1
        """A page with breakpoints that may be executed for one instruction."""
        self._spent_ns = 0
        """The CPU time of stubs that are gone."""
        self.faults = 0
        """How often the MMU was asked."""
        self._words = self._control.words
        self._spare.append(self._start_stub([0] * 256))
        self._xstate = XState(self._fpu())
        self.fpu_size = self._xstate.size
        at = self._at = self._control.registers
        segments = self._words[at + SEGMENTS]
        self.restore(SavedRegisters([0] * N_WORDS, 0, 0, self._xstate.initial))
        self._words[at + SEGMENTS] = segments
        self._words[at + GENERAL[Reg.EFLAGS]] = _FIRST_FLAGS

    def _make_block(self, size: int) -> mmap.mmap:
        os.ftruncate(self._ram_fd, size)
        return mmap.mmap(self._ram_fd, size)

    def _fpu(self) -> memoryview:
        return self._control.bytes[self._control.fpu_at :]

    @property
    def running(self) -> bool:
        """See `Engine`."""
        return self._running

    def cpu_time_ns(self) -> int:
        """See `Engine`."""
        used = sum(stub.cpu_time_ns() for stub in self._stubs)
        return time.thread_time_ns() + self._spent_ns + used

    # --- address spaces ---

    def new_context(self, root: int) -> NativeContext:
        """See `Engine`."""
        context = NativeContext(self, root)
        self._contexts.add(context)
        return context

    def activate(self, context: NativeContext) -> None:
        """`MmuContext.activate`."""
        self._active = context

    def forget(self, context: NativeContext) -> None:
        """`MmuContext.release`."""
        if self._active is context:
            self._active = None
        self._contexts.remove(context)
        stub, context.stub = context.stub, None
        if stub is not None:
            if len(self._spare) < _SPARE:
                self._spare.append(stub)
                context.mappings.clear()
            else:
                self._end(stub)

    def flush_icache(self, pfn: int) -> None:
        """See `Engine`: the processor sees to it itself."""

    def _enter(self, context: NativeContext) -> Stub:
        """Give an address space its stub: one that is not used any more, or a new one."""
        used = self._top_table(context.root)
        if self._spare:
            stub = self._spare.pop()
            context.calls[:] = [munmap(*stub.below), munmap(*stub.above)]
            context.stub = stub
            if not used[stub.slot]:
                return stub
        self._move(context)
        assert context.stub is not None
        return context.stub

    def _move(self, context: NativeContext) -> None:
        """Continue an address space in a stub at another address."""
        if context.stub is not None:
            self._end(context.stub)
        context.mappings.clear()
        context.calls.clear()
        context.stub = None
        context.stub = self._new_stub(self._top_table(context.root))

    def _top_table(self, root: int) -> list[int]:
        return self.ram.words[root << 9 : (root << 9) + 512].tolist()

    def _new_stub(self, used: list[int]) -> Stub:
        """Start a stub; the registers stay, though its first frame overwrites them."""
        saved = self.save()
        stub = self._start_stub(used)
        self.restore(saved)
        return stub

    def _start_stub(self, used: list[int]) -> Stub:
        stub = Stub(self._control, self._ram_fd, choose_base(used))
        self._stubs.append(stub)
        return stub

    def _end(self, stub: Stub) -> None:
        self._spent_ns += stub.cpu_time_ns()
        self._stubs.remove(stub)
        stub.close()

    # --- registers ---

    @property
    def pc(self) -> int:
        """See `Engine`."""
        return self._words[self._at + GENERAL[Reg.RIP]]

    def read(self, register: int) -> int:
        """See `Engine`."""
        index = GENERAL.get(register)
        if index is not None:
            return self._words[self._at + index]
        return self._words[layout.FS_BASE if register == Reg.FS_BASE else layout.GS_BASE]

    def write(self, register: int, value: int) -> None:
        """See `Engine`."""
        index = GENERAL.get(register)
        if index is not None:
            self._words[self._at + index] = value & _WORD
        elif register == Reg.FS_BASE:
            self._words[layout.FS_BASE] = value & _WORD
        else:
            self._words[layout.GS_BASE] = value & _WORD

    def syscall_arguments(self) -> list[int]:
        """See `Engine`."""
        r8, r9, r10, _, _, _, _, _, rdi, rsi, _, _, rdx, rax = self._words[
            self._at : self._at + 14
        ].tolist()
        return [rax, rdi, rsi, rdx, r10, r8, r9]

    def read_fpu(self) -> bytes:
        """See `Engine`."""
        return bytes(self._fpu()[: self.fpu_size])

    def write_fpu(self, area: bytes) -> None:
        """See `Engine`."""
        self._fpu()[: self.fpu_size] = self._xstate.sanitize(area)

    def save(self) -> SavedRegisters:
        """See `Engine`."""
        at, words = self._control.registers, self._words
        return SavedRegisters(
            words[at : at + N_WORDS].tolist(),
            words[layout.FS_BASE],
            words[layout.GS_BASE],
            self.read_fpu(),
        )

    def restore(self, registers: Registers) -> None:
        """See `Engine`."""
        assert isinstance(registers, SavedRegisters), "registers of another engine"
        at, words = self._control.registers, self._words
        for index, value in enumerate(registers.words):
            words[at + index] = value
        words[layout.FS_BASE] = registers.fs_base
        words[layout.GS_BASE] = registers.gs_base
        self._fpu()[: self.fpu_size] = registers.fpu

    # --- execution ---

    def add_breakpoint(self, address: int) -> None:
        """See `Engine`."""
        self._breakpoints.add(address)
        self._breakpoints_changed(address)

    def remove_breakpoint(self, address: int) -> None:
        """See `Engine`."""
        self._breakpoints.remove(address)
        self._breakpoints_changed(address)

    def _breakpoints_changed(self, address: int) -> None:
        self._no_exec = frozenset(at >> PAGE_SHIFT for at in self._breakpoints)
        page = address & PAGE_MASK
        for context in self._contexts:
            context.flush_tlb_range(page, page + PAGE_SIZE)

    def pause(self) -> None:
        """See `Engine`."""
        if self._running:
            self._paused = True

    def interrupt(self) -> None:
        """See `Engine`."""
        self._interrupted = True
        stub = self._current
        if stub is not None:
            stub.interrupt()

    def step(self) -> CpuStop:
        """See `Engine`."""
        return self._run(single_step=True)

    def run(self, max_instructions: int = 0) -> CpuStop:
        """See `Engine`."""
        assert not max_instructions, "this engine counts no instructions"
        return self._run(single_step=False)

    def _run(self, single_step: bool) -> CpuStop:
        context = self._active
        assert context is not None, "no address space is active"
        stub = context.stub or self._enter(context)
        resume_at, self._resume_at = self._resume_at, -1
        self._interrupted = self._paused = False
        self._running = True
        self._current = stub
        try:
            while not self._interrupted:
                stop = self._execute(context, single_step, resume_at)
                if stop is not None:
                    if stop.reason is Stop.BREAKPOINT:
                        self._resume_at = stop.address
                    return stop
                if self.pc != resume_at:
                    resume_at = -1
            return _INTERRUPT_STOP
        finally:
            self._current = None
            self._running = False

    def _execute(self, context: NativeContext, single_step: bool, resume_at: int) -> CpuStop | None:
        """Let the stub execute until it stops; None if the guest is to continue."""
        at = self._at + GENERAL[Reg.EFLAGS]
        words, through_page = self._words, self._open_page
        stepping = single_step or through_page >= 0
        own_flag = words[at] & _TRAP_FLAG
        if stepping:
            words[at] |= _TRAP_FLAG
        self._resume(context)
        signal = self._control.signal
        if stepping and not own_flag:
            self._hide_trap_flag(at)
        if through_page >= 0:
            self._open_page = -1
            context.flush_tlb_range(through_page, through_page + PAGE_SIZE)
        if signal == SIGSYS:
            return self._refused_call()
        if signal == INTERRUPT:
            return _INTERRUPT_STOP
        vector = words[self._at + TRAP]
        if vector == Vector.PAGE_FAULT and signal == SIGSEGV:
            return self._page_fault(context, resume_at)
        if stepping and vector == Vector.DEBUG and signal == SIGTRAP and not own_flag:
            return _INTERRUPT_STOP if single_step else None
        if vector == Vector.GENERAL_PROTECTION and self._read_time():
            return _INTERRUPT_STOP if single_step else None
        if vector == Vector.PAGE_FAULT:
            raise EngineError("the host has no memory left for the frames of the machine")
        return CpuStop(Stop.EXCEPTION, vector=vector)

    def _resume(self, context: NativeContext) -> None:
        """Let the stub make its calls, then execute; return at its next stop."""
        _control, words = self._control, self._words
        stub, calls = context.stub, context.calls
        assert stub is not None
        while len(calls) > MAX_CALLS:
            self._order(stub, calls[:MAX_CALLS], ONLY_CALLS)
            del calls[:MAX_CALLS]
            if words[layout.ERROR]:
                self._drop_all(context)
        self._order(stub, calls, RESUME)
        calls.clear()
        while words[layout.ERROR]:
            # It has not executed, since what it must not have may still be mapped.
            self._drop_all(context)
            self._order(stub, calls, RESUME)

    def _order(self, stub: Stub, calls: list[bytes], then: int) -> None:
        control, words = self._control, self._words
        if calls:
            listed = b"".join(calls)
            control.bytes[CALLS_AT : CALLS_AT + len(listed)] = listed
        # The frame, but for the registers: a guest may have written it (see `control`).
        at = control.registers
        words[at - 3] = stub.base + CODE_SIZE + layout.STACK_AT
        words[at - 2], words[at - 1] = SS_AUTODISARM, layout.STACK_SIZE
        words[at + FPSTATE] = stub.base + CODE_SIZE + control.fpu_at
        words[at - layout.MCONTEXT + layout.SIGMASK] = MASK
        words[layout.ERROR] = 0
        _ORDER.pack_into(control.bytes, 0, stub.key, len(calls), stub.frame, then)
        stub.ring()

    def _drop_all(self, context: NativeContext) -> None:
        """After a call that failed: no mapping was left for it. All go."""
        stub, error = context.stub, self._words[layout.ERROR]
        assert stub is not None
        if error != errno.ENOMEM:
            reason = os.strerror(error)
            raise EngineError(f"a process of the native engine cannot map the RAM: {reason}")
        context.mappings.clear()
        self._order(stub, [munmap(*stub.below), munmap(*stub.above)], ONLY_CALLS)
        if self._words[layout.ERROR]:
            raise EngineError("a process of the native engine cannot give back its mappings")

    def _refused_call(self) -> CpuStop:
        """SIGSYS: a system call, or one by a way that the machine does not have."""
        control, words = self._control, self._words
        address, table = control.system_call()
        if address & PAGE_MASK == _VSYSCALL:
            # The host has returned to the caller already. The machine has no such page.
            words[self._at + GENERAL[Reg.RIP]] = address
            words[self._at + GENERAL[Reg.RSP]] -= 8
            return CpuStop(Stop.PAGE_FAULT, address=address, access=Access.EXECUTE)
        if table != ARCH.syscalls.audit_arch:
            # `int 0x80`: the machine has no 32-bit calls, so the gate is not for user mode.
            words[self._at + GENERAL[Reg.RIP]] = address - _INT_SIZE
            return CpuStop(Stop.EXCEPTION, vector=Vector.GENERAL_PROTECTION)
        stub = self._current
        assert stub is not None
        if stub.base <= address - _INT_SIZE < stub.base + REGION_SIZE:
            return self._in_stub(address - _INT_SIZE)
        return _SYSCALL_STOP

    def _in_stub(self, address: int) -> CpuStop:
        """The guest executes where it has no page."""
        self._words[self._at + GENERAL[Reg.RIP]] = address
        return CpuStop(Stop.PAGE_FAULT, address=address, access=Access.EXECUTE)

    def _page_fault(self, context: NativeContext, resume_at: int) -> CpuStop | None:
        """The stub could not access a page."""
        words = self._words
        address, code = words[self._at + CR2], words[self._at + ERROR_CODE]
        if code & _PF_INSTRUCTION:
            access = Access.EXECUTE
            if self._no_exec and self.pc in self._breakpoints and self.pc != resume_at:
                return CpuStop(Stop.BREAKPOINT, address=self.pc)
        else:
            access = Access.WRITE if code & _PF_WRITE else Access.READ
        self.faults += 1
        ram = self.ram.words
        while not (slot := find_permitted(ram, context.root, address, access)):
            if address >= ADDRESS_LIMIT or not self._on_page_fault(address, access):
                self._beside_stub(context, address)
                return CpuStop(Stop.PAGE_FAULT, address=address, access=access)
            if self._paused:
                return _PAUSE_STOP
        entry = touch(ram, slot, access)
        self._beside_stub(context, address)
        if access is Access.EXECUTE and address >> PAGE_SHIFT in self._no_exec:
            page = self._open_page = address & PAGE_MASK
            prot = rights(entry) & ~Prot.WRITE
            context.calls.append(context.mappings.map_page(page, entry & Pte.FRAME, prot))
        else:
            context.calls += context.mappings.fill(ram, slot, address, self._no_exec)
        return None

    def _beside_stub(self, context: NativeContext, address: int) -> None:
        """A stub whose neighbourhood a guest accesses goes elsewhere, so that it is not found by
        a search, and never lies where the guest has a page."""
        if context.stub is not None and address >> SLOT_SHIFT == context.stub.slot:
            self._move(context)
            self._current = context.stub

    def _hide_trap_flag(self, at: int) -> None:
        """The flag is not the guest's: SYSCALL has copied it too."""
        words = self._words
        words[at] &= ~_TRAP_FLAG
        if self._control.signal == SIGSYS:
            words[self._at + GENERAL[Reg.R11]] &= ~_TRAP_FLAG

    def _read_time(self) -> bool:
        """Execute the instruction at the pointer if it is RDTSC or RDTSCP: nanoseconds of the
        machine's clock, on CPU 0."""
        context = self._active
        assert context is not None
        code = peek(self.ram, context.root, self.pc, 3)
        if code.startswith(_RDTSC):
            size = len(_RDTSC)
        elif code.startswith(_RDTSCP):
            size = len(_RDTSCP)
            self.write(Reg.RCX, 0)
        else:
            return False
        now = self.read_clock()
        self.write(Reg.RAX, now & 0xFFFF_FFFF)
        self.write(Reg.RDX, now >> 32)
        self.write(Reg.RIP, self.pc + size)
        return True


def _check_host() -> int:
    """AT_HWCAP, if the processor and the kernel are what a stub needs. Raises `EngineError`."""
    if os.uname().machine != ARCH.name:
        raise EngineError(f"the native engine needs a processor of {ARCH.name}")
    try:
        with open("/proc/self/auxv", "rb") as file:
            values = parse_auxv(file.read())
    except OSError as error:
        raise EngineError(f"the native engine cannot read /proc/self/auxv: {error}") from None
    if not values.get(Aux.HWCAP2, 0) & _HWCAP2_FSGSBASE:
        raise EngineError("the native engine needs a processor and a kernel with FSGSBASE")
    return values.get(Aux.HWCAP, 0)


def _close(owner: int, stubs: list[Stub], control: Control, ram_fd: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that they belong to ends
    for stub in stubs:
        stub.close()
    control.close()
    os.close(ram_fd)
