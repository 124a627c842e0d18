"""The instants at which a program is stopped and looked at, on whichever side it runs.

`main` has no symbol that a stripped program must have. But `_start` (sysdeps/x86_64/start.S)
is a straight line of instructions that ends in the call of `__libc_start_main`, and passes
`main` as its first argument. So whoever stops there steps from the entry point up to the
first call (`is_call`) and reads the register of the first argument.
"""

import enum

MAX_START_STEPS = 64
"""How many instructions `_start` may have before its call."""
CALL_LENGTH = 3
"""How many bytes `is_call` needs to see."""
_CALLS = (b"\xe8", b"\xff\x15")


class StopAt(enum.Enum):
    """Where a program is stopped."""

    ENTRY = "entry"
    """At the program's own first instruction (AT_ENTRY): ld.so has done its work."""
    MAIN = "main"
    """At the first instruction of `main`: constructors have run."""
    EXIT = "exit"
    """When it has called `exit_group`, before anything is given back."""


def is_call(code: bytes) -> bool:
    """Whether an instruction is a near call, direct or through the GOT (`call *x(%rip)`),
    with or without the prefix that a linker adds when it relaxes one into the other."""
    return code.removeprefix(b"\x67").startswith(_CALLS)
