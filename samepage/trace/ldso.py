"""The real ld.so at work: what it loads, binds and stores, stopped before any program code.

A program is started without address space randomisation and with LD_DEBUG, under ptrace,
and is held at two instants:

- when ld.so has relocated everything and is about to call `__libc_early_init`, the first
  code of a library that it runs (IFUNC resolvers apart). Its memory then is what
  relocation made of it. AT_ENTRY would be too late for that: constructors have run.
- at when LD_DEBUG has also printed the order of the constructors.

Then it is killed. The program's own code has not run, its libraries' constructors have.
"""

import contextlib
import errno
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from samepage.abi.auxv import Aux
from samepage.abi.page import HOST_PAGE_SIZE
from samepage.arch import Sys
from samepage.elf.header import ElfError
from samepage.elf.layout import I64
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.records import field, record
from samepage.trace import ptrace
from samepage.trace.launch import Launch, auxiliary_vector, launch
from samepage.trace.ptrace import Stop, StopKind

TIMEOUT = 60.0
"""Seconds from exec to the entry point, by default."""

_PATIENCE = 5.0
"""Seconds that killed processes are waited for."""
_MOST_AT_ONCE = 1 << 30
"""Bytes of one read: the kernel's own limit is a page below 2 GiB."""
_FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)

_EARLY_INIT = "__libc_early_init"


class EndedInLdso(SamepageError):
    """The program ended before its entry point. `reason` is the last line that ld.so wrote, the
    signal and where it came, or the exit status.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: ends in ld.so: {reason}", 1)
        self.reason = reason


@record(frozen=True)
class MappedFile:
    """An object in the process: the lowest address of its file, and what identifies it."""

    path: str
    start: int
    identity: tuple[int, int]


@record
class LdsoRun:
    """What ld.so did.

    `debug` are the lines of LD_DEBUG without their pid, of which the first
    `relocation_lines` were written when everything had been relocated. `output` is the
    path that LD_DEBUG wrote to, `errors` that of the program's stderr; `warnings` are the lines
    that ld.so had written there by then.
    """

    pid: int
    output: str
    errors: str
    files: list[MappedFile] = field(default_factory=list)
    debug: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    relocation_lines: int = 0
    thread_pointer: int = 0

    def read(self, address: int, length: int) -> bytes:
        """Memory of the held process. Only valid inside of `observe`'s callback."""
        parts = []
        while length > 0:
            part = ptrace.read_memory(self.pid, address, min(length, _MOST_AT_ONCE))
            if not part:
                raise OSError(errno.EFAULT, f"nothing is mapped at {address:#x}")
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def present(self, start: int, end: int) -> I64:
        """The pages of a range that are in memory or swapped, as offsets in bytes from `start`.

        An absent page of anonymous memory is one that was never written to, or read.
        """
        with open(f"/proc/{self.pid}/pagemap", "rb", buffering=0) as file:
            raw = os.pread(
                file.fileno(), (end - start) // HOST_PAGE_SIZE * 8, start // HOST_PAGE_SIZE * 8
            )
        present: I64 = (np.frombuffer(raw, np.uint64) >> np.uint64(62)).nonzero()[0]
        return present * HOST_PAGE_SIZE


def observe(
    path: str,
    environment: Mapping[str, str],
    *,
    bind_now: bool,
    debug: str = "files,bindings,scopes",
    on_relocated: Callable[[LdsoRun], None] | None = None,
    timeout: float = TIMEOUT,
) -> LdsoRun:
    """Run ld.so for the program at `path` up to its entry point, and kill it there.

    `on_relocated` is called while the process is held right after relocation. `timeout` is in
    seconds; a constructor may wait for ever.

    Raises `EndedInLdso` if the program ends before its entry point, with what ld.so wrote or
    the signal and the object that it came in, and `SamepageError` if it cannot be traced, or
    does not get there in time.
    """
    with tempfile.TemporaryDirectory(prefix="samepage-ldso-") as directory:
        output = os.path.join(directory, "debug")
        env = {**environment, "LD_DEBUG": debug, "LD_DEBUG_OUTPUT": output}
        if bind_now:
            env["LD_BIND_NOW"] = "1"
        with open(os.path.join(directory, "stderr"), "w+b") as stderr:
            # Here, not in /: `path` and LD_LIBRARY_PATH may be relative.
            pid, _ = launch(Launch(path, [path], env, cwd=".", stderr=stderr.fileno()))
            run = LdsoRun(pid, f"{output}.{pid}", stderr.name)
            process = _Process(pid, timeout)
            try:
                finished = _to_entry(run, process, on_relocated)
            except _TooLate:
                raise SamepageError(
                    f"{path}: is not at its entry point after {timeout:g} s (--timeout): it is "
                    f"{process.where()}",
                    1,
                ) from None
            finally:
                process.kill()
            stderr.seek(0)
            message = stderr.read().decode("utf-8", "replace").strip()
            if not finished:
                line = message.splitlines()[-1] if message else process.ended
                raise EndedInLdso(path, process.last or line)
            run.debug = _read_debug(run.output)
    return run


