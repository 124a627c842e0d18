"""The seccomp filter of a stub: every system call of a guest comes to us, none to the host.

What passes must come from the stub's own page (the instruction pointer in the filter's data), by
the 64-bit entry, and be one of these:

- `read` and `write` of one byte, which the two sides wake each other with: only on the pipe, and
  only that byte of the control memory;
- with the *key* in the upper half of the fifth argument: `mmap` of the RAM's descriptor, shared
  and at a fixed address, `munmap`, and `rt_sigreturn`.

The kernel ignores that half (a descriptor is an `int`; the other two have no fifth argument). The
key is random for each stub. It is in the control memory from when the engine writes it to when
the stub has read it, and in registers until they are replaced by the guest's: never while the
guest executes. So a guest that jumps into the stub's page makes no call with it.

Source of the format: `struct seccomp_data`, and Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import struct

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import ARCH, Sys
from samepage.cpu.native.control import BELL, CODE_SIZE

RAM_FD = 3
_PIPE_IN, _PIPE_OUT = 0, 1

MAP_RAM = MapFlags.SHARED | MapFlags.FIXED
_PROT_ALL = Prot.READ | Prot.WRITE | Prot.EXEC

_LOAD, _RETURN = 0x20, 0x06
_EQUAL, _GREATER, _NOT_LESS, _SET = 0x15, 0x25, 0x35, 0x45
"""BPF_JMP | BPF_JEQ and so on, with a constant."""
_ALLOW, _TRAP = 0x7FFF_0000, 0x0003_0000
_INSTRUCTION = struct.Struct("<HBBI")
_NUMBER, _ARCH, _POINTER = 0, 4, 8
"""Of `struct seccomp_data`."""
_LOW = 0xFFFF_FFFF

Test = tuple[int, int, int, bool]
"""Where a word of 32 bits is in the data, an operation, its operand, and what it is to give."""


def make_filter(base: int, key: int) -> bytes:
    """The program for a stub whose page of code is at `base`; `key` has 32 bits."""
    start = base & _LOW
    stub = [
        (_ARCH, _EQUAL, ARCH.syscalls.audit_arch, True),
        (_POINTER + 4, _EQUAL, base >> 32, True),
        (_POINTER, _NOT_LESS, start, True),
        (_POINTER, _GREATER, start + CODE_SIZE - 1, False),
    ]
    bell = [*_is(1, base + CODE_SIZE + 8 * BELL), *_is(2, 1)]
    keyed = [(_argument(4) + 4, _EQUAL, key, True)]
    ram = [
        (_argument(2), _GREATER, _PROT_ALL, False),
        (_argument(2) + 4, _EQUAL, 0, True),
        (_argument(3), _SET, _LOW & ~(MAP_RAM | MapFlags.POPULATE), False),
        (_argument(3), _SET, MapFlags.FIXED, True),
        (_argument(3), _SET, MapFlags.SHARED, True),
        (_argument(3) + 4, _EQUAL, 0, True),
        (_argument(4), _EQUAL, RAM_FD, True),
    ]
    permitted: list[tuple[int, list[Test]]] = [
        (Sys.READ, [*_is(0, _PIPE_IN), *bell]),
        (Sys.WRITE, [*_is(0, _PIPE_OUT), *bell]),
        (Sys.RT_SIGRETURN, keyed),
        (Sys.MMAP, keyed + ram),
        (Sys.MUNMAP, keyed),
    ]
    blocks = [
        [*_all((_NUMBER, _EQUAL, number, True), *tests), _return(_ALLOW)]
        for number, tests in permitted
    ]
    body = [instruction for block in blocks for instruction in block]
    program = _all(*stub, skip=len(body)) + body + [_return(_TRAP)]
    return b"".join(program)


def _argument(number: int) -> int:
    return 16 + 8 * number


def _is(number: int, value: int) -> list[Test]:
    """An argument has this value of 64 bits."""
    at = _argument(number)
    return [(at, _EQUAL, value & _LOW, True), (at + 4, _EQUAL, value >> 32, True)]


def _all(*tests: Test, skip: int = 1) -> list[bytes]:
    """Continue after these instructions if all tests hold; `skip` instructions further if not."""
    program: list[bytes] = []
    for left, (at, operation, operand, wanted) in zip(
        range(len(tests) - 1, -1, -1), tests, strict=True
    ):
        fail = 2 * left + skip
        on_true, on_false = (0, fail) if wanted else (fail, 0)
        program.append(_INSTRUCTION.pack(_LOAD, 0, 0, at))
        program.append(_INSTRUCTION.pack(operation, on_true, on_false, operand))
    return program


def _return(action: int) -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, action)
