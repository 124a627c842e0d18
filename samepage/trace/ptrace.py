"""ptrace(2) as calls with names: what one thread may ask of the threads it traces.

Everything here is thin on purpose. A traced thread is named by its tid, and must be in a
ptrace stop for all calls but `seize` and `interrupt`. Linux binds a tracee to the *thread*
that attached it, so all calls for one tracee come from one thread.

Only calls that leave the tracee's memory alone are used, with one exception:
`write_memory` for pages that the tracee already owns. A breakpoint instruction, the usual
way to stop a program at an address, is a write to a page of text: it would copy that page,
and the tracer would change what it came to see. The CPU's debug registers stop it without
a trace (`set_breakpoint`).
"""

import ctypes
import enum
import os
import re
import struct
from dataclasses import dataclass

from samepage.abi.ptrace import NT_X86_XSTATE, USER_DEBUGREG, Event, Options, Request
from samepage.abi.signal import SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long

WAIT_ANY = 0x4000_0000 | 0x2000_0000
"""`__WALL | __WNOTHREAD`: threads and clones too, and only this thread's own tracees."""
WAIT_THREAD = 0x4000_0000
"""`__WALL`: for a wait that names its tid."""

_TRAP_FLAG = 1 << 8


_REQUEST_NAMES = {number: name for name, number in vars(Request).items() if name.isupper()}

FOLLOW = (
    Options.EXITKILL
    | Options.TRACESYSGOOD
    | Options.TRACEFORK
    | Options.TRACEVFORK
    | Options.TRACECLONE
    | Options.TRACEEXEC
    | Options.TRACEEXIT
)
"""Follow everything; new threads and processes inherit these options, EXITKILL included."""


class StopKind(enum.Enum):
    """Why a tracee is reported by wait."""

    SIGNAL = "a signal is about to be delivered"
    GROUP_STOP = "stopped by a stop signal"
    NEW = "first stop of a new tracee, or the answer to an interrupt"
    SYSCALL = "entry to or exit from a system call"
    FORK = "fork"
    VFORK = "vfork"
    CLONE = "clone"
    EXEC = "exec"
    EXIT = "about to exit"
    GONE = "ended"


_EVENTS = {
    Event.FORK: StopKind.FORK,
    Event.VFORK: StopKind.VFORK,
    Event.CLONE: StopKind.CLONE,
    Event.EXEC: StopKind.EXEC,
    Event.EXIT: StopKind.EXIT,
}
_STOP_SIGNALS = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU}


@dataclass(slots=True, frozen=True)
class Stop:
    """One report of wait: `tid` stopped (or ended, with its wait status in `status`)."""

    tid: int
    kind: StopKind
    signal: int = 0
    status: int = 0

    @classmethod
    def decode(cls, tid: int, status: int) -> "Stop":
        """Read a wait status as ptrace(2) defines it for a seized tracee."""
        if not os.WIFSTOPPED(status):
            return cls(tid, StopKind.GONE, status=status)
        signal, event = os.WSTOPSIG(status), status >> 16
        if event == Event.STOP:
            kind = StopKind.GROUP_STOP if signal in _STOP_SIGNALS else StopKind.NEW
            return cls(tid, kind, signal)
        if event:
            return cls(tid, _EVENTS[event])
        if signal & 0x80:
            return cls(tid, StopKind.SYSCALL)
        return cls(tid, StopKind.SIGNAL, signal)


def wait(tid: int = -1) -> Stop:
    """The next stop of `tid`, or of any tracee of this thread.

    Raises `ChildProcessError` if there is nothing to wait for.
    """
    return Stop.decode(*os.waitpid(tid, WAIT_ANY if tid == -1 else WAIT_THREAD))


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    result = int(_LIBC.ptrace(request, tid, address, data))
    if result == -1 and ctypes.get_errno():
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace {_REQUEST_NAMES[request]} of {tid}: {os.strerror(code)}")
    return result


def seize(tid: int, options: int = FOLLOW) -> None:
    """Become the tracer of `tid`, which continues to run (`PTRACE_SEIZE`)."""
    _ptrace(Request.SEIZE, tid, 0, options)


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped tracee go, delivering `signal` (`PTRACE_DETACH`)."""
    _ptrace(Request.DETACH, tid, 0, signal)


def rseq_area(tid: int) -> int:
    """The address of the thread's `struct rseq`, or 0 (`PTRACE_GET_RSEQ_CONFIGURATION`, 5.13)."""
    buffer = ctypes.create_string_buffer(24)
    try:
        _ptrace(Request.GET_RSEQ_CONFIGURATION, tid, len(buffer), ctypes.addressof(buffer))
    except OSError:
        return 0
    return int.from_bytes(buffer.raw[:8], "little")


