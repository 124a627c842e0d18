"""The `Sandbox` on Unicorn, with its Python binding: it has a memory of its own, so nothing of
the engine is needed. The binding takes a tenth of a second to import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import unicorn

from samepage.arch import PAGE_SIZE
from samepage.arch.x86_64.registers import Reg
from samepage.cpu.sandbox import SandboxError
from samepage.cpu.unicorn.registers import NUMBERS


class _Saved:
    def __init__(self, machine: Any) -> None:
        self._machine, self._context = machine, machine.context_save()

    def restore(self) -> None:
        """See `SandboxRegisters`."""
        self._machine.context_restore(self._context)


class UnicornSandbox:
    """See `Sandbox`."""

    def __init__(self, fetch: Callable[[int], bytes]) -> None:
        self._fetch = fetch
        self._own: list[tuple[int, int]] = []
        self.stores: list[tuple[int, int]] = []
        self._machine: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._fill)
        self._machine.hook_add(unicorn.UC_HOOK_MEM_WRITE, self._store)

    def map(self, address: int, data: bytes) -> None:
        """See `Sandbox`."""
        self._own.append((address, address + len(data)))
        self._map(address, data)

    def _map(self, address: int, data: bytes) -> None:
        self._machine.mem_map(address, len(data))
        self._machine.mem_write(address, data)

    def read(self, address: int, size: int) -> bytes:
        """See `Sandbox`."""
        with self._errors():
            return bytes(self._machine.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """See `Sandbox`."""
        with self._errors():
            self._machine.mem_write(address, data)

    def get(self, register: int) -> int:
        """See `Sandbox`."""
        return int(self._machine.reg_read(NUMBERS[register]))

    def set(self, register: int, value: int) -> None:
        """See `Sandbox`."""
        self._machine.reg_write(NUMBERS[register], value)

    def save(self) -> _Saved:
        """See `Sandbox`."""
        return _Saved(self._machine)

    def run(self, address: int, until: int, max_instructions: int) -> int:
        """See `Sandbox`."""
        with self._errors():
            self._machine.emu_start(address, until, count=max_instructions)
        return self.get(Reg.RIP)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except unicorn.UcError as error:
            raise SandboxError(str(error), self.get(Reg.RIP)) from None

    def _fill(self, _machine: Any, _access: int, address: int, size: int, *_: object) -> bool:
        """Fetch the pages of an access."""
        page = address & -PAGE_SIZE
        end = (address + max(size, 1) + PAGE_SIZE - 1) & -PAGE_SIZE
        while page < end:
            try:
                self._map(page, self._fetch(page))
            except OSError:
                return False
            page += PAGE_SIZE
        return True

    def _store(self, _machine: Any, _access: int, address: int, size: int, *_: object) -> None:
        if not any(start <= address < end for start, end in self._own):
            self.stores.append((address, size))
