"""From a system call number to the function that does it.

A handler is declared with `@syscall(Sys.NAME)` in one of the modules of this package. Its
first parameter is the task; the others get the raw registers, converted as their
annotations request: `I32`, `U32` and `I64` are what C's `int`, `unsigned` and `long` are, and
a plain `int` is the unsigned 64-bit value (a pointer or a `size_t`).

A handler returns a non-negative int, raises `SysError`, or is a generator that yields
while it must wait (see `process.task`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from samepage.arch import syscall_name
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from samepage.kernel.process.task import SyscallResult, Task

    _F = TypeVar("_F", bound=Callable[..., SyscallResult])

I32 = int
U32 = int
I64 = int
"""What C's types are for the type checker. `syscall` reads their names."""


def _i32(value: int) -> int:
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def _u32(value: int) -> int:
    return value & 0xFFFF_FFFF


def _i64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_CONVERTERS: dict[str, Callable[[int], int]] = {"I32": _i32, "U32": _u32, "I64": _i64}

_MODULES = (
    "memory",
    "paths",
    "files",
    "descriptors",
    "threads",
    "limits",
    "system",
    "futexes",
    "times",
    "signals",
    "identity",
    "processes",
    "mappings",
    "xattrs",
    "polling",
    "epoll",
    "eventfds",
    "shm",
    "timers",
    "scheduling",
    "transfers",
    "sockets",
    "mempolicy",
    "seccomp",
    "advice",
)
"""The modules of handlers, those that every program needs first. They are imported in this
order up to the one that has the call: a short program does not wait for all of them."""


@record(frozen=True)
class Handler:
    """A system call that the kernel has. `converters` is None where no argument needs one."""

    function: Callable[..., SyscallResult]
    n_arguments: int
    converters: tuple[tuple[int, Callable[[int], int]], ...]

    def call(self, task: Task, registers: list[int]) -> SyscallResult:
        """Do it; `registers` are the number and the six arguments."""
        arguments = registers[1 : 1 + self.n_arguments]
        for index, convert in self.converters:
            arguments[index] = convert(arguments[index])
        return self.function(task, *arguments)


HANDLERS: dict[int, Handler] = {}
_not_imported = list(reversed(_MODULES))


def syscall(*numbers: int) -> Callable[[_F], _F]:
    """Declare a handler for one or more numbers."""

    def register(function: _F) -> _F:
        types = function.__annotations__
        assert type(types["return"]) is str, "a module of handlers defers its annotations"
        names = function.__code__.co_varnames[1 : function.__code__.co_argcount]
        converters = tuple(
            (index, _CONVERTERS[types[name]])
            for index, name in enumerate(names)
            if types[name] in _CONVERTERS
        )
        handler = Handler(function, len(names), converters)
        for number in numbers:
            assert number not in HANDLERS, f"{syscall_name(number)} has two handlers"
            HANDLERS[number] = handler
        return function

    return register


def find_handler(number: int) -> Handler | None:
    """The handler of a system call, None if the kernel does not have it."""
    while number not in HANDLERS and _not_imported:
        importlib.import_module(f"samepage.kernel.syscalls.{_not_imported.pop()}")
    return HANDLERS.get(number)
