"""/proc/PID (fs/proc/base.c, fs/proc/fd.c)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from samepage.kernel.errors import SysError
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.mount import Mount
from samepage.kernel.fs.namei import path_name
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.procfs import maps, smaps, status, system
from samepage.kernel.fs.procfs.nodes import (
    BinaryFile,
    GeneratedFile,
    NumberDirectory,
    ProcDirectory,
    ProcFile,
    ProcLink,
    TextNode,
)
from samepage.kernel.fs.procfs.seq_file import NextRecord, SeqFile, of_list
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.vma import Vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.procfs.view import ProcessView


def make_directory(
    sb: Superblock,
    process: ProcessView,
    mount_table: list[Mount],
    task: int | None = None,
) -> ProcDirectory:
    """The directory of a process, or, with `task`, of one of its threads."""
    tid = process.pid if task is None else task

    def text(show: Callable[[ProcessView], str], mode: int = 0o444) -> ProcFile:
        return ProcFile(sb, lambda: os.fsencode(show(process)), mode)

    def by_vma(show: Callable[[AddressSpace, Vma], str]) -> SeqFile:
        def bind() -> NextRecord:
            mm = process.mm
            return maps.vma_records(mm, show) if mm is not None else lambda _: None

        return SeqFile(sb, bind)

    def by_mount(show: Callable[[list[Mount], Path], list[str]]) -> SeqFile:
        records = of_list(lambda: show(mount_table, process.fs.root))

        def bind() -> NextRecord:
            if process.exited:
                raise SysError(errno.EINVAL)
            return records()

        return SeqFile(sb, bind)

    def place(get: Callable[[], Path | None]) -> ProcLink:
        """A link that a zombie does not have any more."""

        def target() -> Path:
            path = None if process.exited else get()
            if path is None:
                raise SysError(errno.ENOENT)
            return path

        return ProcLink(sb, lambda: path_name(target()), target)

    nodes: dict[bytes, Inode] = {
        b"fd": _fds(sb, process),
        b"fdinfo": _fdinfo(sb, process),
        b"environ": _MemoryFile(sb, process, _while_in_use(_environ), 0o400),
        b"auxv": _MemoryFile(sb, process, lambda _: _constant(process.auxv), 0o400),
        b"status": text(lambda p: status.status(p, tid)),
        b"personality": text(lambda p: f"{p.personality:08x}\n", 0o400),
        b"limits": text(status.limits),
        b"comm": ProcFile(
            sb,
            lambda: os.fsencode(process.comm) + b"\n",
            0o644,
            lambda data: _rename(process, data),
        ),
        b"cmdline": ProcFile(sb, lambda: _cmdline(process)),
        b"stat": text(lambda p: status.stat(p, tid, whole=task is None)),
        b"statm": ProcFile(sb, lambda: status.statm(process.mm).encode()),
        b"maps": by_vma(maps.map_line),
        b"cwd": place(lambda: process.fs.cwd),
        b"root": place(lambda: process.fs.root),
        b"exe": place(lambda: process.exe),
        b"mounts": by_mount(system.mounts),
        b"mountinfo": by_mount(system.mountinfo),
        b"smaps": by_vma(smaps.smaps_entry),
        b"smaps_rollup": _MemoryFile(sb, process, lambda mm: lambda: _rollup(mm)),
        b"pagemap": BinaryFile(sb, lambda: _pagemap(_memory(process)), 0o400),
        b"wchan": text(lambda _: "0"),
        b"cgroup": text(lambda _: "0::/\n"),
        b"oom_score": text(lambda _: "0\n"),
        b"oom_score_adj": _oom_score_adj(sb),
        b"loginuid": text(lambda _: "4294967295"),
        b"sessionid": text(lambda _: "4294967295"),
    }
    if task is None:
        nodes[b"task"] = NumberDirectory(
            sb,
            lambda: list(process.tids),
            lambda tid: make_directory(sb, process, mount_table, tid),
            lambda tid: process,
        )
    directory = ProcDirectory(sb, nodes)
    for inode in (directory, *nodes.values()):
        inode.uid, inode.gid = process.cred.euid, process.cred.egid
    return directory


class _MemoryFile(TextNode):
    """A text about the memory that a process has when the file is opened. `bind` takes that
    memory, and returns what makes the text."""

    def __init__(
        self,
        sb: Superblock,
        process: ProcessView,
        bind: Callable[[AddressSpace], Callable[[], bytes]],
        mode: int = 0o444,
    ) -> None:
        super().__init__(sb, mode)
        self._process = process
        self._bind = bind

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it for the memory that the process has now."""
        return GeneratedFile(path, flags, self._bind(_memory(self._process)))


