"""The real ld.so at work: what it loads, binds and stores, stopped before any program code.

A program is started without address space randomisation and with LD_DEBUG, under ptrace,
and is held at two instants:

- when ld.so has relocated everything and is about to call `__libc_early_init`, the first
  code of a library that it runs (IFUNC resolvers apart). Its memory then is what
  relocation made of it. AT_ENTRY would be too late for that: constructors have run.
- at when LD_DEBUG has also told the order of the constructors.

Then it is killed. The program's own code has not run, its libraries' constructors have.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from samepage.abi.auxv import Aux
from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.trace import ptrace
from samepage.trace.launch import Launch, auxiliary_vector, launch
from samepage.trace.ptrace import StopKind

_SYS_ARCH_PRCTL = 158
_EARLY_INIT = "__libc_early_init"


@dataclass(frozen=True, slots=True)
class MappedFile:
    """An object in the process: the lowest address of its file, and what identifies it."""

    path: str
    start: int
    identity: tuple[int, int]


@dataclass(slots=True)
class LdsoRun:
    """What ld.so did.

    `debug` are the lines of LD_DEBUG without their pid, of which the first
    `relocation_lines` were written when everything had been relocated.
    """

    pid: int
    output: str
    files: list[MappedFile] = field(default_factory=list)
    debug: list[str] = field(default_factory=list)
    relocation_lines: int = 0
    thread_pointer: int = 0

    def read(self, address: int, length: int) -> bytes:
        """Memory of the held process. Only valid inside of `observe`'s callback."""
        return ptrace.read_memory(self.pid, address, length)


def observe(
    path: str,
    environment: Mapping[str, str],
    *,
    bind_now: bool,
    debug: str = "files,bindings,scopes",
    on_relocated: Callable[[LdsoRun], None] | None = None,
) -> LdsoRun:
    """Run ld.so for the program at `path` up to its entry point, and kill it there.

    `on_relocated` is called while the process is held right after relocation. Raises
    `SamepageError` if the program cannot be traced, or ends before its entry point; the
    message then has what ld.so said.
    """
    with tempfile.TemporaryDirectory(prefix="samepage-ldso-") as directory:
        output = os.path.join(directory, "debug")
        env = {**environment, "LD_DEBUG": debug, "LD_DEBUG_OUTPUT": output}
        if bind_now:
            env["LD_BIND_NOW"] = "1"
        with open(os.path.join(directory, "stderr"), "w+b") as stderr:
            # Here, not in /: `path` and LD_LIBRARY_PATH may be relative.
            pid, _ = launch(Launch(path, [path], env, cwd=".", stderr=stderr.fileno()))
            run = LdsoRun(pid, f"{output}.{pid}")
            try:
                finished = _to_entry(run, on_relocated)
            finally:
                _kill(pid)
            if not finished:
                stderr.seek(0)
                said = stderr.read().decode("utf-8", "replace").strip().splitlines()
                raise SamepageError(
                    f"{path}: ends in ld.so: {said[-1] if said else 'without a message'}", 1
                )
            run.debug = _read_debug(run.output)
    return run


def _to_entry(run: LdsoRun, on_relocated: Callable[[LdsoRun], None] | None) -> bool:
    """Go on to the entry point, calling `on_relocated` on the way. False if it ended."""
    entry = auxiliary_vector(run.pid)[Aux.ENTRY]
    if not _run_to_tls(run.pid, entry):
        return False
    run.files = mapped_files(run.pid)
    relocated = _early_init(run.files) or entry
    for address in dict.fromkeys((relocated, entry)):
        ptrace.set_breakpoint(run.pid, address)
        if not _run_to(run.pid, address):
            return False
        if address == relocated and on_relocated is not None:
            run.files = mapped_files(run.pid)
            run.thread_pointer = ptrace.get_registers(run.pid).fs_base
            run.relocation_lines = len(_read_debug(run.output))
            on_relocated(run)
    return True


def _run_to_tls(pid: int, entry: int) -> bool:
    """Run to the system call that sets the thread pointer: everything is mapped then."""
    ptrace.set_breakpoint(pid, entry)
    while ptrace.resume(pid, syscalls=True):
        stop = ptrace.wait(pid)
        if stop.kind is StopKind.GONE:
            return False
        if stop.kind is StopKind.SYSCALL and ptrace.syscall_info(pid)[1] == _SYS_ARCH_PRCTL:
            return True
        if stop.kind is StopKind.SIGNAL and stop.signal == signal.SIGTRAP:
            return True
    return False


def _run_to(pid: int, address: int) -> bool:
    """Run to the breakpoint at an address."""
    if ptrace.get_registers(pid).rip == address:
        return True
    signal_number = 0
    while ptrace.resume(pid, signal_number):
        stop = ptrace.wait(pid)
        if stop.kind is StopKind.GONE:
            return False
        signal_number = 0
        if stop.kind is StopKind.SIGNAL:
            if stop.signal == signal.SIGTRAP and ptrace.get_registers(pid).rip == address:
                return True
            signal_number = stop.signal
    return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        while ptrace.wait(pid).kind is not StopKind.GONE:
            ptrace.resume(pid)
    except (ProcessLookupError, ChildProcessError):
        pass


def mapped_files(pid: int) -> list[MappedFile]:
    """The files that a process has mapped, by lowest address, in the order of addresses."""
    found: dict[str, MappedFile] = {}
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) < 6 or not fields[5].startswith("/") or fields[5] in found:
                continue
            status = os.stat(fields[5])
            start = int(fields[0].partition("-")[0], 16)
            found[fields[5]] = MappedFile(fields[5], start, (status.st_dev, status.st_ino))
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
