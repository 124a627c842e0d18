"""The process that we run in, as a `Memory`: the linker's calls are real system calls.

`adopted_objects` lists what glibc's ld.so has loaded here already (`dl_iterate_phdr`).
A library that needs libc must get this process's libc, so these objects take part in the
search for names and symbols, but they are never mapped or relocated again.
"""

import ctypes
import os
from dataclasses import dataclass

import numpy as np

from samepage.abi.mman import MapFlags
from samepage.elf.header import ElfError
from samepage.elf.layout import I64, U64
from samepage.elf.object import DynamicObject
from samepage.linker.memory import HostFiles, OpenFile

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value


class ProcessMemory(HostFiles):
    """Our own address space. Loads and stores are made by the CPU, so a wrong address is
    a crash: the linker checks its places before it stores.
    """

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        fd = -1 if file is None or flags & MapFlags.ANONYMOUS else file.fd
        result = _LIBC.mmap(address, length, prot, flags, fd, offset)
        if result == _MAP_FAILED or result is None:
            raise _os_error()
        return int(result)

    def munmap(self, address: int, length: int) -> None:
        if _LIBC.munmap(address, length):
            raise _os_error()

    def mprotect(self, address: int, length: int, prot: int) -> None:
        if _LIBC.mprotect(address, length, prot):
            raise _os_error()

    def read(self, address: int, length: int) -> bytes:
        return ctypes.string_at(address, length)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def zero(self, address: int, length: int) -> None:
        ctypes.memset(address, 0, length)

    def read_words(self, start: int, offsets: I64) -> U64:
        if not len(offsets):
            return np.empty(0, np.uint64)
        last = int(np.maximum.reduce(offsets))
        result: U64 = _words(start, last + 1, 1)[offsets]
        return result

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        if not len(offsets):
            return
        last = int(np.maximum.reduce(offsets))
        if (start | int(np.bitwise_or.reduce(offsets))) & 7:
            _words(start, last + 1, 1)[offsets] = words
        else:  # aligned stores take half the time
            _words(start, last // 8 + 1, 8)[offsets >> 3] = words


class _Address:
    """Memory of this process as NumPy takes it from any object."""

    __slots__ = ("__array_interface__",)

    def __init__(self, interface: dict[str, object]) -> None:
        self.__array_interface__ = interface


def _words(start: int, count: int, step: int) -> U64:
    """The words at `start`, `step` bytes further, and so on, as a view of memory."""
    words: U64 = np.asarray(
        _Address(
            {
                "version": 3,
                "typestr": "<u8",
                "data": (start, False),
                "shape": (count,),
                "strides": (step,),
            }
        )
    )
    return words


def _os_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


@dataclass(frozen=True, slots=True)
class AdoptedObject:
    """An object that ld.so has loaded: its path, base, and TLS module with its block."""

    path: str
    base: int
    tls_module: int
    tls_address: int
    object: DynamicObject
    identity: tuple[int, int]


class _DlPhdrInfo(ctypes.Structure):
    """`struct dl_phdr_info` of <link.h>."""

    _fields_ = (
        ("dlpi_addr", ctypes.c_uint64),
        ("dlpi_name", ctypes.c_char_p),
        ("dlpi_phdr", ctypes.c_void_p),
        ("dlpi_phnum", ctypes.c_uint16),
        ("dlpi_adds", ctypes.c_ulonglong),
        ("dlpi_subs", ctypes.c_ulonglong),
        ("dlpi_tls_modid", ctypes.c_size_t),
        ("dlpi_tls_data", ctypes.c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(_DlPhdrInfo), ctypes.c_size_t, ctypes.c_void_p
)


def adopted_objects() -> list[AdoptedObject]:
    """The objects of this process in ld.so's order, the program first; without the vDSO."""
    seen: list[tuple[str, int, int, int]] = []

    def visit(info: "ctypes._Pointer[_DlPhdrInfo]", _size: int, _data: int | None) -> int:
        entry = info.contents
        name = os.fsdecode(entry.dlpi_name or b"")
        seen.append((name, entry.dlpi_addr, entry.dlpi_tls_modid, entry.dlpi_tls_data or 0))
        return 0

    _LIBC.dl_iterate_phdr(_Callback(visit), None)
    found = []
    for index, (name, base, module, block) in enumerate(seen):
        path = os.path.realpath("/proc/self/exe") if index == 0 else name
        try:
            status = os.stat(path)
            adopted = DynamicObject.open(path)
        except (OSError, ElfError):
            continue  # the vDSO, or a file that has been replaced or removed since
        found.append(
            AdoptedObject(path, base, module, block, adopted, (status.st_dev, status.st_ino))
        )
    return found


def thread_pointer() -> int:
    """The value of %fs:0: on x86-64, `pthread_self` returns it."""
    _LIBC.pthread_self.restype = ctypes.c_uint64
    return int(_LIBC.pthread_self())


def call_resolver(address: int) -> int:
    """Call an IFUNC resolver in this process."""
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64)(address)())
