"""`Machine`: the hardware booted with the kernel, and programs on it.

A program that was started runs when `run` is called, up to its exit, and is held there:
its address space stays as its last instruction left it, while the next program runs. So
all of them are resident together, as long-lived programs would be.
"""

from __future__ import annotations

import os
import re
import resource
import stat
import time
from collections.abc import Callable, Collection, Sequence
from collections.abc import Mapping as EnvMapping
from functools import partial

from samepage.abi.auxv import Aux, parse_auxv
from samepage.abi.resource import RLIM_INFINITY, RLIM_NLIMITS
from samepage.arch import ARGUMENTS
from samepage.cpu import engines
from samepage.errors import SamepageError
from samepage.kernel.boot import Kernel
from samepage.kernel.config import TIME_SLICE, KernelConfig
from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import MAY_EXEC, Credentials
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.rootfs import HostRoot
from samepage.kernel.mm.frames import OutOfFrames
from samepage.kernel.mm.page_cache import VM_READAHEAD_PAGES
from samepage.kernel.process import init
from samepage.kernel.process.elf_loader import BadExecutable
from samepage.kernel.process.exec import ExecFatal
from samepage.kernel.process.scheduler import Deadlock
from samepage.kernel.process.task import Process, Task
from samepage.kernel.process.timeline import TimelineEvent
from samepage.kernel.process.tracer import resume
from samepage.kernel.rules import named_rules, rules_of
from samepage.kernel.stop_request import LimitReached
from samepage.machine.debugger import Condition, Debugger
from samepage.machine.frame import FrameInfo
from samepage.machine.guest import Guest
from samepage.machine.host import Host, this_host
from samepage.machine.watchdog import watch
from samepage.stop_at import CALL_LENGTH, MAX_START_STEPS, StopAt, is_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.rootfs import RootFs
    from samepage.machine.content import Contents
    from samepage.snapshot.columns import Snapshot

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
MIN_RAM = 1 << 20
LOADERS = ("ldso", "builtin")
DEBUG_VARIABLE = "SAMEPAGE_DEBUG"
"""An environment variable that is as good as `debug`, unless it is empty."""
TIMED_OUT = 124
"""The exit status of `timeout(1)`."""


Until = StopAt | str | int | Collection[int] | Callable[[TimelineEvent], bool]
"""Where `Machine.run` stops a program; its docstring lists them."""


