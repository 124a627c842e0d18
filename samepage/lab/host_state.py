"""The page cache that a run finds: brought into a known state, and written down.

A fault maps what is cached, so a second run gives the same pages only if it finds the same
page cache. Two states can be made: every file whole and clean, or as good as empty.
"""

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import Pm
from samepage.lab.scenario import HostState
from samepage.live.folios import large_folios
from samepage.live.one_process import read_entries
from samepage.live.residency import evict, read_through, resident_pages

T = TypeVar("T")


def prepare_page_cache(files: Sequence[str], cold: Sequence[str]) -> list[str]:
    """Drop the files `cold` from the page cache, and bring all others of `files` into it.

    Returns those that the kernel did not drop.
    """
    read_through(sorted({*files} - {*cold}))
    return evict(cold)


def host_state(files: Sequence[str], cold: Sequence[str]) -> HostState:
    """What the page cache has of the files now: of warm ones the folios (frames are root's to
    see), of cold ones what is there nevertheless. Reading the folios reads a file in whole, so
    those of cold files stay unknown."""
    return HostState(
        folios=_by_path([path for path in files if path not in cold], large_folios),
        resident=_by_path(cold, resident_pages),
        readahead=max((readahead_pages(path) for path in cold), default=0),
    )


def _by_path(files: Sequence[str], read: Callable[[str], T]) -> dict[str, T]:
    """What `read` returns for each file; files that it cannot read are left out."""
    found = {}
    for path in files:
        with contextlib.suppress(OSError):
            found[path] = read(path)
    return found


def readahead_pages(path: str) -> int:
    """How far this system reads ahead on the file system of a file, in pages; 0 if that is not
    known."""
    try:
        device = os.stat(path).st_dev
        name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        with open(name, encoding="ascii") as file:
            return int(file.read()) // 4
    except (OSError, ValueError):
        return 0


_UPDATE = b"\x80\x27\xdf\xc3"
"""andb $0xdf, (%rdi); ret"""


@functools.cache
def splits_updates() -> bool:
    """Whether an instruction that updates memory takes a read fault and then a write fault here.

    A processor takes the write fault only; QEMU's TCG loads and stores. Measured: the
    instruction updates the first of two cached pages of a private mapping. A read fault maps the
    second one as well (fault-around), a write fault does not (`do_cow_fault`).
    """
    file = os.memfd_create("samepage-update")
    try:
        os.write(file, bytes(2 * HOST_PAGE_SIZE))
        with (
            mmap.mmap(
                -1, len(_UPDATE), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            ) as code,
            mmap.mmap(file, 2 * HOST_PAGE_SIZE, mmap.MAP_PRIVATE) as data,
        ):
            code.write(_UPDATE)
            instruction, target = ctypes.c_char.from_buffer(code), ctypes.c_char.from_buffer(data)
            address = ctypes.addressof(target)
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(instruction))(address)
            second = read_entries(os.getpid(), address + HOST_PAGE_SIZE, 1)[0]
            del instruction, target
    finally:
        os.close(file)
    return bool(second & Pm.PRESENT)


_CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


def this_cpu() -> dict[str, str]:
    """What /proc/cpuinfo prints of the first CPU: who made it, and its features."""
    found: dict[str, str] = {}
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, colon, value = line.partition(":")
            if not colon:
                break
            if name.strip() in _CPU_FIELDS:
                found[name.strip()] = value.strip()
    return found
