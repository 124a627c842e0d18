"""`Arch`: everything that depends on the architecture of the guests, on one page.

The model executes programs of one architecture in a process, as a Linux kernel is compiled for
one. `samepage.arch` exports its values under the names that Linux has for them, as the link
`asm` does in Linux's tree; everything outside of `samepage/arch` and of the engines takes them
from there, and names no register, address or bit of an entry itself.

To add an architecture:

1. Make a package beside `x86_64` with a module for each record below, and its `Arch` in
   `__init__.py`. Sources: arch/NAME/include of Linux, the psABI, the processor's manual. A field
   that the architecture does not have is no reason for a default: find out what Linux does.
2. Let `samepage/arch/__init__.py` choose it.
3. Give an engine its registers (`cpu/unicorn/registers.py`) and what it must work around.
4. `elf/machines.py` has its relocations already; the linker's rules are in `linker/tls.py`,
   `linker/lazy.py` and `linker/search.py`.
5. Run `tests/arch`, then the C oracles of `tests/kernel` natively on such a machine.
"""

from __future__ import annotations

import enum

from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


STACK_GUARD_PAGES = 256
"""`stack_guard_gap` of mm/mmap.c, the same on every architecture."""


class Access(enum.IntEnum):
    """What an instruction wants of a page."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


@record(frozen=True)
class PageTableFormat:
    """Tables of 64-bit entries, one frame each; an empty entry is 0 in all of them.

    An entry of the last level maps a page or is empty; there are no others, since nothing is
    swapped. So "not 0" is what Linux calls `pte_present`. One of a PROT_NONE range is not 0 and
    not valid: the page stays, and every access faults.
    """

    page_shift: int
    level_shifts: tuple[int, ...]
    """Of the levels above the last, from the top: the bit of an address where the number of an
    entry begins. The one of the last level is `page_shift`."""
    frame_mask: int
    """The bits of any entry that hold the physical address of a frame or of the next table."""
    table_flags: int
    """What an entry that points to the next table has beside the address; the last level decides
    on access."""
    protection_map: tuple[int, ...]
    """By PROT_READ | PROT_WRITE | PROT_EXEC: the flags of a new entry, not writable and accessed
    (`protection_map` with `pte_mkyoung`, as `vm_get_page_prot` gives them). To be written to,
    an entry needs `pte_mkwrite`: in most mappings a fault decides on that."""
    modify_keeps: int
    """What `pte_modify` keeps of an entry beside the frame: its accessed and dirty bits."""
    permit_mask: tuple[int, int, int]
    permit_value: tuple[int, int, int]
    """By `Access`: user mode is permitted it by an entry whose bits of the mask are the value."""
    touch: tuple[int, int, int]
    """By `Access`: the bits that the processor sets before a permitted access."""
    pte_valid: Callable[[int], bool]
    """Whether the processor translates through the entry (`_PAGE_PRESENT`, PTE_VALID)."""
    pte_write: Callable[[int], bool]
    pte_dirty: Callable[[int], bool]
    pte_young: Callable[[int], bool]
    pte_mkwrite: Callable[[int], int]
    pte_wrprotect: Callable[[int], int]
    pte_mkdirty: Callable[[int], int]
    pte_mkclean: Callable[[int], int]
    pte_mkyoung: Callable[[int], int]
    pte_mkold: Callable[[int], int]
    pte_mkexec: Callable[[int], int]


@record(frozen=True)
class Layout:
    """The addresses of user space (arch/*/include/asm/processor.h, asm/elf.h). Bytes."""

    address_limit: int
    """User addresses lie below; an access to one above cannot be the kernel's to resolve."""
    task_size: int
    """TASK_SIZE: mappings end here at the latest."""
    stack_top: int
    unmapped_base: int
    """TASK_UNMAPPED_BASE: where the bottom-up area begins."""
    elf_et_dyn_base: int
    """Where a position-independent program with an interpreter goes."""
    low_range: tuple[int, int]
    """The range of MAP_32BIT."""
    mmap_base: Callable[[int], int]
    """Where the top-down area begins, by the limit of the stack, without randomisation."""


@record(frozen=True)
class Registers:
    """The registers that code outside of an architecture needs, by number."""

    names: Mapping[str, int]
    """All that the kernel knows by name."""
    pc: int
    sp: int
    thread_pointer: int
    result: int
    """Of a system call, and of a function."""
    arguments: tuple[int, ...]
    """Of a function (psABI)."""
    syscall_number: int
    syscall_arguments: tuple[int, ...]
    syscall_size: int
    """Bytes of the instruction: a restarted call goes back by so many."""


@record(frozen=True)
class SyscallTable:
    """System calls: `numbers` has an attribute for each, by its name in capitals."""

    numbers: type[Any]
    audit_arch: int
    """AUDIT_ARCH_*: how seccomp and SIGSYS name this table."""


@record(frozen=True)
class SignalContext:
    """What a signal frame keeps of the interrupted code: all that sigreturn puts back."""

    registers: tuple[int, ...]
    """In the order of `SignalFrame.registers`."""
    blocked: int
    stack: tuple[int, int, int]
    """The alternate stack: base, flags, size."""
    fpstate: int
    """The address of the floating-point registers; 0 if there are none."""
    trap: tuple[int, int, int] = (0, 0, 0)
    """Error code, number and address of the last exception."""


@record(frozen=True)
class SignalFrame:
    """`struct rt_sigframe`, and how a handler is entered."""

    registers: tuple[int, ...]
    """In the order of the frame."""
    red_zone: int
    """Bytes below the stack pointer that belong to the interrupted function."""
    legacy_fpu_size: int
    """An area of the floating-point registers of this size has no mark at its end."""
    fpu_mark_size: int
    fpu_mark: Callable[[bytes], bytes]
    """From an area of the floating-point registers: what Linux writes at its end."""
    size: int
    """Bytes of the frame up to the siginfo, which follows it."""
    place: Callable[[int, int], tuple[int, int]]
    """From the stack pointer and the size of the floating-point area: the addresses of the
    frame, and of that area."""
    pack: Callable[[int, SignalContext], bytes]
    """From the restorer's address, and what is to be kept: the frame without the siginfo."""
    unpack: Callable[[bytes], SignalContext]
    enter: Callable[[int, int, int], dict[int, int]]
    """From the frame's address, the handler's, and the signal: the registers that are set."""
    at_return: Callable[[int], int]
    """From the stack pointer at sigreturn: the frame's address."""
    restored: Callable[[int, int, int], int]
    """From a register's number, its value now, and the frame's: what sigreturn puts into it.
    Flags that user mode may not set stay."""


@record(frozen=True)
class CoreDump:
    """What core dumps have of a thread."""

    registers: tuple[int, ...]
    pack: Callable[[tuple[int, ...], int], bytes]
    """From the values of `registers`, and the number of the system call in progress (-1 if there
    is none): `elf_gregset_t`."""
    fpu_size: int
    """Bytes of the floating-point area that NT_PRFPREG has."""


@record(frozen=True)
class Traps:
    """Exceptions of the processor, by their numbers (`CpuStop.vector`)."""

    signals: Mapping[int, tuple[int, int]]
    """Signal and `si_code`."""
    other: tuple[int, int]
    """Those of all exceptions that are not in `signals`."""
    page_fault: int
    fault_error_code: Callable[[Access, bool], int]
    """From the access, and whether the entry was valid: the error code of a page fault."""


@record(frozen=True)
class Arch:
    """One architecture.

    The vDSO is not here: its image is the host's, and its data are laid out by lib/vdso, which
    all architectures share (`kernel/process/vdso.py`).
    """

    name: str
    """`uname -m`."""
    elf_machine: int
    platform: bytes
    """What AT_PLATFORM points to."""
    dlinfo: tuple[int, ...]
    """The keys of the auxiliary vector that come first (ARCH_DLINFO)."""
    paging: PageTableFormat
    layout: Layout
    registers: Registers
    syscalls: SyscallTable
    signal_frame: SignalFrame
    core_dump: CoreDump
    traps: Traps
