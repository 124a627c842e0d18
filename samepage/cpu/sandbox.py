"""Executing single functions without a kernel: what a linker needs for IFUNC resolvers.

A `Sandbox` has memory that is filled page by page when the code touches it, and executes from an
address up to another one. A system call, a fault or too many instructions end it with
`SandboxError`. `cpu.engines.sandbox_maker` returns what makes one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol


class SandboxError(Exception):
    """The code did what it cannot do here; `at` is the address of the instruction."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


if TYPE_CHECKING:

    class SandboxRegisters(Protocol):
        """A saved set of registers."""

        def restore(self) -> None:
            """Load it."""

    class Sandbox(Protocol):
        """Registers and memory of its own; `stores` is what the code has stored outside of
        the pages that `map` gave, as (address, bytes), in its order."""

        stores: list[tuple[int, int]]

        def map(self, address: int, data: bytes) -> None:
            """Give a page-aligned range its content, before the code touches it."""

        def read(self, address: int, size: int) -> bytes:
            """Read memory that is there. Raises `SandboxError`."""

        def write(self, address: int, data: bytes) -> None:
            """Write memory that is there. Raises `SandboxError`."""

        def get(self, register: int) -> int:
            """A general register (`Reg`)."""

        def set(self, register: int, value: int) -> None:
            """Set a general register."""

        def save(self) -> SandboxRegisters:
            """All registers."""

        def run(self, address: int, until: int, max_instructions: int) -> int:
            """Execute from `address` to `until`, to a HLT instruction, or for so many
            instructions; return the address that is next. Raises `SandboxError`."""

    MakeSandbox = Callable[[Callable[[int], bytes]], Sandbox]
    """Makes a sandbox; the argument returns the content of a page by its address, or raises
    `OSError` if there is none."""
