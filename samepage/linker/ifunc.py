"""Running IFUNC resolvers: the only code of a file that linking has to run.

The address of an IFUNC symbol is what its resolver, a function without arguments,
returns. glibc's resolvers read the CPU's features out of ld.so's data and choose by
them; others ask the CPU itself (CPUID). libc has one whose purpose is its side effect:
it stores the sizes of the caches (`__x86_cacheinfo`).

`SandboxResolver` runs them in a sandbox (`cpu.sandbox`), with the linker's memory behind: a
page is copied in when the code touches it, and when the resolver has returned, what it stored
goes into the linker's memory. A system call, a fault or too many instructions end it with a
`LinkError`. So a resolver can neither see nor change anything but that memory.

A resolver may call other functions, of objects that are relocated already or are just
being. Where their PLT is bound lazily, its GOT leads to `_BIND` (`set_up_lazy_plt`), which
does what ld.so's `_dl_fixup` would: it stores the function's address into the slot and
continues there, by way of the function's own resolver if it has one.

Some resolvers of glibc (`time`, `gettimeofday`) look a symbol up in the vDSO, by way of
ld.so's own lists. `background` is where pages come from that the linker has not mapped:
another process's memory, read-only, with its thread pointer.
"""

from __future__ import annotations

from collections.abc import Callable

from samepage.arch import REG_RESULT, REG_SP, REG_THREAD_POINTER
from samepage.cpu import engines
from samepage.cpu.sandbox import SandboxError
from samepage.linker.errors import Crash, LinkError
from samepage.linker.lazy import LazySlot, lazy_slots
from samepage.linker.link import LinkResult
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE, Memory
from samepage.linker.relocate import Foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.cpu.sandbox import Sandbox, SandboxRegisters

_STACK = 0x100000
_STACK_SIZE = 16 * PAGE
_RETURN = 0x10000
"""An address that no object has: the resolver's `ret` to it ends the run."""
_BIND = 0x20000
"""Another one, of a HLT instruction: a PLT's first call comes to it."""
_BOUND = 0x20010
"""And one where the resolver of such a function returns to."""
_HLT = b"\xf4"

MAX_INSTRUCTIONS = 1_000_000
MAX_CALLS = 100


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
        self._result: LinkResult | None = None
        self._slots: dict[int, list[LazySlot | None]] = {}

    def set_up_lazy_plt(self, link: LinkMap, result: LinkResult) -> None:
        """Give GOT[1] and GOT[2] of an object values that lead here (`Linker.on_lazy`)."""
        self._result = result
        for address, why in result.relocated[link].foreign.items():
            if why is Foreign.LINK_MAP:
                self._memory.write(address, link.index.to_bytes(8, "little"))
            elif why is Foreign.RESOLVER:
                self._memory.write(address, _BIND.to_bytes(8, "little"))

    def __call__(self, address: int) -> int:
        """Run the resolver at `address`. Raises `LinkError` if it does not return."""
        box = engines.sandbox_maker()(self._read)
        box.map(_STACK, bytes(_STACK_SIZE))
        top = _STACK + _STACK_SIZE - PAGE - 8  # as a call leaves it: 8 modulo 16
        box.write(top, _RETURN.to_bytes(8, "little"))
        box.map(_BIND, (_HLT * (_BOUND - _BIND + 1)).ljust(PAGE, b"\0"))
        box.set(REG_SP, top)
        box.set(REG_THREAD_POINTER, self._thread_pointer)
        self.calls += 1
        try:
            end = self._run(box, address)
        except SandboxError as error:
            raise Crash(
                f"the IFUNC resolver at {address:#x} failed at {error.at:#x}: {error}"
            ) from None
        if end != _RETURN:
            raise LinkError(f"the IFUNC resolver at {address:#x} does not return")
        for at, size in dict.fromkeys(box.stores):
            self._keep(at, box.read(at, size))
        return box.get(REG_RESULT)

    def _run(self, box: Sandbox, address: int) -> int:
        """Run from an address until the return, or a place that nothing leads on from; return
        the address that is next."""
        waiting: list[tuple[LazySlot, SandboxRegisters]] = []
        end = address
        # Each round binds a slot or is the end of its resolver, so a round is a call.
        for _ in range(MAX_CALLS):
            end = box.run(address, _RETURN, MAX_INSTRUCTIONS)
            stopped = end - len(_HLT)
            if stopped == _BOUND and waiting:
                slot, registers = waiting.pop()
                address = box.get(REG_RESULT)
                registers.restore()
            elif stopped == _BIND:
                top = box.get(REG_SP)
                number = int.from_bytes(box.read(top + 8, 8), "little")
                found = self._slot(int.from_bytes(box.read(top, 8), "little"), number)
                if found is None or not found.function:
                    return end
                slot, address = found, found.function
                box.set(REG_SP, top + 16)
                if slot.resolver:
                    waiting.append((slot, box.save()))
                    frame = (top - 256) & -16
                    box.write(frame - 8, _BOUND.to_bytes(8, "little"))
                    box.set(REG_SP, frame - 8)
                    continue
            else:
                return end
            word = address.to_bytes(8, "little")
            box.write(slot.place, word)
            box.stores.append((slot.place, len(word)))
        return end

    def _slot(self, index: int, number: int) -> LazySlot | None:
        """A slot by what a PLT entry has pushed: the object's index, and its own number."""
        if self._result is None or index >= len(self._result.maps):
            return None
        if index not in self._slots:
            self._slots[index] = lazy_slots(self._result, self._result.maps[index])
        slots = self._slots[index]
        return slots[number] if number < len(slots) else None

    def _read(self, page: int) -> bytes:
        """A page of the linker's memory, or of the background. Raises `OSError`."""
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
