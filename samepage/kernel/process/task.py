"""Processes and their threads (`task_struct`, `signal_struct`).

A `Process` is a thread group: what all its threads have in common. A `Task` is one thread:
its registers, its signal mask, and what it waits for. The kernel schedules tasks.

A system call that has to wait is a generator: it yields a `Wait` each time that it cannot
continue, and its return value is the call's result. While it waits, the task is BLOCKED; the
scheduler resumes the generator when something may have changed, or throws `Interrupted`
into it when a signal comes.
"""

from __future__ import annotations

import enum
from collections.abc import Generator

from samepage.abi.resource import RLIM_INFINITY, RLIM_NLIMITS, Rlimit
from samepage.abi.signal import SIGCHLD
from samepage.kernel.fs.context import Credentials, FsContext
from samepage.kernel.fs.fdtable import FdTable
from samepage.kernel.fs.path import Path
from samepage.kernel.mm.address_space import AddressSpace, FaultCounts, Limits
from samepage.kernel.process.sigset import (
    PendingSignals,
    SigAction,
    SigAltStack,
    SignalActions,
)
from samepage.kernel.process.timers import Timers
from samepage.records import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.cpu.engine import Registers
    from samepage.kernel.process.seccomp_filter import Seccomp
    from samepage.kernel.process.services import Services


class TaskState(enum.Enum):
    """What a task does, apart from being stopped (see `Task.stopped`)."""

    RUNNABLE = "R"
    BLOCKED = "S"
    ZOMBIE = "Z"


@record(frozen=True)
class Wait:
    """What a blocked system call waits for, apart from other tasks.

    `deadline` is a time of the monotonic clock (ns) at which to continue in any case;
    `host_fd` a file descriptor of the host that may become readable. `restarts` is False for
    the few calls that fail with EINTR even if the signal only stopped and continued the
    thread (signal(7), "Interruption of system calls and library functions by stop signals").
    """

    deadline: int | None = None
    host_fd: int | None = None
    restarts: bool = True


class Interrupted(Exception):
    """Thrown into a waiting system call when a signal is to be handled.

    A call that lets it through is restarted or fails with EINTR, as the handler's
    SA_RESTART decides (ERESTARTSYS); one that must never be restarted turns it into EINTR.
    """


SyscallResult = int | Generator[Wait, None, int]


def default_limits() -> dict[int, tuple[int, int]]:
    """The limits (soft, hard) that a login gives; they are inherited over fork and exec."""
    limits = dict.fromkeys(range(RLIM_NLIMITS), (RLIM_INFINITY, RLIM_INFINITY))
    limits[Rlimit.STACK] = (8 << 20, RLIM_INFINITY)
    limits[Rlimit.CORE] = (0, RLIM_INFINITY)
    limits[Rlimit.NOFILE] = (1024, 1 << 20)
    limits[Rlimit.MEMLOCK] = (8 << 20, 8 << 20)
    limits[Rlimit.NPROC] = limits[Rlimit.SIGPENDING] = (95_000, 95_000)
    limits[Rlimit.MSGQUEUE] = (819_200, 819_200)
    limits[Rlimit.NICE] = limits[Rlimit.RTPRIO] = (0, 0)
    return limits


