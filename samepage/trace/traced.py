"""Programs run under ptrace and held, all together, at one instant of their lives.

`TracedGroup.run` starts a program, follows everything that it forks, and returns when each
process of that tree is held at the chosen instant:

- `entry`: the interpreter has done its work, and the first instruction of the program
  itself (Aux.ENTRY) is the next;
- `main`: the first instruction of `main` is the next;
- `exit`: the last instruction has run, `exit_group` has been called or a signal has
  killed it, and the address space is still whole (PTRACE_EVENT_EXIT).

`start` and `run_on` are the steps that it takes, for those who want to look at a program
more than once (`Hold`).

A program without children is held at its exit stop itself. In a tree that would be a
deadlock (a parent waits for its child), so there each process leaves a ghost that keeps
its address space (see `ghost`), and goes. Either way the memory of all of them, and of the
programs run in the group before, stays mapped, so that map counts and copy-on-write are
what they would be if all had reached their last instruction and stayed.

A child of vfork that exits without exec has no address space of its own and leaves nothing.
What cannot be held is listed in `Tree.lost` with its reason, never left out silently.

Leaving the `with` block kills and reaps every process. If this process is killed instead,
the kernel does it (`PTRACE_O_EXITKILL`, which all descendants inherit).
"""

import contextlib
import mmap
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from samepage.abi.auxv import Aux
from samepage.arch import Sys
from samepage.errors import SamepageError
from samepage.stop_at import CALL_LENGTH, MAX_START_STEPS, StopAt, is_call
from samepage.trace import ptrace
from samepage.trace.ghost import Killed, call_again, is_behind_syscall, make_ghost
from samepage.trace.launch import Launch, auxiliary_vector, launch
from samepage.trace.launch import fault_counts as read_fault_counts
from samepage.trace.ptrace import Stop, StopKind
from samepage.trace.reap import (
    end_all,
    is_tracee,
    reap_adopted,
    set_subreaper,
    status_lines,
)

_HARMLESS = frozenset(
    {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, 19, 20, 21, 22}
)
"""Signals whose default action does not end a process."""


@dataclass(slots=True, frozen=True)
class Hold:
    """What holds a program before its exit, which holds it in any case.

    `address`: an instruction, before it is fetched. `step`: one instruction, after it.
    `after_call`: a system call, at its return, if the function returns True for its number.
    A program is held by its first thread only: the others would run on.
    """

    address: int = 0
    step: bool = False
    after_call: Callable[[int], bool] | None = None


@dataclass(slots=True)
class Process:
    """One traced process, from its first stop to its last.

    `key` is its place in the tree: `()` the program itself, `(1, 0)` the first child of
    its second child. It names the same process in a run on another kernel, where pids
    differ. `holder` is the pid under which its address space can be read once it is held.
    Faults are counted from the entry to exec (a program) or from the fork (a child), and
    do not include what follows the instant.
    """

    pid: int
    key: tuple[int, ...]
    launch: Launch
    exec_faults: int = 0
    base_faults: tuple[int, int] = (0, 0)
    minor_faults: int = 0
    major_faults: int = 0
    wait_status: int | None = None
    holder: int = 0
    children: int = 0
    borrows_memory: bool = False
    leaving: bool = False
    threads: set[int] = field(default_factory=set)
    exiting: set[int] = field(default_factory=set)
    hold: Hold = field(default_factory=Hold)

    @property
    def in_tree(self) -> bool:
        """Whether it has a parent or a child in the tree, so that it leaves a ghost."""
        return bool(self.key) or self.children > 0

    @property
    def ended(self) -> bool:
        """Whether its last instruction has run."""
        return self.leaving or self.wait_status is not None

    def count_faults(self) -> None:
        """Read the fault counters, as of this instant."""
        minor, major = read_fault_counts(self.pid)
        self.minor_faults = minor - self.base_faults[0]
        self.major_faults = major - self.base_faults[1]


@dataclass(slots=True)
class Tree:
    """What one program (`root`) became: its processes held, in the order of their forks, and
    those that could not be held, with the reason."""

    root: Process
    processes: list[Process] = field(default_factory=list)
    lost: list[tuple[tuple[int, ...], str]] = field(default_factory=list)


