"""seccomp's filters: programs in classic BPF that look at a system call (kernel/seccomp.c,
net/core/filter.c).

Only a subset of BPF is allowed (`seccomp_check_filter`): no packet, so all loads are 32-bit
words of `struct seccomp_data`, and only forward jumps, so each filter ends.
"""

import enum
import errno
import operator
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from samepage.kernel.errors import SysError
from samepage.records import record

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS."""
SECCOMP_DATA = struct.Struct("<iIQ6Q")
"""`struct seccomp_data`: number, architecture, instruction pointer, arguments."""
_WORD = 0xFFFF_FFFF
_MEMORY_WORDS = 16

# Classic BPF (linux/bpf_common.h): a class, and what is to be done with which operand.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_CLASS, _OPERATION, _MODE, _X = 0x07, 0xF0, 0xE0, 0x08
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_ADD, _SUB, _MUL, _DIV, _OR, _AND, _LSH, _RSH, _NEG = range(0x00, 0x90, 0x10)
_XOR = 0xA0
_JA, _JEQ, _JGT, _JGE, _JSET = range(0x00, 0x50, 0x10)
_RET_A, _TXA = 0x10, 0x80
_BINARY: dict[int, Callable[[int, int], int]] = {
    _ADD: operator.add,
    _SUB: operator.sub,
    _MUL: operator.mul,
    _DIV: operator.floordiv,
    _OR: operator.or_,
    _AND: operator.and_,
    _LSH: lambda a, b: a << (b & 31),
    _RSH: lambda a, b: a >> (b & 31),
    _XOR: operator.xor,
}
_COMPARE = (_JEQ, _JGT, _JGE, _JSET)
_ALLOWED = frozenset(
    [_LD | mode for mode in (_IMM, _ABS, _MEM, _LEN)]
    + [_LDX | mode for mode in (_IMM, _MEM, _LEN)]
    + [_ST, _STX, _RET, _RET | _RET_A, _MISC, _MISC | _TXA]
    + [_ALU | operation | operand for operation in _BINARY for operand in (0, _X)]
    + [_JMP | compare | operand for compare in _COMPARE for operand in (0, _X)]
    + [_ALU | _NEG, _JMP | _JA]
)


class Action(enum.IntEnum):
    """What a filter answers (SECCOMP_RET_*); the strictest has the lowest signed value."""

    KILL_PROCESS = 0x8000_0000
    KILL_THREAD = 0
    TRAP = 0x0003_0000
    ERRNO = 0x0005_0000
    USER_NOTIF = 0x7FC0_0000
    TRACE = 0x7FF0_0000
    LOG = 0x7FFC_0000
    ALLOW = 0x7FFF_0000


class Instruction(NamedTuple):
    """`struct sock_filter`."""

    code: int
    if_true: int
    if_false: int
    k: int


Filter = tuple[Instruction, ...]


@record(frozen=True)
class Seccomp:
    """What a thread has given up: `filters`, the oldest first, or in strict mode none."""

    filters: tuple[Filter, ...] = ()

    @property
    def mode(self) -> int:
        """SECCOMP_MODE_STRICT or SECCOMP_MODE_FILTER."""
        return 2 if self.filters else 1


def check(program: Sequence[Instruction]) -> Filter:
    """A filter that is safe to run. Raises `SysError(EINVAL)` (`bpf_check_classic`,
    `seccomp_check_filter`, `check_load_and_stores`)."""
    end = len(program)
    if not 0 < end <= MAX_INSTRUCTIONS or program[-1].code & _CLASS != _RET:
        raise SysError(errno.EINVAL)
    written_at = [0xFFFF] * (end + 1)
    written = 0
    for at, (code, if_true, if_false, k) in enumerate(program):
        kind = code & _CLASS
        written &= written_at[at]
        targets: tuple[int, ...] = ()
        if kind == _JMP:
            jumps = (k,) if code & _OPERATION == _JA else (if_true, if_false)
            targets = tuple(at + 1 + jump for jump in jumps)
        elif kind in (_ST, _STX) and k < _MEMORY_WORDS:
            written |= 1 << k
        good = code in _ALLOWED and all(target < end for target in targets)
        if not good or not _operand_is_good(code, k, written):
            raise SysError(errno.EINVAL)
        for target in targets:
            written_at[target] &= written
        if targets:
            written = 0xFFFF
    return tuple(program)


def _operand_is_good(code: int, k: int, written: int) -> bool:
    """Whether the constant of an instruction is in its range; `written` are the words of
    memory that hold something."""
    kind = code & _CLASS
    if kind == _LD and code & _MODE == _ABS:
        return k < SECCOMP_DATA.size and not k & 3
    if kind in (_ST, _STX):
        return k < _MEMORY_WORDS
    if kind in (_LD, _LDX) and code & _MODE == _MEM:
        return k < _MEMORY_WORDS and bool(written >> k & 1)
    if kind == _ALU and not code & _X:
        operation = code & _OPERATION
        return not (operation == _DIV and not k) and not (operation in (_LSH, _RSH) and k >= 32)
    return True


def evaluate(program: Filter, data: Sequence[int]) -> int:
    """Run a checked filter on the words of a `seccomp_data`; return its answer."""
    a = x = at = 0
    memory = [0] * _MEMORY_WORDS
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        kind = code & _CLASS
        if kind == _JMP:
            operation = code & _OPERATION
            if operation == _JA:
                at += k
            else:
                at += if_true if _holds(operation, a, x if code & _X else k) else if_false
        elif kind in (_LD, _LDX):
            mode = code & _MODE
            if mode == _ABS:
                value = data[k >> 2]
            else:
                value = k if mode == _IMM else memory[k] if mode == _MEM else SECCOMP_DATA.size
            a, x = (value, x) if kind == _LD else (a, value)
        elif kind == _RET:
            return a if code & _RET_A else k
        elif kind == _ALU:
            operand = x if code & _X else k
            operation = code & _OPERATION
            if operation == _DIV and not operand:
                return 0
            a = (-a if operation == _NEG else _BINARY[operation](a, operand)) & _WORD
        elif kind == _MISC:
            a, x = (x, x) if code & _TXA else (a, a)
        else:
            memory[k] = a if kind == _ST else x


def _holds(operation: int, a: int, b: int) -> bool:
    if operation == _JEQ:
        return a == b
    if operation == _JGT:
        return a > b
    return a >= b if operation == _JGE else bool(a & b)
