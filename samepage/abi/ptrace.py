"""Requests, options and events of ptrace(2) (include/uapi/linux/ptrace.h; sys/user.h of x86-64)."""


class Request:
    """`PTRACE_*`: the first argument."""

    POKEUSER = 6
    CONT = 7
    GETREGS = 12
    SETREGS = 13
    DETACH = 17
    SYSCALL = 24
    GETEVENTMSG = 0x4201
    GETREGSET = 0x4204
    SEIZE = 0x4206
    INTERRUPT = 0x4207
    LISTEN = 0x4208
    GET_SYSCALL_INFO = 0x420E
    GET_RSEQ_CONFIGURATION = 0x420F


class Options:
    """`PTRACE_O_*`: the events that stop a tracee, and EXITKILL, its death with the tracer."""

    TRACESYSGOOD = 1
    TRACEFORK = 2
    TRACEVFORK = 4
    TRACECLONE = 8
    TRACEEXEC = 16
    TRACEEXIT = 64
    EXITKILL = 1 << 20


class Event:
    """`PTRACE_EVENT_*`: bits 16 and up of the wait status of a stop."""

    FORK = 1
    VFORK = 2
    CLONE = 3
    EXEC = 4
    EXIT = 6
    STOP = 128


NT_X86_XSTATE = 0x202
"""The register set of GETREGSET that XSAVE stores."""

USER_DEBUGREG = 848
"""offsetof(struct user, u_debugreg)."""
