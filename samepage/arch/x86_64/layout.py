"""The user space of x86-64 with four-level tables (arch/x86/include/asm/page_64_types.h,
processor.h and elf.h; arch/x86/mm/mmap.c)."""

from samepage.arch.arch import STACK_GUARD_PAGES, Layout
from samepage.arch.x86_64.paging import PAGE_SIZE

ADDRESS_LIMIT = 1 << 47
"""The end of the lower canonical half: user space lies below."""
KERNEL_SPACE = 0xFFFF_8000_0000_0000
"""The begin of the upper half. Addresses between the two are not canonical: an access to one is
no page fault, but a general protection fault (Intel SDM volume 1, 3.3.7.1)."""
TASK_SIZE = ADDRESS_LIMIT - PAGE_SIZE
"""`TASK_SIZE_MAX`."""
STACK_TOP = TASK_SIZE
_MIN_GAP = 128 << 20


def mmap_base(stack_limit: int) -> int:
    """`mmap_base` in arch/x86/mm/mmap.c."""
    gap = max(stack_limit + STACK_GUARD_PAGES * PAGE_SIZE, _MIN_GAP)
    gap = min(gap, STACK_TOP // 6 * 5)
    return _page_align(STACK_TOP - gap)


def _page_align(address: int) -> int:
    return (address + PAGE_SIZE - 1) & -PAGE_SIZE


LAYOUT = Layout(
    address_limit=ADDRESS_LIMIT,
    task_size=TASK_SIZE,
    stack_top=STACK_TOP,
    unmapped_base=_page_align(TASK_SIZE // 3),
    elf_et_dyn_base=TASK_SIZE // 3 * 2 & -PAGE_SIZE,
    low_range=(0x4000_0000, 0x8000_0000),
    mmap_base=mmap_base,
)
