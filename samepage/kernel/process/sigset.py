"""Signals as data: numbers, sets, actions, and queues of pending ones.

A set is an int with bit `signal - 1`, as `sigset_t` on x86-64. Sending and delivering are
in `signal` and `sigframe`.
"""

from samepage.abi.signal import (
    SI_USER,
    SIG_DFL,
    SIG_IGN,
    SIGABRT,
    SIGBUS,
    SIGCHLD,
    SIGCONT,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGQUIT,
    SIGRTMIN,
    SIGSEGV,
    SIGSTOP,
    SIGSYS,
    SIGTRAP,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
    SIGURG,
    SIGWINCH,
    SIGXCPU,
    SIGXFSZ,
    SS_DISABLE,
)
from samepage.records import record

UNBLOCKABLE = 1 << SIGKILL - 1 | 1 << SIGSTOP - 1
IGNORED_BY_DEFAULT = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT}
STOP_BY_DEFAULT = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU}
CORE_BY_DEFAULT = {
    *(SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS),
}
SYNCHRONOUS = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS}


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

    def __len__(self) -> int:
        return len(self._queue)

    def mark(self, signal: int) -> None:
        """Make a signal pending without the record of what it carries."""
        self.mask |= bit(signal)

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

    def next(self, allowed: int) -> int:
        """The number of the signal that `take` would return, 0 if there is none."""
        candidates = self.mask & allowed
        synchronous = sum(bit(s) for s in SYNCHRONOUS) & candidates
        return lowest(synchronous or candidates) if candidates else 0

    def take(self, allowed: int) -> SigInfo | None:
        """Remove and return the next pending signal of the set `allowed`, the synchronous
        ones first, then by number (`next_signal`)."""
        signal = self.next(allowed)
        if not signal:
            return None
        for at, info in enumerate(self._queue):
            if info.signal == signal:
                del self._queue[at]
                break
        else:
            info = SigInfo(signal)  # there was no room for the record (`collect_signal`)
        if not any(other.signal == signal for other in self._queue):
            self.mask &= ~bit(signal)
        return info
