"""What executes the guests' instructions, as the kernel knows it.

An engine has physical memory, and one CPU in user mode whose page tables lie in that memory.
The kernel decides every mapping, fault, copy and system call; the engine executes instructions
until the kernel is needed. The shape is gVisor's (`platform.Context`, `platform.AddressSpace`):
an engine never sees a file, a process or a system call's meaning, and the kernel never sees how
an instruction is executed.

What every engine keeps, so that all of them give the same pages:

- The page tables in RAM are the truth. A translation that the engine caches (a TLB, or mappings
  of a process that executes the guest natively) gives no more rights than the entry it was made
  from, and none that would let an accessed or a dirty bit go missing: an entry that is not dirty
  is not writable in the cache, so that the first write comes to the engine.
- Entries are added, and get more rights, without a call: the engine finds them at the access.
  What is taken away is announced (`MmuContext.flush_tlb_range`).
- The CPU is one: no instruction is executed but inside of `run` and `step`.

`cpu.engines` makes an engine by its name; nothing else knows which there are. The kernel's own
accesses to memory do not come here: they go through the page tables (`kernel/mm/uaccess.py`).
"""

from __future__ import annotations

import enum

from samepage.arch import Access
from samepage.errors import SamepageError
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from samepage.cpu.ram import Ram


class EngineError(SamepageError):
    """An engine is not installed, does not run on this host, or was refused what it needs."""


class Stop(enum.Enum):
    """Why the CPU came back to the kernel."""

    SYSCALL = "syscall"
    """A system call: the instruction pointer is after the instruction."""
    PAGE_FAULT = "page fault"
    """One that the page fault handler did not resolve; the pointer is on the instruction."""
    EXCEPTION = "exception"
    """Any other exception of the processor, by its vector."""
    BREAKPOINT = "breakpoint"
    """Before an instruction with a breakpoint."""
    INTERRUPT = "interrupt"
    """`interrupt` was called, or the instructions that were allowed are used up."""
    PAUSE = "pause"
    """Nothing happened: `pause` was called, or the engine had to see to something. The kernel
    may look after what it wants, and call `run` again."""


@record
class CpuStop:
    """What happened. `address` and `access` are those of a page fault (CR2: the first byte that
    could not be accessed), `address` also that of a breakpoint; `vector` is
    the number of an exception (`arch.Traps`).
    """

    reason: Stop
    address: int = 0
    access: Access = Access.READ
    vector: int = 0


