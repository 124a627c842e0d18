"""Running IFUNC resolvers: the only code of a file that linking has to run.

The address of an IFUNC symbol is what its resolver, a function without arguments,
returns. glibc's resolvers read the CPU's features out of ld.so's data and choose by
them; others ask the CPU itself (CPUID). libc has one whose purpose is its side effect:
it stores the sizes of the caches (`__x86_cacheinfo`).

`SandboxResolver` runs them on Unicorn, with the linker's memory behind: a page is copied
in when the code touches it, and when the resolver has returned, what it stored goes into
the linker's memory. A system call, a fault or too many instructions end it with a
`LinkError`. So a resolver can neither see nor change anything but that memory.

Some resolvers of glibc (`time`, `gettimeofday`) look a symbol up in the vDSO, by way of
ld.so's own lists. `background` is where pages come from that the linker has not mapped:
another process's memory, read-only, with its thread pointer.
"""

from collections.abc import Callable
from typing import Any

from samepage.linker.errors import LinkError
from samepage.linker.memory import PAGE, Memory

_STACK = 0x100000
_STACK_SIZE = 16 * PAGE
_RETURN = 0x10000
"""An address that no object has: the resolver's `ret` to it ends the run."""

MAX_INSTRUCTIONS = 1_000_000


class SandboxResolver:
    """Calls resolvers in `memory`; an instance is an `IfuncResolver`."""

    def __init__(
        self,
        memory: Memory,
        background: Callable[[int, int], bytes] | None = None,
        thread_pointer: int = 0,
    ) -> None:
        self._memory = memory
        self._background = background
        self._thread_pointer = thread_pointer
        self.frozen = (0, 0)
        """A range of addresses that keeps its bytes, whatever a resolver stores there."""
        self.calls = 0

    def __call__(self, address: int) -> int:
        """Run the resolver at `address`. Raises `LinkError` if it does not return."""
        # Unicorn takes a tenth of a second to import, and few links need it.
        import unicorn
        from unicorn import x86_const as x86

        machine: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        machine.mem_map(_STACK, _STACK_SIZE)
        top = _STACK + _STACK_SIZE - PAGE
        machine.mem_write(top, _RETURN.to_bytes(8, "little"))
        machine.reg_write(x86.UC_X86_REG_RSP, top)
        machine.reg_write(x86.UC_X86_REG_FS_BASE, self._thread_pointer)
        machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._fill)
        stores: list[tuple[int, int]] = []
        machine.hook_add(
            unicorn.UC_HOOK_MEM_WRITE,
            lambda _uc, _access, at, size, *_: stores.append((at, size)),
            begin=_STACK + _STACK_SIZE,
            end=(1 << 64) - 1,
        )
        self.calls += 1
        try:
            machine.emu_start(address, _RETURN, count=MAX_INSTRUCTIONS)
        except unicorn.UcError as error:
            at = machine.reg_read(x86.UC_X86_REG_RIP)
            raise LinkError(
                f"the IFUNC resolver at {address:#x} failed at {at:#x}: {error}"
            ) from None
        if machine.reg_read(x86.UC_X86_REG_RIP) != _RETURN:
            raise LinkError(f"the IFUNC resolver at {address:#x} does not return")
        for at, size in dict.fromkeys(stores):
            self._keep(at, bytes(machine.mem_read(at, size)))
        return int(machine.reg_read(x86.UC_X86_REG_RAX))

    def _fill(self, machine: Any, _access: int, address: int, size: int, *_: object) -> bool:
        """Copy the pages of an access in from the linker's memory."""
        page = address & -PAGE
        end = (address + max(size, 1) + PAGE - 1) & -PAGE
        while page < end:
            try:
                data = self._read(page)
            except OSError:
                return False
            machine.mem_map(page, PAGE)
            machine.mem_write(page, data)
            page += PAGE
        return True

    def _read(self, page: int) -> bytes:
        try:
            return self._memory.read(page, PAGE)
        except OSError:
            if self._background is None:
                raise
            data = self._background(page, PAGE)
            if len(data) < PAGE:
                raise
            return data

    def _keep(self, address: int, data: bytes) -> None:
        """Keep what a resolver stored, unless it is in memory that is not the linker's."""
        if self.frozen[0] <= address < self.frozen[1]:
            return
        try:
            self._memory.read(address, len(data))
        except OSError:
            return
        self._memory.write(address, data)
