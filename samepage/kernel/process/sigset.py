"""Signals as data: numbers, sets, actions, and queues of pending ones.

A set is an int with bit `signal - 1`, as `sigset_t` on x86-64. Sending and delivering are
in `signal` and `sigframe`.
"""

import signal as host

from samepage.records import record

SIG_DFL = 0
SIG_IGN = 1
SIGKILL = int(host.SIGKILL)
SIGSTOP = int(host.SIGSTOP)
SIGSEGV = int(host.SIGSEGV)
SIGBUS = int(host.SIGBUS)
SIGILL = int(host.SIGILL)
SIGFPE = int(host.SIGFPE)
SIGTRAP = int(host.SIGTRAP)
SIGCHLD = int(host.SIGCHLD)
SIGCONT = int(host.SIGCONT)
SIGPIPE = int(host.SIGPIPE)
SIGALRM = int(host.SIGALRM)
SIGVTALRM = int(host.SIGVTALRM)
SIGPROF = int(host.SIGPROF)
SIGXCPU = int(host.SIGXCPU)
SIGXFSZ = int(host.SIGXFSZ)
SIGSYS = int(host.SIGSYS)
UNBLOCKABLE = 1 << SIGKILL - 1 | 1 << SIGSTOP - 1
MAX_SIGNAL = 64
SIGRTMIN = 32

SA_NOCLDSTOP = 0x1
SA_NOCLDWAIT = 0x2
SA_SIGINFO = 0x4
SA_ONSTACK = 0x0800_0000
SA_RESTART = 0x1000_0000
SA_NODEFER = 0x4000_0000
SA_RESETHAND = 0x8000_0000
SA_RESTORER = 0x0400_0000

SS_ONSTACK = 1
SS_DISABLE = 2
SS_AUTODISARM = 1 << 31

# si_code values
SI_USER = 0
SI_KERNEL = 0x80
SI_TKILL = -6
SI_QUEUE = -1
SI_TIMER = -2
SEGV_MAPERR = 1
SEGV_ACCERR = 2
BUS_ADRERR = 2
FPE_INTDIV = 1
ILL_ILLOPN = 2
TRAP_BRKPT = 1
SYS_SECCOMP = 1
CLD_EXITED = 1
CLD_KILLED = 2
CLD_DUMPED = 3
CLD_STOPPED = 5
CLD_CONTINUED = 6

IGNORED_BY_DEFAULT = {int(s) for s in (host.SIGCHLD, host.SIGURG, host.SIGWINCH, host.SIGCONT)}
STOP_BY_DEFAULT = {int(s) for s in (host.SIGSTOP, host.SIGTSTP, host.SIGTTIN, host.SIGTTOU)}
CORE_BY_DEFAULT = {
    int(s)
    for s in (
        host.SIGQUIT,
        host.SIGILL,
        host.SIGTRAP,
        host.SIGABRT,
        host.SIGBUS,
        host.SIGFPE,
        host.SIGSEGV,
        host.SIGXCPU,
        host.SIGXFSZ,
        host.SIGSYS,
    )
}
SYNCHRONOUS = {
    int(s)
    for s in (
        host.SIGSEGV,
        host.SIGBUS,
        host.SIGILL,
        host.SIGTRAP,
        host.SIGFPE,
        host.SIGSYS,
    )
}


def bit(signal: int) -> int:
    """The set that holds only `signal`."""
    return 1 << signal - 1


def lowest(mask: int) -> int:
    """The lowest signal of a set that is not empty."""
    return (mask & -mask).bit_length()


@record(frozen=True)
class SigInfo:
    """`siginfo_t`, as far as the kernel fills it in."""

    signal: int
    code: int = SI_USER
    pid: int = 0
    uid: int = 0
    status: int = 0
    address: int = 0
    value: int = 0


@record(frozen=True)
class SigAction:
    """`struct sigaction`: `handler` is an address, SIG_DFL or SIG_IGN."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


@record
class SigAltStack:
    """`sigaltstack`: where handlers with SA_ONSTACK run (bytes)."""

    base: int = 0
    flags: int = SS_DISABLE
    size: int = 0

    def holds(self, address: int) -> bool:
        """Whether a stack pointer is on it (`on_sig_stack`)."""
        return bool(self.size) and self.base < address <= self.base + self.size


class SignalActions:
    """The action for each signal (`sighand_struct`); threads share it."""

    def __init__(self) -> None:
        self._actions: dict[int, SigAction] = {}

    def __getitem__(self, signal: int) -> SigAction:
        return self._actions.get(signal, _DEFAULT)

    def __setitem__(self, signal: int, action: SigAction) -> None:
        self._actions[signal] = action

    def copy(self) -> "SignalActions":
        """For fork."""
        new = SignalActions()
        new._actions = dict(self._actions)
        return new

    def flush_handlers(self) -> None:
        """For exec: handlers are gone, ignored signals stay ignored (`flush_signal_handlers`)."""
        self._actions = {
            signal: SigAction(SIG_IGN)
            for signal, action in self._actions.items()
            if action.handler == SIG_IGN
        }

    def ignored_mask(self) -> int:
        """Signals that are ignored explicitly."""
        return sum(bit(s) for s, action in self._actions.items() if action.handler == SIG_IGN)

    def caught_mask(self) -> int:
        """Signals that have a handler."""
        return sum(bit(s) for s, action in self._actions.items() if action.handler > SIG_IGN)

    def ignores(self, signal: int) -> bool:
        """Whether a signal would have no effect at all (`sig_ignored`)."""
        handler = self[signal].handler
        return handler == SIG_IGN or (handler == SIG_DFL and signal in IGNORED_BY_DEFAULT)


_DEFAULT = SigAction()


class PendingSignals:
    """Signals sent but not yet delivered. Real-time ones queue, others are pending once."""

    def __init__(self) -> None:
        self.mask = 0
        self._queue: list[SigInfo] = []

    def add(self, info: SigInfo) -> None:
        """Make a signal pending."""
        if info.signal < SIGRTMIN and self.mask & bit(info.signal):
            return
        self.mask |= bit(info.signal)
        self._queue.append(info)

    def discard(self, mask: int) -> None:
        """Forget all signals of a set."""
        self._queue = [info for info in self._queue if not mask & bit(info.signal)]
        self.mask &= ~mask

    def take(self, allowed: int) -> SigInfo | None:
        """Remove and return the next pending signal of the set `allowed`, the synchronous
        ones first, then by number (`next_signal`)."""
        candidates = self.mask & allowed
        if not candidates:
            return None
        synchronous = sum(bit(s) for s in SYNCHRONOUS) & candidates
        signal = lowest(synchronous or candidates)
        for at, info in enumerate(self._queue):
            if info.signal == signal:
                del self._queue[at]
                break
        else:
            raise AssertionError("mask and queue of pending signals disagree")
        if not any(other.signal == signal for other in self._queue):
            self.mask &= ~bit(signal)
        return info