if TYPE_CHECKING:
    PageFaultHandler = Callable[[int, Access], bool]
    """Called with the address of an access that the tables do not permit, in the active address
    space, from within `run`. It answers True if the tables were changed so that the access may be
    tried again, False if the guest is to stop with `Stop.PAGE_FAULT`.

    An engine asks it only about user addresses (below `arch.ADDRESS_LIMIT`), and once for each
    attempt of an instruction, as the hardware would fault: an instruction that reads an operand to
    write it back is a write. The handler may call `pause`, `flush_icache` and `flush_tlb_range`,
    and no other method; what it raises leaves `run` once the engine can be run again."""

    MakeEngine = Callable[[int, PageFaultHandler], "Engine"]
    """Makes an engine with that many bytes of RAM. Raises `ValueError` for a size that is too
    small, `OSError` or `OverflowError` for one that the host refuses, and `EngineError`."""

    class Registers(Protocol):
        """A saved set of all registers: general, floating-point and vector ones, flags.

        It belongs to the engine that made it, and does not change when the CPU continues.
        """

        def read(self, register: int) -> int:
            """A general register of the set, by its number (`arch.Registers`)."""

        def write(self, register: int, value: int) -> None:
            """Change a general register of the set."""

    class MmuContext(Protocol):
        """One address space of a guest, as the engine knows it (Linux's `mm->context`).

        Made with `Engine.new_context` when its top table exists, and released before that table
        is given back. The entries of the kernel's half of the top table (256 to 511) are the
        engine's to fill in; the kernel neither reads nor writes them.
        """

        def activate(self) -> None:
            """Execute in this address space from the next `run` on, as a load of CR3 does.

            Not from within `run`, and not once it is released.
            """

        def flush_tlb_range(self, start: int, end: int) -> None:
            """Entries for addresses in [start, end) lost rights, their accessed or dirty bit, or
            their page, or lead to another frame now. Page-aligned; a multiple of the page size.

            In effect before the guest's next instruction, and no sooner: the entries are read
            again then, so it may be called before or after they are changed. From within a page
            fault it makes `run` return (`Stop.PAUSE`) where the engine must, which for the page
            at fault itself, whose translation is made anew in any case, it need not.
            """

        def release(self) -> None:
            """The address space is gone: forget it. Call no method of the context afterwards.

            It may be the active one; then another one is activated before the next `run`.
            """

    class Engine(Protocol):
        """One CPU in user mode, with its memory. Not for several threads, but for `interrupt`."""

        @property
        def name(self) -> str:
            """The name that `cpu.engines.make_engine` knows it by."""

        @property
        def ram(self) -> Ram:
            """The physical memory. What it is made of is the engine's choice."""

        @property
        def counts_instructions(self) -> bool:
            """Whether `run` can be limited, and `executed` is known. If not, call neither."""

        splits_updates: bool
        """Whether an instruction that updates memory (`andb $1, (mem)`, without `lock`) may take a
        fault for its load and then one for its store. A processor takes one, for the store; a
        host whose CPU is itself emulated, two. An engine that executes on the host's CPU does as
        that does."""
        read_clock: Callable[[], int]
        """The kernel sets it: nanoseconds since boot, of its clock. An engine that can answer
        the guests' reading of a time stamp counter takes that from here."""

        @property
        def hwcap(self) -> int:
            """What the guests' CPUID answers in EDX of leaf 1 (AT_HWCAP of x86-64)."""

        @property
        def running(self) -> bool:
            """Inside of `run`: a signal handler must not raise an exception now, which could
            come out amid the engine's own code."""

        # --- address spaces ---

        def new_context(self, root: int) -> MmuContext:
            """Begin an address space whose top table is the frame `root`."""

        def flush_icache(self, pfn: int) -> None:
            """The content of a frame is about to change, or has, other than by the guest: code
            that was translated or cached from it is void. As `flush_tlb_range`: in effect before
            the guest's next instruction; may make `run` return. Called often: for each frame that
            is allocated anew, and each that the kernel writes user data to."""

        # --- registers ---

        @property
        def pc(self) -> int:
            """The address of the instruction that executes, or is next to execute."""

        def read(self, register: int) -> int:
            """A general register, by its number (`arch.Registers`)."""

        def write(self, register: int, value: int) -> None:
            """Set a general register to a value of 64 bits. Not from within `run`."""

        def syscall_arguments(self) -> list[int]:
            """The number and the six arguments of a system call, as the psABI places them
            (appendix A.2): seven registers, read at once."""

        @property
        def fpu_size(self) -> int:
            """The bytes of `read_fpu`."""

        def read_fpu(self) -> bytes:
            """The floating-point and vector registers as a signal frame has them: the area that
            FXSAVE64 writes (512 bytes), or of a CPU with XSAVE its whole standard-format area
            with the software bytes, without the mark at its end."""

        def write_fpu(self, area: bytes) -> None:
            """Load an area of `fpu_size` bytes. It comes from the guest's memory: bits that the
            CPU does not allow are dropped, not refused."""

        def save(self) -> Registers:
            """All registers, for `restore`."""

        def restore(self, registers: Registers) -> None:
            """Load a set that `save` of this engine returned; it can be loaded again."""

        # --- execution ---

        def run(self, max_instructions: int = 0) -> CpuStop:
            """Execute in the active address space until the kernel is needed.

            At most `max_instructions` (0: no limit) if the engine `counts_instructions`. An
            exception of the processor is reported as the hardware does: with the instruction
            pointer on the instruction for a fault, after it for a trap. A breakpoint that the last
            run stopped at lets this one pass. Raises what the page fault handler raised, and
            `EngineError`.
            """

        def step(self) -> CpuStop:
            """The same, for one instruction at most: `Stop.INTERRUPT` if nothing else came."""

        @property
        def executed(self) -> int:
            """How many instructions the last `run` with a limit executed."""

        def pause(self) -> None:
            """From within a page fault: make `run` return with `Stop.PAUSE` once the fault is
            resolved, before the instruction at fault is executed. Elsewhere it does nothing."""

        def interrupt(self) -> None:
            """Make `run` return soon, between two instructions, with `Stop.INTERRUPT`. The only
            method for other threads and for signal handlers; without effect outside of `run`."""

        def cpu_time_ns(self) -> int:
            """The CPU time that the host has spent on executing the guests, in the calling
            thread and wherever else the engine works. Only differences have a meaning."""

        def add_breakpoint(self, address: int) -> None:
            """Stop each time before the instruction at `address` is executed, in any address
            space, and before its page is fetched; memory is not changed. An address has one at
            most: to add it again changes nothing."""

        def remove_breakpoint(self, address: int) -> None:
            """Undo `add_breakpoint`."""
