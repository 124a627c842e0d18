"""The architecture of the guests, under Linux's names. What there is, and how to add another one:
`arch.py`.
"""

from samepage.arch.arch import Access, Arch
from samepage.arch.x86_64 import X86_64
from samepage.arch.x86_64.syscalls import Sys

__all__ = ("ARCH", "Access", "Sys")

ARCH: Arch = X86_64
_paging, _layout, _registers = ARCH.paging, ARCH.layout, ARCH.registers

# --- pages and page tables ---

PAGE_SHIFT = _paging.page_shift
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = ~(PAGE_SIZE - 1)
LEVEL_SHIFTS = _paging.level_shifts
PTRS_PER_TABLE = PAGE_SIZE // 8
PMD_SHIFT = LEVEL_SHIFTS[-1]
PMD_SIZE = 1 << PMD_SHIFT
"""The bytes of virtual memory that one last-level table spans."""
FRAME_MASK = _paging.frame_mask
TABLE_FLAGS = _paging.table_flags
PROTECTION_MAP = _paging.protection_map
PERMIT_MASK, PERMIT_VALUE, TOUCH = _paging.permit_mask, _paging.permit_value, _paging.touch
_MODIFY_KEEPS = FRAME_MASK | _paging.modify_keeps

pte_valid = _paging.pte_valid
pte_write = _paging.pte_write
pte_dirty = _paging.pte_dirty
pte_young = _paging.pte_young
pte_mkwrite = _paging.pte_mkwrite
pte_wrprotect = _paging.pte_wrprotect
pte_mkdirty = _paging.pte_mkdirty
pte_mkclean = _paging.pte_mkclean
pte_mkyoung = _paging.pte_mkyoung
pte_mkold = _paging.pte_mkold
pte_mkexec = _paging.pte_mkexec


def pte_pfn(entry: int) -> int:
    """The frame that an entry maps, or the next table."""
    return (entry & FRAME_MASK) >> PAGE_SHIFT


def mk_pte(pfn: int, flags: int) -> int:
    """An entry that maps a frame, with flags of `PROTECTION_MAP`."""
    return pfn << PAGE_SHIFT | flags


def pte_modify(entry: int, flags: int) -> int:
    """The same page, accessed and dirty as it was, with the rights of `flags`."""
    return entry & _MODIFY_KEEPS | flags


def pte_permits(entry: int, access: Access) -> bool:
    """Whether user mode may access a page through the entry."""
    return entry & PERMIT_MASK[access] == PERMIT_VALUE[access]


# --- the user space ---

ADDRESS_LIMIT = _layout.address_limit
TASK_SIZE = _layout.task_size
STACK_TOP = _layout.stack_top
TASK_UNMAPPED_BASE = _layout.unmapped_base
ELF_ET_DYN_BASE = _layout.elf_et_dyn_base
LOW_START, LOW_END = _layout.low_range
mmap_base = _layout.mmap_base

# --- registers ---

REG_PC, REG_SP, REG_RESULT = _registers.pc, _registers.sp, _registers.result
REG_THREAD_POINTER = _registers.thread_pointer
REG_SYSCALL = _registers.syscall_number
SYSCALL_REGISTERS = (REG_SYSCALL, *_registers.syscall_arguments)
SYSCALL_SIZE = _registers.syscall_size
ARGUMENTS = _registers.arguments


def syscall_name(number: int) -> str:
    """The name of a system call, `syscall_N` if the architecture has none of that number."""
    for name, value in vars(Sys).items():
        if value == number:
            return name.lower()
    return f"syscall_{number}"