def _memory(process: ProcessView) -> AddressSpace:
    """The memory that a file is opened for. Raises `SysError(ESRCH)` for a zombie
    (`proc_mem_open`, since Linux 6.16; before that there was nothing in the file)."""
    if process.mm is None:
        raise SysError(errno.ESRCH)
    return process.mm


def _while_in_use(
    show: Callable[[AddressSpace], bytes],
) -> Callable[[AddressSpace], Callable[[], bytes]]:
    """Nothing once the memory is gone, as at `execve` (`mmget_not_zero`)."""
    return lambda mm: lambda: show(mm) if mm.users else b""


def _rollup(mm: AddressSpace) -> bytes:
    if not mm.users:
        raise SysError(errno.ESRCH)
    return os.fsencode(smaps.smaps_rollup(mm))


def _constant(text: bytes) -> Callable[[], bytes]:
    return lambda: text


def _cmdline(process: ProcessView) -> bytes:
    """The arguments, as the process's own memory has them now (`get_mm_cmdline`)."""
    mm = process.mm
    if mm is None:
        return b""
    layout = mm.layout
    text = maps.peek(mm, layout.arg_start, layout.arg_end)
    if text and not text.endswith(b"\0") and layout.env_start == layout.arg_end:
        # setproctitle() wrote over the end: one string, which may continue into the environment.
        text = maps.peek(mm, layout.arg_start, layout.env_end).partition(b"\0")[0]
    return text


def _environ(mm: AddressSpace) -> bytes:
    layout = mm.layout
    return maps.peek(mm, layout.env_start, layout.env_end)


def _pagemap(mm: AddressSpace) -> Callable[[int, int], bytes]:
    return lambda offset, length: maps.pagemap(mm, offset, length) if mm.users else b""


def _rename(process: ProcessView, data: bytes) -> None:
    process.comm = os.fsdecode(data[:15].rstrip(b"\n"))


def _oom_score_adj(sb: Superblock) -> ProcFile:
    value = b"0\n"

    def store(data: bytes) -> None:
        nonlocal value
        try:
            number = int(data)
        except ValueError as error:
            raise SysError(errno.EINVAL) from error
        if not -1000 <= number <= 1000:
            raise SysError(errno.EINVAL)
        value = b"%d\n" % number

    return ProcFile(sb, lambda: value, 0o644, store)


def _fds(sb: Superblock, process: ProcessView) -> NumberDirectory:
    """`fd/`: magic links to the open files."""

    def make(fd: int) -> Inode:
        file = _file(process, fd)
        mode = (0o500 if file.readable else 0) | (0o300 if file.writable else 0) or 0o100
        return ProcLink(sb, lambda: path_name(file.path), lambda: file.path, mode)

    return NumberDirectory(
        sb, lambda: _numbers(process), make, lambda fd: _file(process, fd), 0o500
    )


def _fdinfo(sb: Superblock, process: ProcessView) -> NumberDirectory:
    def make(fd: int) -> Inode:
        file = _file(process, fd)
        return ProcFile(sb, lambda: _describe(process, fd, file).encode(), 0o400)

    return NumberDirectory(
        sb, lambda: _numbers(process), make, lambda fd: _file(process, fd), 0o555
    )


def _numbers(process: ProcessView) -> list[int]:
    return list(process.files)


def _file(process: ProcessView, fd: int) -> OpenFile:
    return process.files.get_raw(fd)


def _describe(process: ProcessView, fd: int, file: OpenFile) -> str:
    """fdinfo (`seq_show` in fs/proc/fd.c)."""
    flags = file.flags
    if fd in process.files.cloexec:
        flags |= os.O_CLOEXEC
    return (
        f"pos:\t{file.pos}\nflags:\t0{flags:o}\nmnt_id:\t{file.path.mount_id}\n"
        f"ino:\t{file.inode.ino}\n"
    )
