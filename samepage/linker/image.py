"""Memory as a picture: what a process would have in its pages, without a process.

`ImageMemory` follows the linker's system calls on arrays: a read-only mapping is a view
of the file, a writable one a private copy of the file's bytes. Nothing is executed.
Where the kernel would choose an address, `place` decides: by default from the top down,
as Linux does, or at the addresses that a real process has.
"""

import errno
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from samepage.elf.layout import I64, U8, U64
from samepage.linker.memory import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    PAGE,
    PROT_NONE,
    PROT_WRITE,
    OpenFile,
    open_file,
)

MMAP_BASE = 0x7FFFF7FFF000
"""`mmap_base` of a process without address space randomisation and an 8 MiB stack."""

ELF_ET_DYN_BASE = 0x555555554000
"""Where Linux puts a position-independent program that has an interpreter."""

MAX_ANONYMOUS = 1 << 32
"""Bytes of one anonymous mapping: more than any real .bss."""

_HUGE = 2 << 20

Placer = Callable[[OpenFile | None, int, int, bool], int]
"""Called with file, page-rounded length, offset, and whether it is anonymous memory."""


@dataclass(slots=True)
class Region:
    """One mapping. `data` has a byte for each of its bytes; `private` if it is a copy.

    Invariant: regions of an image never overlap.
    """

    start: int
    end: int
    prot: int
    data: U8
    private: bool


class TopDownPlacer:
    """Places mappings like Linux does in a fresh process: a program with an interpreter at
    its fixed place, everything else each below the last, and mappings of 2 MiB and more so
    that address and offset agree modulo 2 MiB.
    """

    def __init__(self, base: int = MMAP_BASE) -> None:
        self._gaps = [(PAGE * 16, base)]
        self._has_program = False

    def __call__(self, file: OpenFile | None, length: int, offset: int, anonymous: bool) -> int:
        if file is not None and file.object.interpreter and not self._has_program:
            self._has_program = True
            return ELF_ET_DYN_BASE
        huge = length % _HUGE == 0 if anonymous else length >= _HUGE
        wanted = length + _HUGE if huge else length
        for index in reversed(range(len(self._gaps))):
            low, high = self._gaps[index]
            if high - low >= wanted:
                start = high - wanted
                if huge:
                    start += (offset - start) % _HUGE
                self._gaps[index : index + 1] = [
                    gap for gap in ((low, start), (start + length, high)) if gap[0] < gap[1]
                ]
                return start
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


