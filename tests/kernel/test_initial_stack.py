"""The stack that a program finds is the kernel's own, to the byte.

The oracle is the live kernel: a program stopped at its exec event shows its stack.
"""

import os
import signal
import struct

import pytest

from samepage.abi.auxv import Aux
from samepage.arch.x86_64.registers import Reg
from samepage.errors import SamepageError
from samepage.machine import Machine
from samepage.trace import ptrace
from samepage.trace.launch import Launch, launch
from samepage.trace.ptrace import StopKind

TOP = 0x7FFF_FFFF_F000
PROGRAM = "/usr/bin/true"


def live_stack(argv: tuple[str, ...], env: dict[str, str]) -> tuple[int, bytes]:
    """Stack pointer and bytes up to the top, as the kernel made them."""
    try:
        pid, _ = launch(Launch(PROGRAM, argv, env))
    except SamepageError as error:
        pytest.skip(f"programs cannot be traced here: {error}")
    try:
        sp = int(ptrace.get_registers(pid).rsp)
        return sp, ptrace.read_memory(pid, sp, TOP - sp)
    finally:
        os.kill(pid, signal.SIGKILL)
        while ptrace.wait(pid).kind is not StopKind.GONE:
            ptrace.resume(pid)


@pytest.mark.parametrize("n_arguments", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9])
def test_strings_pointers_and_auxv_are_where_the_kernel_puts_them(
    n_arguments: int, length: int
) -> None:
    argv = (PROGRAM, *["x" * length] * (n_arguments - 1))
    env = {"A": "1" * length, "B": "2"}
    sp, expected = live_stack(argv, env)
    guest = Machine("64M").spawn(argv, env=env, cwd="/")
    registers = guest.process.leader.registers
    assert registers is not None
    assert registers.read(Reg.RSP) == sp
    found = guest.memory.read(sp, TOP - sp)
    assert blank_what_is_the_cpus(found) == blank_what_is_the_cpus(expected)


def blank_what_is_the_cpus(stack: bytes) -> bytes:
    """The stack without the random bytes and the value of AT_HWCAP."""
    data = bytearray(stack)
    pair = struct.Struct("<QQ")
    at = auxv_offset(stack)
    sp = TOP - len(stack)
    while (entry := pair.unpack_from(data, at))[0] != Aux.NULL:
        if entry[0] == Aux.RANDOM:
            data[entry[1] - sp : entry[1] - sp + 16] = bytes(16)
        if entry[0] == Aux.HWCAP:
            pair.pack_into(data, at, Aux.HWCAP, 0)
        at += pair.size
    return bytes(data)


def auxv_offset(stack: bytes) -> int:
    """Where the auxv begins: behind argc, and the pointers that end with two NULLs."""
    (argc,) = struct.unpack_from("<Q", stack)
    at = 8 * (1 + argc + 1)
    while stack[at : at + 8] != bytes(8):
        at += 8
    return at + 8