class TracedGroup:
    """Programs that are held together; a context manager.

    All of it happens in one thread, which has one group at a time. Invariant: every pid in
    `_tasks` is ours to reap: a tracee that has not been reported as ended.
    """

    def __init__(self, stop_at: StopAt = StopAt.EXIT, timeout: float = 30.0) -> None:
        """`timeout`: seconds that one program, with all its children, may take."""
        self.stop_at = stop_at
        self.timeout = timeout
        self.trees: list[Tree] = []
        self.xstate_size = 0
        """What `ptrace.xstate_size` reports of the CPU, once a program runs."""
        self._tasks: dict[int, Process] = {}
        self._early: set[int] = set()
        self._ended: set[int] = set()
        """Processes whose end was reported; they may be zombies of their parents yet."""
        self._ghosts: list[int] = []
        self._expired = False
        self._was_subreaper = False

    def __enter__(self) -> Self:
        # Orphans come to us and not to init, which in a container may reap no orphan.
        self._was_subreaper = set_subreaper(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        set_subreaper(self._was_subreaper)

    @property
    def processes(self) -> list[Process]:
        """All held processes, program by program."""
        return [process for tree in self.trees for process in tree.processes]

    def run(self, program: Launch) -> Tree:
        """Start a program, and return once its whole tree is held at `stop_at`.

        Raises `SamepageError` if it cannot be started or traced, or does not get there in
        time; the group is then still usable for those held before.
        """
        tree = self.start(program)
        self.run_to(tree, self.stop_at)
        return tree

    def start(self, program: Launch) -> Tree:
        """Start a program, and hold it where it has become itself: the new image is mapped,
        and no instruction of it has run. Raises `SamepageError` as `launch` does."""
        pid, exec_faults = launch(program)
        root = Process(pid, (), program, exec_faults, threads={pid})
        minor, major = read_fault_counts(pid)
        root.base_faults = (minor - exec_faults, major)
        self._tasks[pid] = root
        tree = Tree(root)
        self.trees.append(tree)
        self.xstate_size = ptrace.xstate_size(pid)
        self._on_new_image(root)
        self._hold(tree, root, pid)
        return tree

    def run_to(self, tree: Tree, stop_at: StopAt) -> None:
        """Let a program that was started run until its tree is held at `stop_at`, or ends.

        Raises `SamepageError` as `run_on` does, or if `main` cannot be found.
        """
        root = tree.root
        if stop_at is StopAt.EXIT:
            self.run_on(tree)
            return
        self.run_on(tree, Hold(address=auxiliary_vector(root.pid)[Aux.ENTRY]))
        if stop_at is StopAt.MAIN and not root.ended:
            self.run_on(tree, Hold(address=self._find_main(tree)))

    def run_on(self, tree: Tree, hold: Hold | None = None) -> None:
        """Let a program that is held before its exit run on, until `hold` or its exit.

        Raises `SamepageError` if it cannot be held so, or does not get there in time.
        """
        root = tree.root
        assert tree.processes == [root], "only a program that has not forked yet runs on"
        assert not root.ended, "a program does not run on from its exit"
        tree.processes.clear()
        root.holder, root.hold = 0, hold or Hold()
        self._expired = False
        watchdog = threading.Timer(self.timeout, self._expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            _arm(root)
            self._resume(root, root.pid)
            while any(p.holder == 0 for p in self._tasks.values()):
                if self._expired:
                    # What was forked since the watchdog looked must end too.
                    self._kill_running()
                self._handle(tree, ptrace.wait())
        finally:
            watchdog.cancel()
            if self._expired:
                self._drop(tree)
        if self._expired:
            raise SamepageError(
                f"{' '.join(root.launch.argv)}: did not end within {self.timeout:g} s, killed"
            )
        tree.processes.sort(key=lambda process: process.key)

    def _find_main(self, tree: Tree) -> int:
        """Step from the entry point to the first call, which passes `main` (see `stop_at`).

        The first instruction is stepped over unread: its page may not be present yet.
        """
        root = tree.root
        for _ in range(MAX_START_STEPS):
            self.run_on(tree, Hold(step=True))
            if root.ended:
                break
            registers = ptrace.get_registers(root.pid)
            in_page = -registers.rip % mmap.PAGESIZE or mmap.PAGESIZE
            if is_call(ptrace.read_memory(root.pid, registers.rip, min(CALL_LENGTH, in_page))):
                return int(registers.rdi)
        raise SamepageError(f"{root.launch.path}: no call of main was found behind its entry")

    def release(self) -> None:
        """Kill and reap every process of the group, which can then be used again."""
        pids = {*self._tasks, *self._ghosts, *self._early}
        self._tasks.clear()
        self._ghosts.clear()
        self._early.clear()
        self.trees.clear()
        end_all(pids, set())
        reap_adopted(self._ended)
        self._ended.clear()

    def _drop(self, tree: Tree) -> None:
        """Kill and reap one tree, and forget it."""
        kept = {p.holder for t in self.trees if t is not tree for p in t.processes}
        pids = ({*self._tasks, *self._ghosts} - kept) | self._early
        self._tasks = {tid: p for tid, p in self._tasks.items() if tid in kept}
        self._ghosts = [pid for pid in self._ghosts if pid in kept]
        self._early.clear()
        self.trees.remove(tree)
        end_all(pids, kept)
        reap_adopted(self._ended)

    def _expire(self) -> None:
        """In the watchdog's thread: end what has not ended; `wait` then comes back."""
        self._expired = True
        self._kill_running()

    def _kill_running(self) -> None:
        for process in list(self._tasks.values()):
            if process.holder == 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    # What happens at each stop

    def _handle(self, tree: Tree, stop: Stop) -> None:
        process = self._tasks.get(stop.tid)
        if process is None:
            # A child's first stop may be reported before its parent's fork event.
            if stop.kind is StopKind.NEW:
                self._early.add(stop.tid)
            return
        try:
            self._dispatch(tree, process, stop)
        except ProcessLookupError:
            # Killed between two calls of ours: its end is reported by a later wait.
            pass
        except Killed:
            # Killed while it did a call for us, which saw it about to exit: let it.
            with contextlib.suppress(ProcessLookupError):
                ptrace.resume(stop.tid)

    def _dispatch(self, tree: Tree, process: Process, stop: Stop) -> None:
        tid = stop.tid
        match stop.kind:
            case StopKind.GONE:
                self._on_gone(tree, process, stop)
                return
            case StopKind.EXIT:
                self._on_exit(tree, process, tid)
                return
            case StopKind.GROUP_STOP:
                ptrace.listen(tid)
                return
            case StopKind.SIGNAL:
                self._on_signal(tree, process, stop)
                return
            case StopKind.SYSCALL:
                self._on_syscall(tree, process, tid)
                return
            case StopKind.FORK | StopKind.VFORK | StopKind.CLONE:
                self._on_fork(process, tid, stop.kind)
            case StopKind.EXEC:
                self._on_new_image(process)
            case StopKind.NEW:
                pass
        self._resume(process, tid)

    def _resume(self, process: Process, tid: int, signal_number: int = 0) -> None:
        """Resume a thread. Its system calls stop it only where that is of use: where a ghost
        will be needed (in trees), or where it is to be held after one."""
        wanted = process.in_tree or process.hold.after_call is not None
        ptrace.resume(tid, signal_number, syscalls=wanted)

    def _on_fork(self, parent: Process, tid: int, kind: StopKind) -> None:
        new = ptrace.event_message(tid)
        if not is_tracee(new):
            # Killed meanwhile: the message is that of its exit, no pid.
            return
        if _thread_group(new) == parent.pid:
            parent.threads.add(new)
            self._tasks[new] = parent
        else:
            child = Process(new, (*parent.key, parent.children), parent.launch, threads={new})
            child.borrows_memory = kind is not StopKind.FORK
            parent.children += 1
            self._tasks[new] = child
        if new in self._early:
            self._early.discard(new)
            self._resume(self._tasks[new], new)

    def _on_new_image(self, process: Process) -> None:
        """exec has made a new image: give it our AT_RANDOM."""
        process.borrows_memory = False
        for thread in process.threads - {process.pid}:
            self._tasks.pop(thread, None)
        process.threads = {process.pid}
        process.exiting.clear()
        auxv = auxiliary_vector(process.pid)
        ptrace.write_memory(process.pid, auxv[Aux.RANDOM], process.launch.random)

    def _on_signal(self, tree: Tree, process: Process, stop: Stop) -> None:
        tid = stop.tid
        if stop.signal == signal.SIGTRAP and _at_hold(process, tid):
            _disarm(process)
            self._hold(tree, process, tid)
            return
        if process.in_tree and not process.leaving and _is_fatal(process.pid, stop.signal):
            if is_behind_syscall(tid):
                process.count_faults()
                self._leave_ghost(tree, process, tid, stop.signal)
            else:
                process.leaving = True
                tree.lost.append((process.key, f"killed by signal {stop.signal} in a tree"))
        self._resume(process, tid, stop.signal)

    def _on_syscall(self, tree: Tree, process: Process, tid: int) -> None:
        op, number = ptrace.syscall_info(tid)
        after_call = process.hold.after_call
        if op is ptrace.SyscallOp.EXIT and after_call is not None:
            called = ptrace.get_registers(tid).orig_rax
            (self._hold(tree, process, tid) if after_call(called) else self._resume(process, tid))
            return
        ends = number == Sys.EXIT_GROUP or (number == Sys.EXIT and len(process.threads) == 1)
        if op is ptrace.SyscallOp.ENTRY and process.in_tree and ends and not process.leaving:
            process.count_faults()
            status = (ptrace.get_registers(tid).rdi & 0xFF) << 8
            self._leave_ghost(tree, process, tid, status)
            if process.holder:
                call_again(tid, number)
        self._resume(process, tid)

    def _leave_ghost(self, tree: Tree, process: Process, tid: int, wait_status: int) -> None:
        process.leaving = True
        process.wait_status = wait_status
        if process.borrows_memory:
            return
        process.holder = make_ghost(tid)
        self._ghosts.append(process.holder)
        tree.processes.append(process)

    def _on_exit(self, tree: Tree, process: Process, tid: int) -> None:
        """A thread is about to exit: the process's last instant, or only a thread's end."""
        if process.leaving:
            ptrace.resume(tid)
            return
        process.exiting.add(tid)
        if process.exiting >= process.threads:
            self._on_last_exit(tree, process, tid)
        elif ptrace.get_registers(tid).orig_rax == Sys.EXIT:
            process.exiting.discard(tid)
            process.threads.discard(tid)
            ptrace.resume(tid)

    def _on_last_exit(self, tree: Tree, process: Process, tid: int) -> None:
        """All threads that the process still has are stopped at their exits, `tid` among them."""
        if not process.in_tree:
            process.wait_status = ptrace.event_message(tid)
            self._hold(tree, process, tid)
        else:
            process.leaving = True
            tree.lost.append((process.key, "killed without a chance to keep its memory"))
            for thread in process.exiting:
                ptrace.resume(thread)

    def _hold(self, tree: Tree, process: Process, tid: int) -> None:
        process.holder = tid if tid != process.pid and _has_no_memory(process.pid) else process.pid
        process.count_faults()
        tree.processes.append(process)

    def _on_gone(self, tree: Tree, process: Process, stop: Stop) -> None:
        self._tasks.pop(stop.tid, None)
        process.threads.discard(stop.tid)
        process.exiting.discard(stop.tid)
        if stop.tid == process.pid:
            self._ended.add(process.pid)
            process.wait_status = stop.status
            if not process.leaving and not process.holder:
                tree.lost.append((process.key, "killed"))
        elif (
            process.exiting >= process.threads
            and process.exiting
            and not process.leaving
            and not process.holder
        ):
            # exit_group kills a thread that is at its own exit: that stop is never reported,
            # and this end may come after the others' stops.
            self._on_last_exit(tree, process, next(iter(process.exiting)))


def _thread_group(tid: int) -> int:
    for line in status_lines(tid):
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return tid


def _has_no_memory(pid: int) -> bool:
    """Whether the main thread is gone already: its /proc files then show no memory."""
    return not any(line.startswith("VmSize:") for line in status_lines(pid))


def _is_fatal(pid: int, number: int) -> bool:
    """Whether a signal about to be delivered will end the process."""
    if number in _HARMLESS:
        return False
    handled = 0
    for line in status_lines(pid):
        if line.startswith(("SigCgt:", "SigIgn:")):
            handled |= int(line.split()[1], 16)
    return not handled >> (number - 1) & 1


def _arm(process: Process) -> None:
    """Have the CPU stop a process at its `hold`. Raises `SamepageError`."""
    try:
        if process.hold.address:
            ptrace.set_breakpoint(process.pid, process.hold.address)
        if process.hold.step:
            ptrace.set_trap_flag(process.pid, True)
    except OSError as error:
        raise SamepageError(f"cannot stop {process.launch.path} on its way: {error}") from error


def _disarm(process: Process) -> None:
    if process.hold.address:
        ptrace.clear_breakpoint(process.pid)
    if process.hold.step:
        ptrace.set_trap_flag(process.pid, False)


def _at_hold(process: Process, tid: int) -> bool:
    """Whether a SIGTRAP comes from what `_arm` set, not from the program itself."""
    if tid != process.pid or not (process.hold.address or process.hold.step):
        return False
    return process.hold.step or ptrace.get_registers(tid).rip == process.hold.address
