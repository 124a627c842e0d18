"""Core dumps: the memory and the registers of a process that a signal ends (fs/coredump.c, and
`elf_core_dump` in fs/binfmt_elf.c).

The file `core` in the working directory is an ELF file without sections. Its first segment has
notes: registers, signal and name of the process, its auxiliary vector, which files it had
mapped. One segment for each VMA follows, of which as much is in the file as `coredump_filter`
selects by default: what the process wrote, shared memory without a name, and the first page of a
mapped ELF file, by which debuggers recognize the file. A page that is not there is a hole;
looking at it faults nothing in.
"""

from __future__ import annotations

import errno
import os
import struct

from samepage.abi.elf import EHDR64, NHDR, PHDR64, ElfType, SegmentType
from samepage.abi.resource import RLIM_INFINITY, Rlimit
from samepage.arch import ARCH, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, pte_pfn
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.uaccess import copy_from_user_partly
from samepage.kernel.mm.vma import Vma, VmFlags
from samepage.kernel.process.sigframe import pack_siginfo
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Process, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.file import OpenFile

CORE_NAME = b"core"
"""`core_pattern`."""
_PN_XNUM = 0xFFFF
_NT_PRSTATUS, _NT_PRFPREG, _NT_PRPSINFO, _NT_AUXV = 1, 2, 3, 6
_NT_SIGINFO, _NT_FILE = 0x53494749, 0x46494C45
_PRSTATUS = struct.Struct("<iiiHxxQQiiii8q")
"""`struct elf_prstatus` up to the registers: signal, its sets, ids, times."""
_FPVALID = struct.pack("<ixxxx", 1)
"""What follows the registers: there is FPU state."""
_PRPSINFO = struct.Struct("<bcbbxxxxQIIiiii16s80s")
"""State, flags, owner, ids, name and arguments."""
_CORE = ARCH.core_dump


class _TooLarge(Exception):
    """The file would exceed RLIMIT_CORE."""


def do_coredump(task: Task, info: SigInfo) -> bool:
    """Dump the process of `task`, which is current, for a signal; whether there is a file
    (`do_coredump`). It ends where RLIMIT_CORE does, and is a core dump even so."""
    process = task.process
    limit = process.limit(Rlimit.CORE)
    if process.dumpable != 1 or limit < PAGE_SIZE:
        return False
    vfs, fs = task.kernel.vfs, process.fs
    try:
        try:
            vfs.unlink(fs, CORE_NAME)
        except SysError as error:
            if error.errno != errno.ENOENT:
                return False
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_EXCL
        file = vfs.open(fs, CORE_NAME, flags, 0o600).get()
    except SysError:
        return False
    try:
        _Dump(task, file, limit).write(info)
    except (_TooLarge, SysError):
        pass
    finally:
        file.put()
    return True


class _Dump:
    """One dump on its way into a file."""

    def __init__(self, task: Task, file: OpenFile, limit: int) -> None:
        self._task = task
        self._file = file
        self._left = limit

    def write(self, info: SigInfo) -> None:
        """All of it (`elf_core_dump`). Raises `_TooLarge`, and `SysError` of the file."""
        mm = self._task.mm
        vmas = list(mm.vmas)
        sizes = [_dump_size(mm, vma) for vma in vmas]
        count = len(vmas) + 1
        if count >= _PN_XNUM:
            raise _TooLarge
        notes = self._notes(info)
        notes_at, length = EHDR64.size + count * PHDR64.size, sum(map(len, notes))
        start = at = (notes_at + length + PAGE_SIZE - 1) & PAGE_MASK
        headers = [PHDR64.pack(SegmentType.NOTE, 0, notes_at, 0, 0, length, 0, 4)]
        for vma, size in zip(vmas, sizes, strict=True):
            flags = _segment_flags(vma)
            length = vma.end - vma.start
            headers.append(
                PHDR64.pack(SegmentType.LOAD, flags, at, vma.start, 0, size, length, PAGE_SIZE)
            )
            at += size
        done = 0
        for piece in (_header(count), *headers, *notes):
            self._put(piece, done)
            done += len(piece)
        for vma, size in zip(vmas, sizes, strict=True):
            for address in range(vma.start, vma.start + size, PAGE_SIZE):
                page = _page(mm, vma, address)
                if page is not None:
                    self._put(page, start + address - vma.start)
            start += size
        self._file.ftruncate(at)

    def _put(self, data: bytes, offset: int) -> None:
        if self._left != RLIM_INFINITY:
            self._left -= len(data)
            if self._left < 0:
                raise _TooLarge
        self._file.pwrite(data, offset)

    def _notes(self, info: SigInfo) -> list[bytes]:
        """`fill_note_info`: the thread that got the signal comes first."""
        task = self._task
        process = task.process
        status, fpu = _thread(task, info)
        notes = [
            _note(_NT_PRSTATUS, status),
            _note(_NT_PRPSINFO, _psinfo(process)),
            _note(_NT_SIGINFO, pack_siginfo(info)),
            _note(_NT_AUXV, process.auxv),
            _note(_NT_FILE, _files(task.mm)),
            _note(_NT_PRFPREG, fpu),
        ]
        cpu = task.kernel.cpu
        own = cpu.save()
        for other in process.threads.values():
            if other is not task:
                cpu.restore(other.registers)
                status, fpu = _thread(other, info)
                notes += [_note(_NT_PRSTATUS, status), _note(_NT_PRFPREG, fpu)]
        cpu.restore(own)
        return notes