class _TooLate(Exception):
    """The deadline has passed."""


class _Process:
    """A traced process on its way to an address of its first thread, and all that it starts.

    Its other threads and processes run freely: a constructor may wait for them.
    """

    def __init__(self, pid: int, timeout: float) -> None:
        self.pid = pid
        self.last = ""
        """The last fatal signal, and where it came."""
        self.ended = ""
        """How the first thread ended, once it has."""
        self._others: set[int] = set()
        self._late, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, args=(timeout,), daemon=True).start()

    def next_stop(self) -> Stop:
        """The next stop of the first thread, or its end. Raises `_TooLate`."""
        while True:
            stop = ptrace.wait()
            if self._late.is_set():
                raise _TooLate
            if stop.tid == self.pid:
                if stop.kind is StopKind.SIGNAL and stop.signal in _FATAL:
                    self.last = f"{signal.Signals(stop.signal).name} {self.where()}"
                if stop.kind is StopKind.GONE:
                    self.ended = _end(stop.status)
                return stop
            self._let_go(stop)

    def _watch(self, timeout: float) -> None:
        """Stop the process when its time has passed; what waits for it hears of that."""
        if not self._over.wait(timeout):
            self._late.set()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGSTOP)
                if not self._over.wait(_PATIENCE):
                    os.kill(self.pid, signal.SIGKILL)

    def _let_go(self, stop: Stop) -> None:
        if stop.kind is StopKind.GONE:
            self._others.discard(stop.tid)
            return
        self._others.add(stop.tid)
        if stop.kind is StopKind.GROUP_STOP:
            ptrace.listen(stop.tid)
        else:
            ptrace.resume(stop.tid, stop.signal if stop.kind is StopKind.SIGNAL else 0)

    def where(self) -> str:
        """Where the first thread is: an object and a distance in it."""
        with contextlib.suppress(OSError):
            registers = ptrace.get_registers(self.pid)
            found = _object_at(self.pid, registers.rip)
            if found:
                return f"in {found}"
            # A call of a bad address has left where it came from.
            caller = ptrace.read_memory(self.pid, registers.rsp, 8)
            found = _object_at(self.pid, int.from_bytes(caller, "little"))
            return f"at {registers.rip:#x}, called from {found or 'nowhere'}"
        return "nowhere: it has ended"

    def kill(self) -> None:
        """End the process and all that it has started, and wait until they are gone."""
        self._over.set()
        left = {self.pid, *self._others}
        deadline = time.monotonic() + _PATIENCE
        for tid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tid, signal.SIGKILL)
        # The first thread is reported only when all the others have been.
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                tid, status = os.waitpid(-1, ptrace.WAIT_ANY | os.WNOHANG)
                if tid == 0:
                    time.sleep(1e-3)
                    continue
                if Stop.decode(tid, status).kind is StopKind.GONE:
                    left.discard(tid)
                    continue
                if tid not in left:
                    left.add(tid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(tid, signal.SIGKILL)
                ptrace.resume(tid)


def _end(wait_status: int) -> str:
    """How a process ended."""
    status = os.waitstatus_to_exitcode(wait_status)
    if status >= 0:
        return f"it exits with status {status}"
    try:
        return f"it is killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"it is killed by signal {-status}"


def _object_at(pid: int, address: int) -> str:
    """The file that is mapped at an address, and the distance from its first byte there."""
    for file, start, end in _mappings(pid):
        if start <= address < end:
            first = next(low for other, low, _ in _mappings(pid) if other == file)
            return f"{file} at {address - first:#x}"
    return ""


def _mappings(pid: int) -> list[tuple[str, int, int]]:
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6:
                low, _, high = fields[0].partition("-")
                found.append((fields[5], int(low, 16), int(high, 16)))
    return found


def _to_entry(
    run: LdsoRun, process: _Process, on_relocated: Callable[[LdsoRun], None] | None
) -> bool:
    """Continue to the entry point, calling `on_relocated` on the way. False if it ended."""
    entry = auxiliary_vector(run.pid)[Aux.ENTRY]
    ptrace.set_breakpoint(run.pid, entry)
    # All is mapped when the thread pointer is set; but auditors need one earlier.
    early, awaited = None, Sys.ARCH_PRCTL
    while early is None and ptrace.get_registers(run.pid).rip != entry:
        if not _run_to_syscall(process, awaited):
            return False
        run.files = mapped_files(run.pid)
        early, awaited = _early_init(run.files), Sys.MPROTECT
    relocated = early or entry
    for address in dict.fromkeys((relocated, entry)):
        ptrace.set_breakpoint(run.pid, address)
        if not _run_to(process, address):
            return False
        if address == relocated and on_relocated is not None:
            run.files = mapped_files(run.pid)
            run.thread_pointer = ptrace.get_registers(run.pid).fs_base
            run.relocation_lines = len(_read_debug(run.output))
            with open(run.errors, encoding="utf-8", errors="surrogateescape") as file:
                run.warnings = file.read().splitlines()
            on_relocated(run)
    return True


def _run_to_syscall(process: _Process, number: int) -> bool:
    """Run to the entry of a system call, or to the breakpoint. False if it ended."""
    pid = process.pid
    signal_number = 0
    while ptrace.resume(pid, signal_number, syscalls=True):
        stop = process.next_stop()
        if stop.kind is StopKind.GONE:
            return False
        if stop.kind is StopKind.SYSCALL and ptrace.syscall_info(pid)[1] == number:
            return True
        if stop.kind is StopKind.SIGNAL and stop.signal == signal.SIGTRAP:
            return True
        signal_number = stop.signal if stop.kind is StopKind.SIGNAL else 0
    return False


def _run_to(process: _Process, address: int) -> bool:
    """Run to the breakpoint at an address."""
    pid = process.pid
    if ptrace.get_registers(pid).rip == address:
        return True
    signal_number = 0
    while ptrace.resume(pid, signal_number):
        stop = process.next_stop()
        if stop.kind is StopKind.GONE:
            return False
        signal_number = 0
        if stop.kind is StopKind.SIGNAL:
            if stop.signal == signal.SIGTRAP and ptrace.get_registers(pid).rip == address:
                return True
            signal_number = stop.signal
    return False


def mapped_files(pid: int) -> list[MappedFile]:
    """The files that a process has mapped, by lowest address, in the order of addresses."""
    found: dict[str, MappedFile] = {}
    for path, start, _ in _mappings(pid):
        if path.startswith("/") and path not in found:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                found[path] = MappedFile(path, start, (status.st_dev, status.st_ino))
    return list(found.values())


def _early_init(files: list[MappedFile]) -> int | None:
    """The address of `__libc_early_init` in the process, if it has glibc's libc."""
    for file in files:
        if not os.path.basename(file.path).startswith("libc.so.6"):
            continue
        try:
            libc = DynamicObject.open(file.path)
        except (OSError, ElfError):
            return None
        names = libc.strings.pool(libc.symbols["st_name"]).names()
        if _EARLY_INIT in names:
            return file.start + int(libc.symbols["st_value"][names.index(_EARLY_INIT)])
    return None


def _read_debug(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line.partition("\t")[2] for line in file.read().splitlines()]
    except FileNotFoundError:
        return []


def ldd(path: str) -> list[str]:
    """The paths that `ldd` lists for a program, in order. Raises `SamepageError`."""
    result = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SamepageError(f"ldd {path}: {result.stdout.strip() or result.stderr.strip()}", 1)
    paths = []
    for line in result.stdout.splitlines():
        words = line.split()
        if "=>" in words:
            words = words[words.index("=>") + 1 :]
        if words and words[0].startswith("/"):
            paths.append(words[0])
    return paths
