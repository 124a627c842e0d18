"""Why does a program differ? The first system calls whose results differ.

    PYTHONPATH=. python3 corpus/why.py PROGRAM [ARG]...

A program touches other pages only if it does something else, and it does something else
only if it was given another answer. This runs a program under ptrace on the live kernel, and
on the model, writes down each system call of its main process with its result, and prints
where the two lists part. It is how the causes in docs/fidelity.md were found and proven.

Results that differ by nature are left out of the comparison: addresses, process ids, times.
Needs the right to trace (root sees most).
"""

import difflib
import errno
import os
import sys
from collections.abc import Sequence

from samepage.arch import Sys
from samepage.kernel.errors import SysError
from samepage.kernel.mm.uaccess import copy_from_user
from samepage.kernel.process.task import Task
from samepage.kernel.process.tracer import Tracer
from samepage.lab.environment import CWD, ENVIRONMENT, find_program
from samepage.lab.model_side import ModelSide
from samepage.lab.scenario import Scenario
from samepage.trace import ptrace
from samepage.trace.launch import Launch, launch
from samepage.trace.ptrace import StopKind, SyscallOp

NAMES = {number: name.lower() for name, number in vars(Sys).items() if isinstance(number, int)}
PATH_ARGUMENT = {
    Sys.OPEN: 0, Sys.STAT: 0, Sys.ACCESS: 0, Sys.READLINK: 0, Sys.STATFS: 0,
    Sys.OPENAT: 1, Sys.NEWFSTATAT: 1, Sys.READLINKAT: 1, Sys.FACCESSAT: 1, Sys.STATX: 1,
}  # fmt: skip
VARIES = {
    *(Sys.MMAP, Sys.BRK, Sys.MREMAP, Sys.GETPID, Sys.GETTID, Sys.SET_TID_ADDRESS, Sys.TIME),
    *(Sys.FORK, Sys.VFORK, Sys.CLONE, Sys.CLONE3, Sys.WAIT4, Sys.GETPPID, Sys.RT_SIGRETURN),
}
INTERRUPTED = {-errno.EINTR, *range(-516, -511)}
"""EINTR, and what it or a restart is inside of the kernel (ERESTARTSYS and its like)."""
SHOWN = 12

Call = tuple[str, str, str]
"""Name, result, path."""


def entry(number: int, result: int, path: str) -> Call:
    """A call as it is compared; a result that varies by nature only shows whether it failed."""
    if result >= 1 << 63:
        result -= 1 << 64
    if result in INTERRUPTED:
        text = "interrupted"
    elif -4096 < result < 0:
        text = errno.errorcode.get(-result, str(result))
    else:
        text = "*" if number in VARIES else str(result)
    return NAMES.get(number, str(number)), text, path


def calls_on_kernel(argv: Sequence[str]) -> list[Call]:
    """Every system call of the program's main thread, live."""
    calls: list[Call] = []
    entered: tuple[int, str] | None = None
    pid, _ = launch(Launch(find_program(argv[0]), tuple(argv), ENVIRONMENT, cwd=CWD))
    ptrace.resume(pid, syscalls=True)
    while (stop := ptrace.wait()).kind is not StopKind.GONE or stop.tid != pid:
        if stop.kind is StopKind.SYSCALL and stop.tid == pid:
            op, number = ptrace.syscall_info(pid)
            registers = ptrace.get_registers(pid)
            if op is SyscallOp.ENTRY:
                arguments = (registers.rdi, registers.rsi)
                entered = number, _live_path(pid, number, arguments)
            elif entered is not None:
                calls.append(entry(entered[0], registers.rax, entered[1]))
        ptrace.resume(stop.tid, stop.signal if stop.kind is StopKind.SIGNAL else 0, syscalls=True)
    return calls


def _live_path(pid: int, number: int, arguments: Sequence[int]) -> str:
    if number not in PATH_ARGUMENT:
        return ""
    try:
        data = ptrace.read_memory(pid, arguments[PATH_ARGUMENT[number]], 256)
    except OSError:
        return "?"
    return os.fsdecode(data.split(b"\0")[0])


class _Calls(Tracer):
    """The system calls of the first thread that makes one."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._task: Task | None = None
        self._entered: tuple[int, str] | None = None

    def on_syscall_entry(self, task: Task, registers: list[int]) -> None:
        """Remember the call, and what its path is before it changes memory."""
        self._task = self._task or task
        if task is self._task:
            number, *arguments = registers
            self._entered = number, _model_path(task, number, arguments)

    def on_syscall_exit(self, task: Task, result: int) -> None:
        """Take down the call with its result."""
        if task is self._task and self._entered is not None:
            number, path = self._entered
            self.calls.append(entry(number, result, path))
            self._entered = None


def calls_on_model(argv: Sequence[str]) -> list[Call]:
    """The same on the model."""
    tracer, side = _Calls(), ModelSide()
    scenario = Scenario([argv], ENVIRONMENT, timeout=None)
    side.prepare(scenario)
    side.machine.kernel.tracers.attach(tracer)
    side.run(argv)
    return tracer.calls


def _model_path(task: Task, number: int, arguments: Sequence[int]) -> str:
    if number not in PATH_ARGUMENT:
        return ""
    try:
        data = copy_from_user(task.mm, arguments[PATH_ARGUMENT[number]], 64)
    except SysError:
        return "?"
    return os.fsdecode(data.split(b"\0")[0])


def main() -> None:
    argv = sys.argv[1:]
    if not argv:
        sys.exit(__doc__)
    kernel, model = calls_on_kernel(argv), calls_on_model(argv)
    steps = difflib.SequenceMatcher(None, model, kernel, autojunk=False).get_opcodes()
    parts = [step for step in steps if step[0] != "equal"]
    for _, low, high, first, last in parts[:SHOWN]:
        print(f"after {low} calls")
        for side, calls in (("model", model[low:high]), ("kernel", kernel[first:last])):
            for name, result, path in calls[:4]:
                print(f"  {side:6}  {name} {path} = {result}")
    print(f"{len(parts)} places differ, of {len(kernel)} calls")


if __name__ == "__main__":
    main()
