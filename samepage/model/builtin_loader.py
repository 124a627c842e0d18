"""Our dynamic linker in place of ld.so, for programs on the model machine.

The kernel has mapped the program and its interpreter, as exec does, and the program has
not run. `link_guest` takes the interpreter out again, loads and relocates all libraries
through the guest's own address space (every store faults pages in as ld.so's would), sets
up thread-local storage, and lets the program start at a few instructions that call the
libraries' constructors and jump to its entry point. Everything is bound at load time.

Programs of glibc cannot be started so, and are refused: `libc.so.6` is one half of a pair
whose other half is ld.so. It reads and writes ld.so's private variables (`_rtld_global`,
`_rtld_global_ro`: the list of objects, the CPU's features, the sizes of static TLS), whose
layout belongs to one build of glibc. Neither can dynamic programs of musl, whose libc *is*
their dynamic linker and initialises itself only in that role. What works is every program
that does not need its C library's other half: freestanding ones with their libraries.
Static programs have no dynamic linker, and run as they are.
"""

import errno
import os
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from samepage.elf.dynamic import Tag
from samepage.elf.layout import I64, U64
from samepage.elf.object import DynamicObject
from samepage.hardware.registers import Reg
from samepage.kernel.errors import SysError
from samepage.kernel.fs.regular import Regular
from samepage.kernel.mm.mmap import do_mmap, do_munmap
from samepage.kernel.mm.mprotect import do_mprotect
from samepage.kernel.mm.uaccess import copy_from_user, copy_to_user
from samepage.kernel.process.user_stack import Aux
from samepage.linker.errors import LinkError
from samepage.linker.hwcaps import HardwareCapabilities
from samepage.linker.ifunc import SandboxResolver
from samepage.linker.link import Linker, LinkResult
from samepage.linker.maps import LinkMap, MapKind
from samepage.linker.memory import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    OpenFile,
)
from samepage.linker.search import LinkerConfig

if TYPE_CHECKING:
    from samepage.model.guest import Guest

_TCB_SIZE = 2304
_ENTER = bytes.fromhex("4989e4")  # mov %rsp, %r12
_ARGUMENTS = bytes.fromhex("498b3c24 498d742408 488d54fe08")  # argc, argv and envp of r12
_LEAVE = bytes.fromhex("4c89e4 31d2 31ed")  # mov %r12, %rsp; no destructor, no frame
_CALL = bytes.fromhex("ffd0")
_JUMP = bytes.fromhex("ffe0")


class GuestMemory:
    """The memory of a process on the model, as the linker's `Memory`."""

    def __init__(self, guest: "Guest") -> None:
        self._process = guest.process
        self._mm = guest.process.mm
        self._kernel = guest.process.kernel
        self._inodes: dict[tuple[int, int], Regular] = {}

    def open(self, path: str) -> OpenFile:
        try:
            inode = self._kernel.vfs.lookup(self._process.fs, os.fsencode(path)).inode
        except SysError as error:
            raise _os_error(error) from None
        if not isinstance(inode, Regular) or not inode.size:
            raise OSError(errno.EINVAL, "file too short")
        identity = (inode.dev, inode.ino)
        self._inodes[identity] = inode
        data = self._kernel.cache.read(inode.mapping, 0, inode.size)
        return OpenFile(path, -1, identity, DynamicObject.from_bytes(data, path))

    def close(self, file: OpenFile) -> None:
        """No descriptor was used."""

    def is_directory(self, path: str) -> bool:
        try:
            inode = self._kernel.vfs.lookup(self._process.fs, os.fsencode(path)).inode
        except SysError:
            return False
        return inode.is_dir

    def read_text(self, path: str) -> bytes | None:
        try:
            inode = self._kernel.vfs.lookup(self._process.fs, os.fsencode(path)).inode
        except SysError:
            return None
        if not isinstance(inode, Regular):
            return None
        return bytes(self._kernel.cache.read(inode.mapping, 0, inode.size))

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        mapping, path = None, ""
        if file is not None and not flags & MAP_ANONYMOUS:
            mapping, path = self._inodes[file.identity].mapping, os.path.realpath(file.path)
        try:
            return do_mmap(self._mm, address, length, prot, flags, mapping, offset, path=path)
        except SysError as error:
            raise _os_error(error) from None

    def munmap(self, address: int, length: int) -> None:
        try:
            do_munmap(self._mm, address, length)
        except SysError as error:
            raise _os_error(error) from None

    def mprotect(self, address: int, length: int, prot: int) -> None:
        try:
            do_mprotect(self._mm, address, length, prot)
        except SysError as error:
            raise _os_error(error) from None

    def read(self, address: int, length: int) -> bytes:
        try:
            return copy_from_user(self._mm, address, length)
        except SysError as error:
            raise _os_error(error) from None

    def write(self, address: int, data: bytes) -> None:
        try:
            copy_to_user(self._mm, address, data)
        except SysError as error:
            raise _os_error(error) from None

    def zero(self, address: int, length: int) -> None:
        self.write(address, bytes(length))

    def read_words(self, start: int, offsets: I64) -> U64:
        raw = b"".join(self.read(start + offset, 8) for offset in offsets.tolist())
        return np.frombuffer(raw, np.uint64)

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        # Word by word, in order: each page's first fault is a write, as ld.so's is.
        for offset, word in zip(offsets.tolist(), words.tolist(), strict=True):
            self.write(start + offset, word.to_bytes(8, "little"))