class Machine:
    """A machine with `ram` bytes (or text such as "512M") of memory.

    `root` is the directory that programs see as `/`, or other files (`kernel.fs.rootfs`);
    nothing in it is ever changed. `cold`
    starts with an empty page cache. `timeline` records every event for the snapshot.
    `seed` decides all that is random. `epoch_ns` is the time of day at boot (default: now).
    `debug` checks the kernel's invariants at each of its exits (see `samepage.kernel.debug`).
    `timeout` (seconds) and `max_instructions` bound each `run`. `time_slice` is how many system
    calls a task may make while others could run; `readahead` how many pages of a file are read
    ahead at most; `xstate_size` how many bytes of registers the host's CPU saves in a signal
    frame, if more than the engine's does. `engine` names what executes the programs'
    instructions (`samepage.cpu.engines.NAMES`). `host` is the kernel whose names and
    vDSO programs find (default: that of this system). `kernel` is the version of Linux whose rules
    hold (`samepage.kernel.rules.KNOWN`; default: those of the host's release). `splits_updates`:
    an instruction that updates memory takes two faults, as on a host whose CPU is emulated.

    Raises `SamepageError` if there is not enough RAM, `root` is no directory, the engine cannot
    be used, or cannot count instructions that are to be limited.
    """

    def __init__(
        self,
        ram: int | str = "4G",
        *,
        root: str | RootFs = "/",
        cold: bool = False,
        timeline: bool = False,
        seed: int = 0,
        epoch_ns: int | None = None,
        timeout: float | None = None,
        max_instructions: int = 0,
        debug: bool = False,
        time_slice: int = TIME_SLICE,
        readahead: int = VM_READAHEAD_PAGES,
        xstate_size: int = 0,
        engine: str = engines.DEFAULT,
        host: Host | None = None,
        kernel: str | None = None,
        splits_updates: bool = False,
    ) -> None:
        size = parse_size(ram)
        if size < MIN_RAM:
            raise SamepageError(f"RAM of {size} bytes is too small: give at least 1M")
        if timeout is not None and not timeout > 0:
            raise SamepageError(f"a timeout of {timeout} seconds is not above 0")
        if epoch_ns is not None and epoch_ns < 0:
            raise SamepageError(f"the time of day {epoch_ns} ns is before 1970")
        host = host or this_host()
        rules = rules_of(host.release) if kernel is None else named_rules(kernel)
        config = KernelConfig(
            epoch_ns=time.time_ns() if epoch_ns is None else epoch_ns,
            ram=size,
            cold=cold,
            seed=seed,
            max_instructions=max_instructions,
            events=timeline,
            debug=debug or bool(os.environ.get(DEBUG_VARIABLE)),
            time_slice=time_slice,
            readahead=readahead,
            xstate_size=xstate_size,
            min_sigstack_size=host.min_sigstack_size,
            mmap_min_addr=host.mmap_min_addr,
            hostname=host.hostname,
            release=host.release if kernel is None else f"{kernel}.0",
            rules=rules,
            version=host.version,
            vdso=host.vdso,
        )
        files = HostRoot(root) if isinstance(root, str) else root
        try:
            self.kernel = Kernel(config, partial(engines.make_engine, engine), files)
        except SysError as error:
            raise SamepageError(f"cannot use {files.name} as the root: {error}") from None
        except (OutOfFrames, OSError, OverflowError) as error:
            reason = str(error) or "the kernel itself does not fit"
            if isinstance(error, OverflowError):
                reason = "it is more than a process can map"
            raise SamepageError(f"cannot boot with {ram} of RAM: {reason}") from None
        if max_instructions and not self.kernel.cpu.counts_instructions:
            raise SamepageError(f"the engine {engine} cannot count instructions: limit the time")
        self.kernel.cpu.splits_updates = splits_updates
        self.debugger = Debugger(self.kernel)
        self.timeout = timeout
        self.guests: list[Guest] = []
        self._contents: Contents | None = None

    def spawn(
        self,
        argv: Sequence[str | bytes],
        *,
        env: EnvMapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | int = b"",
        stdout: int | None = None,
        stderr: int | None = None,
        loader: str = "ldso",
        lazy: bool = False,
        user: tuple[int, int] | None = None,
    ) -> Guest:
        """Start a program; it runs when `run` is called.

        A name without a slash is looked up in PATH, as a shell does it. `env` and `cwd`
        default to this process's. `stdin` is the bytes that the guest will read, or a host
        descriptor; `stdout` and `stderr` are host descriptors, or None to keep what is
        written (`Guest.stdout`). `user` has the user's and the group's number (default: ours).

        `loader` is "ldso" for the program's own (PT_INTERP), or "builtin" for
        samepage's linker in its place (see `samepage.machine.loader`); `lazy` makes that
        bind PLT entries at their first calls, where the program allows it.

        Raises `SamepageError` with exit status 127 if there is no such program or its
        interpreter is missing, 126 if it cannot be executed.
        """
        kernel = self.kernel
        if isinstance(argv, str):
            raise SamepageError(f"a program is a list of words: write [{argv!r}]")
        words = [os.fsencode(word) for word in argv]
        environment = dict(os.environ) if env is None else dict(env)
        if not words:
            raise SamepageError("no program was given")
        if loader not in LOADERS:
            raise SamepageError(f"there is no loader {loader!r}: it is one of {', '.join(LOADERS)}")
        output = bytearray()
        task = self._new_process(cwd, user)
        process = task.process
        try:
            stdio = kernel.vfs.stdio
            source = stdio.open_bytes(stdin) if isinstance(stdin, bytes) else None
            streams = [source or stdio.open_host(_as_fd(stdin))]
            streams += [_sink(kernel, fd, output) for fd in (stdout, stderr)]
            for stream in streams:
                process.files.install(stream)
            path = self._find(process, words[0], environment.get("PATH"))
            strings = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
            builtin = loader == "builtin"
            init.start(task, path, words, strings, run_interpreter=not builtin)
        except BaseException as error:
            self._abandon(task)
            raise _explain(error, words[0]) from None
        if builtin:
            self._link(task, environment, lazy)
        guest = Guest(self, process, output)
        self.guests.append(guest)
        return guest

    def _link(self, task: Task, environment: EnvMapping[str, str], lazy: bool) -> None:
        """Let our linker do the interpreter's work. Raises `SamepageError`."""
        from samepage.machine.content import Contents
        from samepage.machine.loader.start import BuiltinLoader
        from samepage.machine.loader.user_side import UserSide

        if self._contents is None:
            self._contents = Contents(self.kernel)
        try:
            user = UserSide(task, self.kernel, self.debugger)
            BuiltinLoader(user, self._contents, dict(environment), lazy).start()
        except BaseException as error:
            self._abandon(task)
            name = task.process.argv[0] if task.process.argv else b""
            raise _explain(error, name) from None

    def _new_process(self, cwd: str | None, user: tuple[int, int] | None) -> Task:
        kernel = self.kernel
        if user is not None:
            cred = Credentials.of_user(*user, (user[1],))
        else:
            cred = Credentials.of_user(os.getuid(), os.getgid(), tuple(sorted(os.getgroups())))
        try:
            where = os.fsencode(cwd) if cwd is not None else os.getcwdb()
            context = kernel.vfs.context(cred, where)
        except (SysError, FileNotFoundError) as error:
            if cwd is not None:
                raise SamepageError(f"cannot use {cwd} as working directory: {error}") from None
            context = kernel.vfs.context(cred)  # this directory was removed, or is not in the root
        context.umask = _host_umask()
        try:
            task = init.new_process(kernel, context, _host_limits())
        except OutOfFrames:
            raise SamepageError("out of memory: the machine has no frame left") from None
        task.process.nice = os.getpriority(os.PRIO_PROCESS, 0)
        self.debugger.add_program(task.process)
        return task

    def _abandon(self, task: Task) -> None:
        self.debugger.remove_program(task.process)
        init.abandon(task)

    def _find(self, process: Process, name: bytes, search: str | None) -> bytes:
        """The path of a program, looked up in PATH. Raises `SysError`."""
        if b"/" in name or not name:
            return name
        vfs = self.kernel.vfs
        default = "/usr/local/bin:/usr/bin:/bin"
        for directory in os.fsencode(search if search is not None else default).split(b":"):
            candidate = (directory or b".") + b"/" + name
            try:
                found = vfs.lookup(process.fs, candidate)
            except SysError:
                continue
            if stat.S_ISREG(found.inode.mode) and process.fs.cred.may(found.inode, MAY_EXEC):
                return candidate
        text = name.decode(errors="backslashreplace")
        raise SamepageError(f"{text}: command not found", _NOT_FOUND)

    def discard(self, guest: Guest) -> None:
        """Give back the memory of a program, and end what is left of it and its children.

        Raises `SamepageError` if that was done already.
        """
        self._check_mine(guest)
        self.debugger.remove_program(guest.process)
        init.kill_descendants(guest.process)
        init.reap(guest.process)
        if guest.kept is not None:
            self.kernel.tracers.drop_memory(guest.kept)
        self.guests.remove(guest)

    def _check_mine(self, guest: Guest) -> None:
        if guest not in self.guests:
            raise SamepageError(f"{guest!r} is not on this machine, or was discarded")

    def run(self, guest: Guest, until: Until = StopAt.EXIT) -> int | None:
        """Run `guest` (and what it forks) until it exits or reaches `until`; return its
        exit code, None if it was stopped before. A stopped guest continues when `run` is
        called again.

        `until` is a `StopAt` or its name ("entry", "main", "exit"), or the address of an
        instruction or several (it stops before the first of them that it comes to), or a
        function that is asked at each event of the timeline: if it answers True, the guest
        stops when that fault or system call is done, and before any further one.

        Raises `SamepageError` if a limit was reached, if the programs wait for each other
        for ever, if `guest` is another machine's, or for a function if the machine was booted
        without `timeline`.
        """
        self._check_mine(guest)
        if isinstance(until, str):
            until = _stop_at(until)
        elif isinstance(until, int):
            until = (until,)
        process = guest.process
        if until is StopAt.EXIT:
            self._run_to(guest)
        elif isinstance(until, StopAt):
            if not guest.reached_entry:
                self._run_to(guest, [self._entry(process)])
                guest.reached_entry = guest.exit_code is None
            if until is StopAt.MAIN and guest.exit_code is None:
                self._run_to(guest, [self._find_main(guest)])
        elif isinstance(until, Collection):
            self._run_to(guest, until)
        else:
            if not self.kernel.config.events:
                raise SamepageError("to stop at an event, boot the machine with timeline=True")
            self._run_to(guest, condition=until)
        return guest.exit_code

    def _run_to(
        self, guest: Guest, addresses: Collection[int] = (), condition: Condition | None = None
    ) -> None:
        """Run until the guest exits, or is held (see `Debugger.stopping`)."""
        kernel, process = self.kernel, guest.process
        resume(process)
        stopping = self.debugger.stopping(process, addresses, condition)
        try:
            with stopping, watch(kernel, self.timeout):
                kernel.scheduler.run_until_exit(process)
        except LimitReached as limit:
            raise SamepageError(f"{_name(guest)}: stopped at {limit}", TIMED_OUT) from None
        except Deadlock as deadlock:
            raise SamepageError(f"{_name(guest)}: {deadlock}", TIMED_OUT) from None

    def _find_main(self, guest: Guest) -> int:
        """Step from the entry point to the first call, which passes `main` (see `stop_at`).

        Raises `SamepageError` for a program that does not start that way.
        """
        kernel, process = self.kernel, guest.process
        kernel.scheduler.switch_to(process.leader)
        code = next(vma for vma in guest.mm.vmas if vma.start <= kernel.cpu.pc < vma.end)
        for _ in range(MAX_START_STEPS):
            if is_call(guest.memory.read(kernel.cpu.pc, CALL_LENGTH)):
                main = kernel.cpu.read(ARGUMENTS[0])
                if code.start <= main < code.end:
                    return int(main)
                break
            kernel.cpu.step()
        raise SamepageError(f"{_name(guest)}: cannot find its main; use --stop entry")

    def _entry(self, process: Process) -> int:
        return parse_auxv(process.auxv)[Aux.ENTRY]

    @property
    def timeline(self) -> list[TimelineEvent]:
        """All events since boot, if the machine was booted with `timeline`."""
        return self.debugger.timeline

    @property
    def engine(self) -> str:
        """The name of the engine that executes the programs."""
        return self.kernel.cpu.name

    @property
    def log(self) -> list[str]:
        """The kernel's messages."""
        return self.kernel.log

    @property
    def unimplemented_syscalls(self) -> dict[str, int]:
        """System calls that programs tried and the kernel does not have, with counts."""
        return dict(self.kernel.entry.unimplemented)

    def frame(self, number: int) -> FrameInfo:
        """What is in a physical frame, and who maps it. Raises `SamepageError`."""
        if not 0 < number < self.kernel.ram.n_frames:
            raise SamepageError(f"the machine has no frame {number}")
        return FrameInfo(self, number)

    def page_cache(self, path: str) -> dict[int, int]:
        """The cached pages of a file: page of the file -> frame. Raises `SamepageError`."""
        vfs = self.kernel.vfs
        try:
            inode = vfs.lookup(vfs.context(), os.fsencode(path)).inode
        except SysError as error:
            raise SamepageError(f"{path}: {error}") from None
        return dict(inode.mapping.pages) if inode.mapping is not None else {}

    def export(self, directory: str) -> int:
        """Save the files that programs changed in a new directory of the host, as a layer
        over `root`; return how many names were written. Raises `SamepageError`."""
        try:
            return self.kernel.vfs.export(directory)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SamepageError(f"cannot export to {directory}: {reason}") from None

    def snapshot(self) -> Snapshot:
        """Physical memory as it is now, in the tables that all reports read."""
        from samepage.machine.snapshot import take_snapshot

        return take_snapshot(self)