@record(eq=False)
class Process:
    """One thread group.

    Invariants: `threads` is empty if and only if the process has exited; `mm` is None if
    and only if it has exited and no tracer holds it at its exit stop.
    """

    kernel: Services[Process, Task]
    pid: int
    parent: Process | None
    mm: AddressSpace | None
    files: FdTable
    fs: FsContext
    pgid: int
    sid: int
    comm: str = ""
    exe_path: str = ""
    exe: Path | None = None
    """The program's file, whatever it is called by now (`mm->exe_file`)."""
    argv: list[bytes] = field(default_factory=list)
    """As given to `execve`; the program itself may change its copy on the stack."""
    auxv: bytes = b""
    actions: SignalActions = field(default_factory=SignalActions)
    pending: PendingSignals = field(default_factory=PendingSignals)
    """Signals for whichever thread takes them first (`shared_pending`)."""
    limits: dict[int, tuple[int, int]] = field(default_factory=default_limits)
    threads: dict[int, Task] = field(default_factory=dict)
    children: list[Process] = field(default_factory=list)
    exit_status: int | None = None
    """The status word for `wait4`: exit code << 8, or the signal that killed it."""
    exit_signal: int = SIGCHLD
    tracing_stop: bool = False
    """Its tracer holds it (TASK_TRACED): it does not run, and if it has exited, it keeps its
    memory (`tracer.stop`)."""
    stop_report: int = 0
    """The status word of a stop or a continuation, until `wait4` has reported it."""
    faults_before: FaultCounts = field(default_factory=FaultCounts)
    """Faults counted up to the end of the last `execve`: they belong to the old program."""
    dead_faults: FaultCounts = field(default_factory=FaultCounts)
    """Faults of threads that are gone."""
    start_time_ns: int = 0
    peak_rss_pages: int = 0
    cpu_time_ns: int = 0
    children_usage: Usage = field(default_factory=lambda: Usage())
    """What children used that were waited for."""
    timers: Timers = field(default_factory=Timers)
    nice: int = 0
    policy: tuple[int, int] = (0, 0)
    """The scheduling policy and the real-time priority."""
    vfork_done: bool = True
    """False while a vfork child still runs in its parent's memory."""
    subreaper: bool = False
    dumpable: int = 1
    no_new_privs: bool = False
    parent_death_signal: int = 0
    personality: int = 0x0004_0000
    """ADDR_NO_RANDOMIZE: addresses are the same in each run."""

    @property
    def ppid(self) -> int:
        """The parent's pid; 0 for the programs that the machine itself started."""
        return self.parent.pid if self.parent else 0

    @property
    def leader(self) -> Task:
        """The thread whose tid is the pid, or the oldest one that is left."""
        return self.threads.get(self.pid) or next(iter(self.threads.values()))

    @property
    def state(self) -> str:
        """One letter, as in `/proc/PID/stat`."""
        if self.tracing_stop:
            return "t"
        return self.leader.letter if self.threads else TaskState.ZOMBIE.value

    def thread_state(self, tid: int) -> str:
        """One letter for a thread; a first thread that has ended before the others is a zombie."""
        if self.tracing_stop:
            return "t"
        return self.threads[tid].letter if tid in self.threads else TaskState.ZOMBIE.value

    @property
    def tids(self) -> list[int]:
        """The thread ids; a zombie is its own last thread."""
        return list(self.threads) or [self.pid]

    @property
    def cred(self) -> Credentials:
        """The credentials, which file access checks use."""
        return self.fs.cred

    @property
    def exited(self) -> bool:
        """It is a zombie: it has given back all that it can."""
        return self.exit_status is not None and not self.tracing_stop

    @property
    def exit_code(self) -> int | None:
        """As a shell shows it: the code, or 128 + the signal; None while it runs."""
        if self.exit_status is None:
            return None
        signal = self.exit_status & 0x7F
        return 128 + signal if signal else self.exit_status >> 8 & 0xFF

    def total_faults(self) -> FaultCounts:
        """Minor and major faults over the life of the process, as in `/proc/PID/stat`."""
        total = FaultCounts(self.dead_faults.minor, self.dead_faults.major)
        for task in self.threads.values():
            total.minor += task.faults.minor
            total.major += task.faults.major
        return total

    def thread_faults(self, tid: int) -> FaultCounts:
        """Those of one thread; of a zombie's last thread, those of all."""
        task = self.threads.get(tid)
        return task.faults if task is not None else self.dead_faults

    @property
    def children_faults(self) -> FaultCounts:
        """Faults of children that were waited for."""
        return FaultCounts(self.children_usage.minor_faults, self.children_usage.major_faults)

    @property
    def children_time_ns(self) -> int:
        """CPU time of children that were waited for."""
        return self.children_usage.cpu_time_ns

    def program_faults(self) -> FaultCounts:
        """Faults since the last `execve` was done."""
        total = self.total_faults()
        return FaultCounts(
            total.minor - self.faults_before.minor, total.major - self.faults_before.major
        )

    def limit(self, which: int) -> int:
        """The soft limit."""
        return self.limits[which][0]

    def memory_limits(self) -> Limits:
        """What its address space may take."""
        privileged = self.cred.privileged
        return Limits(
            address_space=self.limit(Rlimit.AS),
            data=self.limit(Rlimit.DATA),
            stack=self.limit(Rlimit.STACK),
            memlock=self.limit(Rlimit.MEMLOCK),
            privileged=privileged,
            min_address=0 if privileged else self.kernel.config.mmap_min_addr,
        )

    # What `/proc/PID/status` shows of signals.
    @property
    def sig_shared_pending(self) -> int:
        """The set of signals pending for the process as a whole."""
        return self.pending.mask

    def seccomp_state(self, tid: int) -> tuple[int, int]:
        """A thread's mode of seccomp, and its number of filters."""
        found = self.threads[tid].seccomp if tid in self.threads else None
        return (found.mode, len(found.filters)) if found else (0, 0)

    @property
    def sig_queued(self) -> int:
        """The signals that wait in queues of the same user's processes
        (UCOUNT_RLIMIT_SIGPENDING)."""
        mine = [p for p in self.kernel.processes.values() if p.cred.uid == self.cred.uid]
        queues = [p.pending for p in mine] + [t.pending for p in mine for t in p.threads.values()]
        return sum(map(len, queues))

    def sig_pending(self, tid: int) -> int:
        """The set of signals pending for one thread."""
        return self.threads[tid].pending.mask if tid in self.threads else 0

    def sig_blocked(self, tid: int) -> int:
        """A thread's signal mask."""
        return self.threads[tid].blocked if tid in self.threads else 0

    @property
    def sig_ignored(self) -> int:
        """The set of signals with SIG_IGN."""
        return self.actions.ignored_mask()

    @property
    def sig_caught(self) -> int:
        """The set of signals with a handler."""
        return self.actions.caught_mask()

    @property
    def utime_ns(self) -> int:
        """CPU time in user mode (virtual)."""
        return self.cpu_time_ns

    @property
    def stime_ns(self) -> int:
        """CPU time in the kernel: the model counts none."""
        return 0


