"""The first thread's static TLS: its blocks, and the control block above them.

The thread pointer addresses the control block (`tcbhead_t`), which begins with its own
address; code compiled with -fstack-protector finds its guard there. The blocks lie below,
at the distances that the linker has laid out. All of it is one allocation, as in
`_dl_allocate_tls_storage`; the initial values come in after relocation, which may have
changed them (`_dl_allocate_tls_init`). Source: glibc 2.36, elf/dl-tls.c and
sysdeps/x86_64/nptl/tls.h.
"""

import struct
from dataclasses import dataclass

from samepage.abi.auxv import Aux, parse_auxv
from samepage.abi.prctl import ARCH_SET_FS
from samepage.arch import Sys
from samepage.linker.maps import LinkMap
from samepage.linker.tls import TCB_SIZE, TlsLayout
from samepage.machine.loader.heap import Heap
from samepage.machine.loader.user_side import UserSide

TCB_SELF = 16
STACK_GUARD, POINTER_GUARD = 40, 48


@dataclass(slots=True)
class ThreadBlock:
    """The allocated block of the first thread.

    `pointer` is the thread pointer; `size` is the static size with the control block.
    """

    pointer: int
    size: int
    align: int


def allocate(user: UserSide, heap: Heap, layout: TlsLayout) -> ThreadBlock:
    """Allocate the block, and let %fs point to its control block."""
    size = layout.size
    allocated = heap.allocate(size + layout.align + 8)
    pointer = -(-allocated // layout.align) * layout.align + size - TCB_SIZE
    user.store_word(pointer + TCB_SIZE, allocated)  # what would be freed
    user.store_word(pointer, pointer)
    user.store_word(pointer + TCB_SELF, pointer)
    user.syscall(Sys.ARCH_PRCTL, ARCH_SET_FS, pointer)
    return ThreadBlock(pointer, size, layout.align)


def set_guards(user: UserSide, block: ThreadBlock) -> tuple[int, int]:
    """Store the stack guard and the pointer guard, out of AT_RANDOM; return both."""
    random = parse_auxv(user.task.process.auxv)[Aux.RANDOM]
    stack, pointer = struct.unpack("<QQ", user.load(random, 16))
    stack &= ~0xFF  # a string that runs over cannot contain the guard
    user.store_word(block.pointer + STACK_GUARD, stack)
    user.store_word(block.pointer + POINTER_GUARD, pointer)
    return stack, pointer


def initialize(user: UserSide, block: ThreadBlock, maps: list[LinkMap]) -> None:
    """Copy the initial values of each object's block. The rest is zero already."""
    for link in maps:
        tls = link.object.tls
        if tls is not None and link.tls_offset and tls.filesz:
            image = user.load(link.base + tls.vaddr, tls.filesz)
            user.store(block.pointer - link.tls_offset, image)
