"""One thread's user side, without instructions: what ld.so's code does to its process.

ld.so is a program like any other. It calls the kernel, and it loads and stores; both go
through the same functions here as they do when the CPU executes a program, so page faults,
copies and the counts of both come out by themselves. Strings that a system call takes lie
below the stack pointer, as a function's local variables would.

While the linker works, the thread is on the CPU with a program counter of 0: events have
no instruction of the program that caused them.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from samepage.arch import ARGUMENTS, REG_PC, REG_RESULT, REG_SP
from samepage.kernel.boot import Kernel
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from samepage.kernel.process.task import Task
from samepage.kernel.process.tracer import resume
from samepage.kernel.syscalls.table import find_handler
from samepage.linker.errors import LinkError
from samepage.machine.debugger import Debugger
from samepage.machine.watchdog import watch

_RED_ZONE = 128
_CALL_TIMEOUT = 60.0


class UserSide:
    """The user side of `task`, whose process has just been through `execve`.

    `sp` is the stack pointer that the program will start with; it addresses argc.
    """

    def __init__(self, task: Task, kernel: Kernel, debugger: Debugger) -> None:
        self.task = task
        self.kernel = kernel
        self._debugger = debugger
        self.sp = int(task.registers.read(REG_SP))
        self.return_address = 0
        """Where called functions return to: code that is never executed."""

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        """Put the thread on the CPU, with no instruction."""
        self.kernel.scheduler.switch_to(self.task)
        self.kernel.cpu.write(REG_PC, 0)
        yield

    def jump(self, address: int) -> None:
        """Let the thread continue at `address` with the stack that it was started with."""
        cpu = self.kernel.cpu
        cpu.write(REG_PC, address)
        cpu.write(REG_SP, self.sp)

    def syscall(self, number: int, *arguments: int) -> int:
        """Make a system call. Raises `OSError` with the call's errno, EAGAIN if it would
        have to wait.
        """
        self.kernel.clock.system_call()
        registers = [number, *arguments, *([0] * (6 - len(arguments)))]
        try:
            handler = find_handler(number)
            assert handler is not None, f"the kernel has no system call {number}"
            result = handler.call(self.task, registers)
            if not isinstance(result, int):
                next(result)
                result.close()
                raise SysError(errno.EAGAIN)
        except StopIteration as done:
            result = done.value
        except SysError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None
        return int(result)

    def push(self, data: bytes) -> int:
        """Store bytes in the free part of the stack until the next use; return where."""
        address = self.buffer(len(data))
        self.store(address, data)
        return address

    def buffer(self, size: int) -> int:
        """Room for `size` bytes in the free part of the stack."""
        return (self.sp - _RED_ZONE - size) & -16

    def load(self, address: int, length: int) -> bytes:
        """Load bytes. Raises `OSError` (EFAULT)."""
        try:
            return copy_from_user(self.task.mm, address, length)
        except SysError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None

    def store(self, address: int, data: bytes) -> None:
        """Store bytes. Raises `OSError` (EFAULT)."""
        try:
            copy_to_user(self.task.mm, address, data)
        except SysError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None

    def load_word(self, address: int) -> int:
        """Load 8 bytes as a number."""
        return int.from_bytes(self.load(address, 8), "little")

    def store_word(self, address: int, word: int) -> None:
        """Store a number in 8 bytes, modulo 2^64."""
        self.store(address, (word & (1 << 64) - 1).to_bytes(8, "little"))

    def call(self, function: int, *arguments: int) -> int:
        """Call a function of the process on the CPU; return what it returns in rax.

        Raises `LinkError` if it does not return, and what `Entry.run_task` raises.
        """
        kernel, cpu, process = self.kernel, self.kernel.cpu, self.task.process
        before = cpu.save()
        frame = ((self.sp - _RED_ZONE) & -16) - 8
        self.store_word(frame, self.return_address)
        cpu.write(REG_SP, frame)
        cpu.write(REG_PC, function)
        for register, argument in zip(ARGUMENTS, arguments, strict=False):
            cpu.write(register, argument)
        stopping = self._debugger.stopping(process, [self.return_address])
        with stopping, watch(kernel, _CALL_TIMEOUT):
            while not process.tracing_stop:
                if not kernel.entry.run_task(self.task):
                    raise LinkError(f"the function at {function:#x} did not return")
        resume(process)
        result = int(cpu.read(REG_RESULT))
        cpu.restore(before)
        return result