def _header(count: int) -> bytes:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    sizes = EHDR64.size, PHDR64.size, count, 0, 0, 0
    return EHDR64.pack(ident, ElfType.CORE, ARCH.elf_machine, 1, 0, EHDR64.size, 0, 0, *sizes)


def _note(kind: int, data: bytes) -> bytes:
    padded = data.ljust(len(data) + 3 & ~3, b"\0")
    return NHDR.pack(5, len(data), kind) + b"CORE\0\0\0\0" + padded


def _segment_flags(vma: Vma) -> int:
    """PF_* of a VMA: the access flags in the opposite order."""
    bits = ((VmFlags.READ, 4), (VmFlags.WRITE, 2), (VmFlags.EXEC, 1))
    return sum(flag for bit, flag in bits if vma.flags & bit)


def _dump_size(mm: AddressSpace, vma: Vma) -> int:
    """How many bytes of a VMA are dumped (`vma_dump_size`, with the usual filter 0x33)."""
    whole = vma.end - vma.start
    if vma.special:
        return whole
    if vma.flags & (VmFlags.DONTDUMP | VmFlags.IO):
        return 0
    if vma.flags & VmFlags.SHARED:
        return whole if vma.filp is None or vma.filp.unlinked else 0
    if vma.anon_vma is not None:
        return whole
    if vma.file is None or vma.pgoff or not vma.flags & VmFlags.READ:
        return 0
    page = _page(mm, vma, vma.start)
    return PAGE_SIZE if page is not None and page.startswith(b"\x7fELF") else 0


def _page(mm: AddressSpace, vma: Vma, address: int) -> bytes | None:
    """What a page holds, None for one that is not there (`get_dump_page`)."""
    slot = mm.table.slot(address)
    entry = mm.frames.ram.words[slot] if slot else 0
    pfn = pte_pfn(entry)
    if not entry and vma.file is not None and vma.index(address) << PAGE_SHIFT < vma.file.size:
        pfn = mm.cache.get(vma.file, vma.index(address))
    if not pfn or pfn == mm.frames.zero_pfn:
        return None
    return bytes(mm.frames.ram.frame(pfn))


def _thread(task: Task, info: SigInfo) -> tuple[bytes, bytes]:
    """`struct elf_prstatus` and the FPU state of a thread, whose registers the CPU holds."""
    cpu, process = task.kernel.cpu, task.process
    registers = tuple(cpu.read(register) for register in _CORE.registers)
    us, children_us = process.cpu_time_ns // 1000, process.children_usage.cpu_time_ns // 1000
    status = _PRSTATUS.pack(
        info.signal,
        info.code,
        0,
        info.signal,
        task.pending.mask,
        task.blocked,
        task.tid,
        process.ppid,
        process.pgid,
        process.sid,
        *(*divmod(us, 1_000_000), 0, 0),
        *(*divmod(children_us, 1_000_000), 0, 0),
    )
    status += _CORE.pack(registers, task.syscall_number) + _FPVALID
    return status, cpu.read_fpu()[: _CORE.fpu_size]


def _psinfo(process: Process) -> bytes:
    """`struct elf_prpsinfo`: the arguments are those that the program has on its stack now."""
    arguments = b""
    if process.mm is not None:
        layout = process.mm.layout
        length = min(layout.arg_end - layout.arg_start, 79)
        arguments = copy_from_user_partly(process.mm, layout.arg_start, length)
    return _PRPSINFO.pack(
        0,
        b"R",
        0,
        process.nice,
        0,
        process.cred.uid,
        process.cred.gid,
        process.pid,
        process.ppid,
        process.pgid,
        process.sid,
        os.fsencode(process.comm)[:15],
        arguments.replace(b"\0", b" "),
    )


def _files(mm: AddressSpace) -> bytes:
    """The mapped files (`fill_files_note`): their places, and their names after them."""
    vmas = [vma for vma in mm.vmas if vma.file is not None]
    places = b"".join(struct.pack("<QQQ", vma.start, vma.end, vma.pgoff) for vma in vmas)
    names = b"".join(os.fsencode(vma.shown_path) + b"\0" for vma in vmas)
    return struct.pack("<QQ", len(vmas), PAGE_SIZE) + places + names
