"""The control memory: what an engine and its stubs write for each other.

All stubs of an engine map the same memory, since one runs at a time. So the registers, which are
in the signal frame that the host's kernel has written here, need not be copied when the guest's
next process runs: another stub returns from the same frame.

    0        the words below; the filter, while a stub starts
    0x1000   the signal stack; at its upper end the frame: ucontext, siginfo, FPU
    0x10000  system calls that the stub is to make

A guest could find the memory only by guessing its address (`stub.choose_base`). What it might
write there is worth nothing: all that a stub obeys is written anew before it obeys.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from samepage.arch import PAGE_SIZE
from samepage.arch.x86_64.registers import Reg

CODE_SIZE = PAGE_SIZE
CONTROL_SIZE = 0x20000
REGION_SIZE = CODE_SIZE + CONTROL_SIZE
"""Of a stub's address space: the page of code, and the control memory after it."""

# Words, by their index; the same in stub.s.
KEY, N_CALLS, FRAME, SET_BASES, FS_BASE, GS_BASE, ERROR, BELL = range(8)
SIGNAL_STACK, ACTION, FILTER, BASE, BELOW, ABOVE, ABOVE_SIZE, REPORTED_FRAME = (
    *(8, 11, 15),
    *range(17, 22),
)
RESUME, ONLY_CALLS = 1, 2
"""Values of `SET_BASES`."""

FILTER_AT = 0x200
STACK_AT, STACK_SIZE = 0x1000, 0xF000
CALLS_AT = 0x10000
CALL = struct.Struct("<7Q")
"""The number and the six arguments."""
MAX_CALLS = (CONTROL_SIZE - CALLS_AT) // CALL.size

MCONTEXT = 5
"""`uc_mcontext` in words of `struct ucontext`."""
SIGMASK = MCONTEXT + 32
_SIGINFO = SIGMASK + 1
GENERAL = {
    register: index
    for index, register in enumerate(
        (
            *range(Reg.R8, Reg.R15 + 1),
            *(Reg.RDI, Reg.RSI, Reg.RBP, Reg.RBX, Reg.RDX, Reg.RAX, Reg.RCX, Reg.RSP),
            *(Reg.RIP, Reg.EFLAGS),
        )
    )
}
"""Where in `uc_mcontext` each register is (`struct sigcontext_64`)."""
SEGMENTS = 18
N_WORDS = 19
"""The registers with the segments'."""
ERROR_CODE, TRAP, CR2, FPSTATE = 19, 20, 22, 23
_SIGINFO_CALL_ADDRESS, _SIGINFO_SYSCALL = 2, 3


class Control:
    """The memory, and where things are in it once a first stub has reported."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("samepage-control")
        os.ftruncate(self.fd, CONTROL_SIZE)
        self.memory = mmap.mmap(self.fd, CONTROL_SIZE)
        self.bytes = memoryview(self.memory)
        self.words = self.bytes.cast("Q")
        self.context_at = 0
        """Bytes to `struct ucontext`."""
        self.registers = 0
        """Words to the registers of `uc_mcontext`."""
        self.fpu_at = 0
        """Bytes to the floating-point area."""

    def locate(self, base: int) -> None:
        """Find the frame of the first report of a stub at `base`. Its place is the same from
        then on: the frame is the first on its stack, and its size is the processor's."""
        control = base + CODE_SIZE
        self.context_at = self.words[REPORTED_FRAME] - control
        self.registers = (self.context_at >> 3) + MCONTEXT
        self.fpu_at = self.words[self.registers + FPSTATE] - control

    @property
    def signal(self) -> int:
        """The signal of the frame."""
        return self.words[self.registers - MCONTEXT + _SIGINFO] & 0xFFFF_FFFF

    def system_call(self) -> tuple[int, int]:
        """Of SIGSYS: the address after the instruction, and which table of calls it meant
        (AUDIT_ARCH_*)."""
        at = self.registers - MCONTEXT + _SIGINFO
        return (
            self.words[at + _SIGINFO_CALL_ADDRESS],
            self.words[at + _SIGINFO_SYSCALL] >> 32,
        )

    @property
    def host_address(self) -> int:
        """Where the memory is in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last view of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
