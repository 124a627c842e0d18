"""Running IFUNC resolvers: the only code of a file that linking has to run.

The address of an IFUNC symbol is what its resolver, a function without arguments,
returns. glibc's resolvers read the CPU's features out of ld.so's data and choose by
them; others ask the CPU itself (CPUID). `SandboxResolver` runs them on Unicorn, with
the linker's memory behind: a page is copied in when the code touches it, what the code
writes is thrown away afterwards, and a system call, a fault or too many instructions
end it with a `LinkError`. So a resolver can neither see nor change anything else.
"""

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

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
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
        machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._fill)
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
        return int(machine.reg_read(x86.UC_X86_REG_RAX))

    def _fill(self, machine: Any, _access: int, address: int, size: int, *_: object) -> bool:
        """Copy the pages of an access in from the linker's memory."""
        page = address & -PAGE
        end = (address + max(size, 1) + PAGE - 1) & -PAGE
        while page < end:
            try:
                data = self._memory.read(page, PAGE)
            except OSError:
                return False
            machine.mem_map(page, PAGE)
            machine.mem_write(page, data)
            page += PAGE
        return True