@record
class Usage:
    """What `getrusage` reports."""

    cpu_time_ns: int = 0
    peak_rss_pages: int = 0
    minor_faults: int = 0
    major_faults: int = 0

    def add(self, other: Usage) -> None:
        """Count a child's."""
        self.cpu_time_ns += other.cpu_time_ns
        self.peak_rss_pages = max(self.peak_rss_pages, other.peak_rss_pages)
        self.minor_faults += other.minor_faults
        self.major_faults += other.major_faults


@record(frozen=True)
class MemoryPolicy:
    """What a thread has asked `set_mempolicy` for: the mode with its flags, and the nodes."""

    mode: int
    nodes: int


@record(frozen=True)
class Trap:
    """The last exception of a thread, as its signal frame shows it: the vector, the error
    code of a page fault, and the address that it was about."""

    number: int = 0
    error_code: int = 0
    cr2: int = 0


@record(eq=False)
class Task:
    """One thread.

    `registers` is what the CPU saved when the task last left it. `blocked_call` is the
    system call that the task waits in: invariant: not None if and only if BLOCKED. A stop
    signal leaves a task as it is, running or in its call, with `stopped` set: on Linux the
    call ends, and is begun again when the task continues.
    """

    tid: int
    process: Process
    registers: Registers
    state: TaskState = TaskState.RUNNABLE
    stopped: bool = False
    """Stopped by a signal (JOBCTL_STOPPED): it does not run until SIGCONT or SIGKILL."""
    was_stopped: bool = False
    """It was stopped in the call that it waits in, and has not been resumed since."""
    blocked: int = 0
    """The signal mask."""
    saved_mask: int | None = None
    """The mask to put back once the next signal is delivered (rt_sigsuspend, ppoll)."""
    pending: PendingSignals = field(default_factory=PendingSignals)
    altstack: SigAltStack = field(default_factory=SigAltStack)
    blocked_call: Generator[Wait, None, int] | None = None
    wait: Wait = field(default_factory=Wait)
    syscall_number: int = -1
    """The call in progress, which a restart executes again; -1 in user mode."""
    faults: FaultCounts = field(default_factory=FaultCounts)
    set_child_tid: int = 0
    """Where to write the tid when the task first runs."""
    clear_child_tid: int = 0
    robust_list: int = 0
    rseq_area: int = 0
    trap: Trap = Trap()
    seccomp: Seccomp | None = None
    """The system calls that it has given up."""
    memory_policy: MemoryPolicy | None = None
    killed_by: int = 0
    """A fatal signal on its way: nothing of the program runs any more."""

    @property
    def kernel(self) -> Services[Process, Task]:
        """The kernel that runs it."""
        return self.process.kernel

    @property
    def runnable(self) -> bool:
        """Whether it can execute its program."""
        return self.state is TaskState.RUNNABLE and not self.stopped

    @property
    def letter(self) -> str:
        """Its state as one letter, as in `/proc/PID/stat`."""
        return "T" if self.stopped else self.state.value

    @property
    def mm(self) -> AddressSpace:
        """The memory it sees: a thread has some until its process has exited."""
        mm = self.process.mm
        assert mm is not None, "a thread of a process without memory"
        return mm

    def action(self, signal: int) -> SigAction:
        """What the process does on `signal`."""
        return self.process.actions[signal]
