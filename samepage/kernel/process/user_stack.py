"""The stack that a new program finds: strings, then auxv, envp, argv, argc.

From the top downwards (`fs/exec.c`, `create_elf_tables`):

    7fffffffeff8  8 zero bytes
                  the path given to execve (AT_EXECFN)
                  environment strings, the last one highest
                  argument strings, the last one highest
                  (16-byte alignment)
                  "x86_64" (AT_PLATFORM)
                  16 random bytes (AT_RANDOM), directly below
                  auxv, envp pointers, argv pointers, argc    <- rsp, 16-byte aligned

Strings are written while the old program still runs, into pages of the new address space
that the writes themselves fault in; the stack's VMA grows page by page on the way.
"""

import errno

from samepage.abi.auxv import Aux, build_auxv
from samepage.arch import ARCH, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, STACK_TOP, pte_mkexec
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.uaccess import copy_to_user, put_struct
from samepage.kernel.mm.vma import Vma, VmFlags

STACK_EXPAND = 128 << 10
"""What `setup_arg_pages` adds below the strings (bytes)."""
MAX_ARG_STRLEN = 32 * PAGE_SIZE
_PLATFORM = ARCH.platform + b"\0"


class StackBuilder:
    """The stack of a program that is being started (`linux_binprm`).

    `top` is the address of the lowest byte written so far (`bprm->p`); `limit` how many
    bytes of strings and pointers are allowed.
    """

    def __init__(self, mm: AddressSpace, limit: int) -> None:
        self.mm = mm
        self.limit = limit
        self.execfn = 0
        flags = VmFlags.READ | VmFlags.WRITE | VmFlags.GROWSDOWN | VmFlags.ACCOUNT
        flags |= VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
        self.vma = Vma(STACK_TOP - PAGE_SIZE, STACK_TOP, flags, pgoff=(STACK_TOP >> PAGE_SHIFT) - 1)
        self.mm.vmas.insert(self.vma)
        self.top = STACK_TOP - 8

    def push(self, text: bytes) -> int:
        """Write a string with its NUL below the others; return its address.

        Raises `SysError(E2BIG)` beyond the limit, `SysError(ENOMEM)` without memory.
        """
        if len(text) >= MAX_ARG_STRLEN or STACK_TOP - self.top + len(text) > self.limit:
            raise SysError(errno.E2BIG)
        self.top -= len(text) + 1
        # From the highest page downwards, as copy_strings does: the stack grows that way.
        data = text + b"\0"
        end = self.top + len(data)
        while end > self.top:
            start = max(self.top, (end - 1) & PAGE_MASK)
            copy_to_user(self.mm, start, data[start - self.top : end - self.top])
            end = start
        return self.top

    def push_all(self, strings: list[bytes]) -> None:
        """Write strings so that the first one is lowest (`copy_strings`)."""
        for text in reversed(strings):
            self.push(text)

    def pop(self, text: bytes) -> None:
        """Drop the lowest string, which is `text` (`remove_arg_zero`)."""
        self.top += len(text) + 1

    def finish(self, executable: bool) -> None:
        """Give the VMA its final rights and size (`setup_arg_pages`)."""
        if executable:
            self.vma.flags |= VmFlags.EXEC
            words = self.mm.frames.ram.words
            for _, slot, entry in self.mm.table.present(self.vma.start, self.vma.end):
                words[slot] = pte_mkexec(entry)
        size = min(self.vma.end - self.vma.start + STACK_EXPAND, self.mm.limits.stack & PAGE_MASK)
        start = min(self.vma.start, self.vma.end - size)
        self.mm.vmas.set_start(self.vma, start)


def create_elf_tables(
    stack: StackBuilder,
    argv: list[bytes],
    envp: list[bytes],
    aux: list[tuple[int, int]],
    random_bytes: bytes,
) -> tuple[int, bytes]:
    """Write everything below the strings; return the stack pointer and the auxv bytes.

    `aux` are the entries in their order; RANDOM, EXECFN and PLATFORM, whose values are
    known only here, are filled in.
    """
    mm = stack.mm
    top = stack.top & ~15
    platform = top - len(_PLATFORM)
    copy_to_user(mm, platform, _PLATFORM)
    random_at = platform - len(random_bytes)
    copy_to_user(mm, random_at, random_bytes)
    found = {Aux.RANDOM: random_at, Aux.EXECFN: stack.execfn, Aux.PLATFORM: platform}
    auxv = build_auxv((kind, found.get(kind, value)) for kind, value in aux)
    n_pointers = 1 + len(argv) + 1 + len(envp) + 1
    # Rounded once, at the end (`STACK_ADD`, `STACK_ROUND`): the random bytes are unaligned.
    sp = random_at - 8 * n_pointers - len(auxv) & ~15
    layout = mm.layout
    layout.arg_start = address = stack.top
    pointers = [len(argv)]
    for strings in (argv, envp):
        for text in strings:
            pointers.append(address)
            address += len(text) + 1
        pointers.append(0)
        if strings is argv:
            layout.arg_end = layout.env_start = address
    layout.env_end = address
    put_struct(mm, sp, f"<{len(pointers)}Q", *pointers)
    copy_to_user(mm, sp + 8 * n_pointers, auxv)
    return sp, auxv