def link_guest(guest: "Guest", environment: Mapping[str, str]) -> LinkResult | None:
    """Link a program that was spawned and has not run; None if it is static.

    Raises `LinkError` if it cannot be linked or belongs to a C library that needs its own
    dynamic linker, and `ElfError` for a broken file.
    """
    process = guest.process
    words = memoryview(process.auxv).cast("Q")
    auxv = dict(zip(words[::2], words[1::2], strict=True))
    if not auxv.get(Aux.BASE):
        return None
    memory = GuestMemory(guest)
    config = LinkerConfig(
        library_path=environment.get("LD_LIBRARY_PATH", ""),
        preload=environment.get("LD_PRELOAD", ""),
        bind_now=True,
        capabilities=HardwareCapabilities(),
    )
    linker = Linker(memory, config, SandboxResolver(memory))
    file = memory.open(process.exe_path)
    _remove_interpreter(memory, file.object, auxv[Aux.BASE])
    base = auxv[Aux.ENTRY] - file.object.elf.entry
    linker.loader.adopt_program(file, base)
    result = linker.load(process.exe_path)
    _refuse_libc(result)
    linker.bind(result)
    linker.bootstrap(result)
    linker.relocate(result)
    registers = process.leader.registers
    registers.write(Reg.FS_BASE, _set_up_tls(memory, result, auxv[Aux.RANDOM]))
    registers.write(Reg.RIP, _start_code(memory, result, auxv[Aux.ENTRY]))
    return result


def _remove_interpreter(memory: GuestMemory, program: DynamicObject, base: int) -> None:
    """Unmap the ld.so that exec has mapped: nobody will call it."""
    interpreter = memory.open(program.interpreter or "").object
    loads = interpreter.elf.loads
    start = (base + loads[0].vaddr) & -PAGE
    end = (base + loads[-1].vaddr + loads[-1].memsz + PAGE - 1) & -PAGE
    memory.munmap(start, end - start)


def _refuse_libc(result: LinkResult) -> None:
    for link in result.maps:
        if link.object.soname == "libc.so.6":
            raise LinkError(
                f"{result.maps[0].name}: needs glibc, whose libc.so.6 works only with its own "
                "ld.so: run it without --loader builtin"
            )
        names = link.object.strings.pool(link.object.symbols["st_name"]).names()
        if "__dls2b" in names or "_dlstart" in names:
            raise LinkError(
                f"{result.maps[0].name}: needs musl, whose libc is its own dynamic linker: run "
                "it without --loader builtin"
            )


def _set_up_tls(memory: GuestMemory, result: LinkResult, random: int) -> int:
    """Allocate the first thread's TLS blocks and control block; return the thread pointer.

    The control block has what the psABI and compilers rely on: its own address at 0 and
    16, and the guard of stack protectors at 40.
    """
    align = result.tls.align
    size = result.tls.used + align + _TCB_SIZE
    area = memory.mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, None, 0)
    pointer = (area + result.tls.used + align - 1) & -align
    for link in result.maps:
        tls = link.object.tls
        if tls is not None:
            image = memory.read(link.base + tls.vaddr, tls.filesz)
            memory.write(pointer - link.tls_offset, image)
    guard = memory.read(random, 8)
    memory.write(pointer, struct.pack("<QQQ", pointer, 0, pointer))
    memory.write(pointer + 40, b"\0" + guard[1:])
    return pointer


def _start_code(memory: GuestMemory, result: LinkResult, entry: int) -> int:
    """A page of code that calls the constructors of the libraries, then enters the program.

    As with glibc, the program's own constructors are left to the program's start code.
    """
    code = _ENTER
    for link in result.init_order:
        if link.kind != MapKind.EXECUTABLE:
            for function in _constructors(memory, link):
                code += _ARGUMENTS + _load_rax(function) + _CALL
    code += _LEAVE + _load_rax(entry) + _JUMP
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    address = memory.mmap(0, len(code), PROT_READ | PROT_WRITE, flags, None, 0)
    memory.write(address, code)
    memory.mprotect(address, len(code), PROT_READ | PROT_EXEC)
    return address


def _constructors(memory: GuestMemory, link: LinkMap) -> list[int]:
    dynamic = link.object.dynamic
    functions = []
    single, array = dynamic.get(Tag.INIT), dynamic.get(Tag.INIT_ARRAY)
    if single is not None:
        functions.append(link.base + single)
    if array is not None:
        words = memory.read(link.base + array, dynamic.value(Tag.INIT_ARRAYSZ) & -8)
        functions += [word for (word,) in struct.iter_unpack("<Q", words)]
    return [function for function in functions if function not in (0, 2**64 - 1)]


def _load_rax(value: int) -> bytes:
    return b"\x48\xb8" + value.to_bytes(8, "little")


def _os_error(error: SysError) -> OSError:
    return OSError(error.errno, os.strerror(error.errno))