def _stop_at(name: str) -> StopAt:
    try:
        return StopAt(name)
    except ValueError:
        known = ", ".join(stop.value for stop in StopAt)
        raise SamepageError(f"cannot stop at {name!r}: it is one of {known}") from None


def parse_size(text: int | str) -> int:
    """Bytes, from a number or text such as "512M" or "2GiB". Raises `SamepageError`."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*", str(text), re.IGNORECASE)
    if match is None:
        raise SamepageError(f"{text!r} is not a size: write for example 512M or 4G")
    return int(match[1]) * _UNITS[match[2].lower()]


def _sink(kernel: Kernel, fd: int | None, output: bytearray) -> OpenFile:
    stdio = kernel.vfs.stdio
    return stdio.open_sink(output.extend) if fd is None else stdio.open_host(fd)


def _as_fd(stdin: object) -> int:
    if not isinstance(stdin, int):
        kind = type(stdin).__name__
        raise SamepageError(f"stdin is bytes or a descriptor of the host, not of type {kind}")
    return stdin


def _name(guest: Guest) -> str:
    return guest.argv[0] if guest.argv else f"pid {guest.pid}"


def _explain(error: BaseException, name: bytes) -> BaseException:
    """The user's error for what went wrong in starting a program."""
    text = name.decode(errors="backslashreplace")
    if isinstance(error, BadExecutable):
        missing = error.errno in (2, 20)
        status = _NOT_FOUND if missing else _NOT_EXECUTABLE
        return SamepageError(f"{text}: cannot execute: {error.reason}", status)
    if isinstance(error, SysError):
        status = _NOT_FOUND if error.errno in (2, 20) else _NOT_EXECUTABLE
        return SamepageError(f"{text}: cannot execute: {os.strerror(error.errno)}", status)
    if isinstance(error, ExecFatal):
        return SamepageError(f"{text}: cannot execute: {error.reason}", _NOT_EXECUTABLE)
    if isinstance(error, LimitReached):
        return SamepageError(f"{text}: stopped at {error}", TIMED_OUT)
    if isinstance(error, OutOfFrames):
        return SamepageError(f"{text}: out of memory: the machine's RAM is too small", 126)
    return error


def _host_limits() -> dict[int, tuple[int, int]]:
    """This process's own resource limits, which a program inherits as it would natively."""
    limits = {}
    for which in range(RLIM_NLIMITS):
        soft, hard = resource.getrlimit(which)
        limits[which] = (soft & RLIM_INFINITY, hard & RLIM_INFINITY)
    return limits


def _host_umask() -> int:
    """This process's umask, read without changing it."""
    try:
        with open("/proc/self/status", "rb") as file:
            match = re.search(rb"^Umask:\s*(\d+)$", file.read(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1], 8) if match else 0o022