def interrupt(tid: int) -> None:
    """Stop a running tracee; the stop is reported as `StopKind.NEW`."""
    _ptrace(Request.INTERRUPT, tid)


def listen(tid: int) -> None:
    """Leave a tracee in its group stop, but hear of what ends it."""
    _ptrace(Request.LISTEN, tid)


def resume(tid: int, signal: int = 0, *, syscalls: bool = False) -> bool:
    """Let a stopped tracee continue, delivering `signal`; with `syscalls` it stops at each.

    False if it has been killed meanwhile, which a tracer must expect at any time.
    """
    try:
        _ptrace(Request.SYSCALL if syscalls else Request.CONT, tid, 0, signal)
    except ProcessLookupError:
        return False
    return True


def event_message(tid: int) -> int:
    """The value of the last event: the new tid of a fork, the old one of an exec."""
    value = ctypes.c_ulong()
    _ptrace(Request.GETEVENTMSG, tid, 0, ctypes.addressof(value))
    return value.value


class SyscallOp(enum.IntEnum):
    """Where a tracee is stopped, as `PTRACE_GET_SYSCALL_INFO` reports."""

    NONE = 0
    ENTRY = 1
    EXIT = 2


def syscall_info(tid: int) -> tuple[SyscallOp, int]:
    """Where the tracee is stopped, and the number of the system call at its entry (else -1)."""
    buffer = ctypes.create_string_buffer(88)
    _ptrace(Request.GET_SYSCALL_INFO, tid, len(buffer), ctypes.addressof(buffer))
    op = SyscallOp(buffer.raw[0]) if buffer.raw[0] < 3 else SyscallOp.NONE
    (number,) = struct.unpack_from("<q", buffer.raw, 24)
    return op, number if op is SyscallOp.ENTRY else -1


_REGISTERS = re.findall(
    r"\w+",
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags"
    " rsp ss fs_base gs_base ds es fs gs",
)


class Registers(ctypes.Structure):
    """`struct user_regs_struct` of x86-64."""

    _fields_ = tuple((name, ctypes.c_ulong) for name in _REGISTERS)


NO_SYSCALL = 2**64 - 1
SYSCALL_INSTRUCTION = b"\x0f\x05"
"""In `orig_rax`: the tracee is in no system call, and none is to be restarted."""


def get_registers(tid: int) -> Registers:
    """The general registers."""
    registers = Registers()
    _ptrace(Request.GETREGS, tid, 0, ctypes.addressof(registers))
    return registers


def set_registers(tid: int, registers: Registers) -> None:
    """Replace the general registers."""
    _ptrace(Request.SETREGS, tid, 0, ctypes.addressof(registers))


_XSTATE_ROOM = 64 << 10


def xstate_size(tid: int) -> int:
    """How many bytes of FPU and vector registers this CPU saves for a program.

    A signal frame holds as many, so the size decides which page of the stack it reaches.
    """
    buffer = ctypes.create_string_buffer(_XSTATE_ROOM)
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), _XSTATE_ROOM)
    _ptrace(Request.GETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))
    return int(vector[1])


def set_breakpoint(tid: int, address: int) -> None:
    """Stop the tracee with SIGTRAP before it executes the instruction at `address`.

    Uses debug register 0: DR0 holds the address, DR7 = 1 enables it for execution. The
    code breakpoint comes before the instruction is fetched (Intel SDM volume 3A, table
    6-2), so not even the fetch of that page has happened. exec and fork clear it
    (`flush_ptrace_hw_breakpoint`). Raises `OSError` where a hypervisor offers none.
    """
    _ptrace(Request.POKEUSER, tid, USER_DEBUGREG, address)
    _ptrace(Request.POKEUSER, tid, USER_DEBUGREG + 7 * 8, 1)


def clear_breakpoint(tid: int) -> None:
    """Undo `set_breakpoint`."""
    _ptrace(Request.POKEUSER, tid, USER_DEBUGREG + 7 * 8, 0)


def set_trap_flag(tid: int, on: bool) -> None:
    """Have the CPU stop the tracee with SIGTRAP after one instruction, or no more.

    PTRACE_SINGLESTEP would disturb: it reads the instruction itself (`is_setting_trap_flag`),
    which makes the page present before the tracee fetches it, at the tracer's account.
    """
    registers = get_registers(tid)
    registers.eflags = registers.eflags | _TRAP_FLAG if on else registers.eflags & ~_TRAP_FLAG
    set_registers(tid, registers)


def read_memory(pid: int, address: int, length: int) -> bytes:
    """Read the tracee's memory; pages that are not present fault in, so only read what is."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(length)


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write to pages that the tracee already owns: a writable anonymous page of its own."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(data)