class ImageMemory:
    """A `Memory` that only exists as arrays. `maps` are its regions by address."""

    def __init__(self, place: Placer | None = None) -> None:
        self._place = place or TopDownPlacer()
        self._starts: list[int] = []
        self._regions: list[Region] = []

    def open(self, path: str) -> OpenFile:
        return open_file(path)

    def close(self, file: OpenFile) -> None:
        if file.fd >= 0:
            os.close(file.fd)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def read_text(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return None

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        length = (length + PAGE - 1) & -PAGE
        if flags & MAP_FIXED:
            self._cut(address, address + length)
        else:
            address = self._place(file, length, offset, bool(flags & MAP_ANONYMOUS))
            if prot == PROT_NONE and flags & MAP_ANONYMOUS:
                return address  # a reservation: nothing that could be read
        content = None if flags & MAP_ANONYMOUS else file
        for region in _new_regions(address, length, prot, content, offset):
            self._insert(region)
        return address

    def munmap(self, address: int, length: int) -> None:
        self._cut(address, (address + length + PAGE - 1) & -PAGE)

    def mprotect(self, address: int, length: int, prot: int) -> None:
        end = (address + length + PAGE - 1) & -PAGE
        for region in self._cut(address, end):
            region.prot = prot
            if prot & PROT_WRITE and not region.private:
                region.data = region.data.copy()
                region.private = True
            self._insert(region)

    def _insert(self, region: Region) -> None:
        at = bisect_right(self._starts, region.start)
        self._starts.insert(at, region.start)
        self._regions.insert(at, region)

    def _cut(self, start: int, end: int) -> list[Region]:
        """Take [start, end) out of the image; return what was there."""
        removed = []
        at = max(bisect_right(self._starts, start) - 1, 0)
        while at < len(self._regions) and self._regions[at].start < end:
            region = self._regions[at]
            if region.end <= start:
                at += 1
                continue
            del self._regions[at], self._starts[at]
            if region.start < start:
                self._insert(_slice(region, region.start, start))
                at += 1
            removed.append(_slice(region, max(region.start, start), min(region.end, end)))
            if region.end > end:
                self._insert(_slice(region, end, region.end))
        return removed

    def region(self, address: int) -> Region:
        """The mapping that holds an address. Raises `OSError` (EFAULT) if there is none."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._regions[at].end:
            raise OSError(errno.EFAULT, f"nothing is mapped at {address:#x}")
        return self._regions[at]

    def regions(self) -> list[Region]:
        """All mappings by address."""
        return list(self._regions)

    def read(self, address: int, length: int) -> bytes:
        parts = []
        while length > 0:
            region = self.region(address)
            part = region.data[address - region.start :][:length]
            parts.append(part.tobytes())
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        while data:
            region = self._writable(address)
            offset = address - region.start
            part = data[: region.end - address]
            region.data[offset : offset + len(part)] = np.frombuffer(part, np.uint8)
            address += len(part)
            data = data[len(part) :]

    def zero(self, address: int, length: int) -> None:
        self.write(address, bytes(length))

    def _writable(self, address: int) -> Region:
        region = self.region(address)
        if not region.prot & PROT_WRITE:
            raise OSError(errno.EFAULT, f"memory at {address:#x} is read-only")
        return region

    def read_words(self, start: int, offsets: I64) -> U64:
        result = np.empty(len(offsets), np.uint64)
        for region, chosen, places in self._split(start, offsets):
            if region is None:
                raw = [self.read(start + offset, 8) for offset in offsets[chosen].tolist()]
                result[chosen] = np.frombuffer(b"".join(raw), np.uint64)
            else:
                result[chosen] = _words(region)[places]
        return result

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        for region, chosen, places in self._split(start, offsets):
            if region is None:
                stores = zip(offsets[chosen].tolist(), words[chosen].tolist(), strict=True)
                for offset, word in stores:
                    self.write(start + offset, word.to_bytes(8, "little"))
            elif not region.prot & PROT_WRITE:
                raise OSError(errno.EFAULT, f"memory at {region.start:#x} is read-only")
            else:
                _words(region)[places] = words[chosen]

    def _split(self, start: int, offsets: I64) -> Iterator[tuple[Region | None, I64 | slice, I64]]:
        """Tell for each region which words lie in it, and where in it; then, with None,
        those that lie in two regions or in none.
        """
        if not len(offsets):
            return
        last = start + int(offsets.max()) + 8
        at = max(bisect_right(self._starts, start) - 1, 0)
        left = np.ones(len(offsets), np.bool_)
        while at < len(self._regions) and self._regions[at].start < last:
            region = self._regions[at]
            shift = start - region.start
            if shift >= 0 and last <= region.end:
                yield region, slice(None), offsets + shift if shift else offsets
                return
            inside = (offsets >= -shift) & (offsets <= region.end - start - 8)
            chosen = inside.nonzero()[0]
            if len(chosen):
                left[chosen] = False
                yield region, chosen, offsets[chosen] + shift
            at += 1
        rest = left.nonzero()[0]
        if len(rest):
            yield None, rest, rest


def _words(region: Region) -> U64:
    """The 8 bytes at each offset of a region, as a view (offsets need no alignment)."""
    whole = region.data.view(np.uint64)
    return as_strided(whole, shape=(len(region.data) - 7,), strides=(1,))


def _slice(region: Region, start: int, end: int) -> Region:
    data = region.data[start - region.start : end - region.start]
    return Region(start, end, region.prot, data, region.private)


def _new_regions(
    address: int, length: int, prot: int, file: OpenFile | None, offset: int
) -> Iterator[Region]:
    """The regions of a new mapping: whole pages of the file, and the page at its end.

    Pages beyond the end of the file are left out: touching one is an error (SIGBUS) for
    a process, too. Raises `OSError` (ENOMEM) for absurd lengths of anonymous memory.
    """
    if file is None:
        if length > MAX_ANONYMOUS:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        yield Region(address, address + length, prot, np.zeros(length, np.uint8), True)
        return
    content = file.object.elf.data[offset : offset + length]
    whole = len(content) & -PAGE
    if whole:
        private = bool(prot & PROT_WRITE)
        data = _private(file, offset, whole) if private else content[:whole]
        yield Region(address, address + whole, prot, data, private)
    if len(content) > whole:
        last = np.zeros(PAGE, np.uint8)
        last[: len(content) - whole] = content[whole:]
        yield Region(address + whole, address + whole + PAGE, prot, last, True)


def _private(file: OpenFile, offset: int, length: int) -> U8:
    """A private copy of a part of a file; the kernel copies a page when it is stored to."""
    if file.fd < 0:
        return file.object.elf.data[offset : offset + length].copy()
    access = mmap.PROT_READ | mmap.PROT_WRITE
    return np.frombuffer(
        mmap.mmap(file.fd, length, mmap.MAP_PRIVATE, access, offset=offset), np.uint8
    )
