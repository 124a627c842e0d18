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
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import ELF_ET_DYN_BASE, mmap_base
from samepage.elf.layout import I64, U8, U64
from samepage.elf.object import DynamicObject
from samepage.linker.arena import Arena
from samepage.linker.memory import PAGE, HostFiles, OpenFile

MMAP_BASE = mmap_base(8 << 20)
"""Of a process without address space randomisation and a stack limit of 8 MiB."""

_SPARSE = 1 << 24
"""Anonymous mappings of this size and more cost nothing until they are touched."""

_HUGE = 2 << 20

_MANY = 1 << 10
"""Stores of aligned words take half the time, for which it pays to look if all are."""


class Placer(Protocol):
    """Chooses the addresses of mappings."""

    def __call__(self, file: OpenFile | None, length: int, offset: int, anonymous: bool) -> int:
        """The address for a mapping of `length` bytes, in whole pages; `offset` is the file's."""
        ...

    def taken(self, start: int, end: int) -> None:
        """Something has been mapped at [start, end), an address that was given."""
        ...


class Region:
    """One mapping: the addresses [start, end), with a byte of `data` for each.

    `private` if the data is a copy of its own, of a file's or of nothing. Otherwise it is
    the file itself, from `offset` on, and is looked up only when it is asked for: most of
    what is mapped is mapped over, or never read. Invariant: regions of an image never
    overlap; one that may be written to is private.
    """

    __slots__ = ("_data", "_file", "_offset", "end", "private", "prot", "start")

    def __init__(
        self, start: int, end: int, prot: int, data: U8 | None, file: U8 | None, offset: int = 0
    ) -> None:
        """A region with `data` of its own, or (None) one that shows `file` from an offset on,
        and zeros after the file's end.
        """
        self.start = start
        self.end = end
        self.prot = prot
        self.private = data is not None
        self._data = data
        self._file = file
        self._offset = offset

    @property
    def data(self) -> U8:
        """The region's bytes."""
        if self._data is None:
            assert self._file is not None
            length = self.end - self.start
            self._data = self._file[self._offset : self._offset + length]
            if len(self._data) < length:
                self._data = np.concatenate(
                    [self._data, np.zeros(length - len(self._data), np.uint8)]
                )
        return self._data

    def make_private(self) -> None:
        """Give the region a copy of its own, which may be written to."""
        if not self.private:
            self._data = self.data.copy()
            self.private = True

    def part(self, start: int, end: int) -> "Region":
        """The part of the region at [start, end)."""
        first = start - self.start
        if self.private:
            return Region(start, end, self.prot, self.data[first : end - self.start], None)
        return Region(start, end, self.prot, None, self._file, self._offset + first)

    def words(self, first: int) -> U64:
        """The aligned words from the byte `first` on."""
        return self.data[first:].view(np.uint64)

    def words_anywhere(self) -> U64:
        """The 8 bytes at each place of the data but the last 7 (places need no alignment)."""
        return np.ndarray((len(self.data) - 7,), np.uint64, self.data.data, 0, (1,))


class TopDownPlacer:
    """Places mappings like Linux does in a fresh process: a program with an interpreter at
    its fixed place, everything else each below the last, and mappings of 2 MiB and more so
    that address and offset agree modulo 2 MiB.
    """

    def __init__(self, base: int = MMAP_BASE) -> None:
        self._gaps = [(PAGE * 16, base)]
        self._is_first = True

    def __call__(self, file: OpenFile | None, length: int, offset: int, anonymous: bool) -> int:
        if self._is_first:
            # Libraries may have an interpreter, too: libc does, and prints its version.
            self._is_first = False
            if file is not None and file.object.interpreter:
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

    def taken(self, start: int, end: int) -> None:
        gaps = []
        for low, high in self._gaps:
            gaps += [(low, min(high, start)), (max(low, end), high)]
        self._gaps = [(low, high) for low, high in gaps if low < high]


def _zeros(length: int) -> U8:
    """So many zeros. Large ones are pages that the kernel gives only when they are touched."""
    if length < _SPARSE:
        return np.zeros(length, np.uint8)
    flags = MapFlags.PRIVATE | MapFlags.ANONYMOUS | MapFlags.NORESERVE
    try:
        return np.frombuffer(mmap.mmap(-1, length, flags), np.uint8)
    except (OverflowError, ValueError):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


class ImageMemory(HostFiles):
    """A `Memory` that only exists as arrays. `maps` are its regions by address."""

    def __init__(
        self,
        place: Placer | None = None,
        parsed: dict[tuple[int, int], DynamicObject] | None = None,
    ) -> None:
        super().__init__(parsed)
        self._place = place or TopDownPlacer()
        self._arena = Arena()
        self._starts: list[int] = []
        self._regions: list[Region] = []

    def mmap(
        self, address: int, length: int, prot: int, flags: int, file: OpenFile | None, offset: int
    ) -> int:
        length = (length + PAGE - 1) & -PAGE
        if flags & MapFlags.FIXED:
            if not self._cut(address, address + length):
                self._place.taken(address, address + length)
        else:
            address = self._place(file, length, offset, bool(flags & MapFlags.ANONYMOUS))
            if prot == Prot.NONE and flags & MapFlags.ANONYMOUS:
                return address  # a reservation: nothing that could be read
        content = None if flags & MapFlags.ANONYMOUS else file
        region = self._new_region(address, length, prot, content, offset)
        if region.end > address:
            self._insert(region)
        return address

    def _new_region(
        self, address: int, length: int, prot: int, file: OpenFile | None, offset: int
    ) -> Region:
        """The region of a new mapping.

        Pages beyond the end of the file are left out: touching one is an error (SIGBUS)
        for a process, too. Raises `OSError` (ENOMEM) for more than there are addresses.
        """
        if file is None:
            return Region(address, address + length, prot, _zeros(length), None)
        elf = file.object.elf
        in_file = max(min(length, elf.size - offset), 0)
        end = address + ((in_file + PAGE - 1) & -PAGE)
        if prot & Prot.WRITE:
            data = self._copy(file, offset, in_file, end - address)
            return Region(address, end, prot, data, None)
        return Region(address, end, prot, None, elf.data, offset)

    def _copy(self, file: OpenFile, offset: int, in_file: int, length: int) -> U8:
        """A copy of a part of a file, with zeros up to a length."""
        if file.fd < 0:
            buffer, at = self._arena.take(length)
        else:
            # One read takes less time than the kernel would take for page after page of a map.
            buffer, at, got = self._arena.read(file.fd, offset, length)
            if got >= in_file:
                return np.frombuffer(buffer, np.uint8, length, at)
        data = np.frombuffer(buffer, np.uint8, length, at)
        data[:in_file] = file.object.elf.data[offset : offset + in_file]
        return data

    def munmap(self, address: int, length: int) -> None:
        self._cut(address, (address + length + PAGE - 1) & -PAGE)

    def mprotect(self, address: int, length: int, prot: int) -> None:
        end = (address + length + PAGE - 1) & -PAGE
        for region in self._cut(address, end):
            region.prot = prot
            if prot & Prot.WRITE:
                region.make_private()
            self._insert(region)

    def _insert(self, region: Region) -> None:
        at = bisect_right(self._starts, region.start)
        self._starts.insert(at, region.start)
        self._regions.insert(at, region)

    def _cut(self, start: int, end: int) -> list[Region]:
        """Take [start, end) out of the image; return what was there."""
        regions, starts, removed = self._regions, self._starts, []
        at = max(bisect_right(starts, start) - 1, 0)
        while at < len(regions) and regions[at].start < end:
            region = regions[at]
            if region.end <= start:
                at += 1
                continue
            del regions[at], starts[at]
            if region.start < start:
                regions.insert(at, region.part(region.start, start))
                starts.insert(at, region.start)
                at += 1
            if region.end > end:
                regions.insert(at, region.part(end, region.end))
                starts.insert(at, end)
            if region.start < start or region.end > end:
                region = region.part(max(region.start, start), min(region.end, end))
            removed.append(region)
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
        if not region.prot & Prot.WRITE:
            raise OSError(errno.EFAULT, f"memory at {address:#x} is read-only")
        return region

    def read_words(self, start: int, offsets: I64) -> U64:
        result = np.empty(len(offsets), np.uint64)
        for region, chosen, places in self._split(start, offsets):
            if region is None:
                raw = [self.read(start + offset, 8) for offset in offsets[chosen].tolist()]
                result[chosen] = np.frombuffer(b"".join(raw), np.uint64)
            else:
                result[chosen] = region.words_anywhere()[places]
        return result

    def write_words(self, start: int, offsets: I64, words: U64) -> None:
        region = self._whole_region(start, offsets)
        if region is not None and region.prot & Prot.WRITE:
            shift = start - region.start
            if len(offsets) < _MANY or (shift | int(np.bitwise_or.reduce(offsets))) & 7:
                region.words_anywhere()[offsets + shift] = words
            else:
                region.words(shift)[offsets >> 3] = words
            return
        for region, chosen, places in self._split(start, offsets):
            if region is None:
                stores = zip(offsets[chosen].tolist(), words[chosen].tolist(), strict=True)
                for offset, word in stores:
                    self.write(start + offset, word.to_bytes(8, "little"))
            elif not region.prot & Prot.WRITE:
                raise OSError(errno.EFAULT, f"memory at {region.start:#x} is read-only")
            else:
                region.words_anywhere()[places] = words[chosen]

    def _whole_region(self, start: int, offsets: I64) -> Region | None:
        """The region that has all of these words, if there is one."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or not len(offsets):
            return None
        region = self._regions[at]
        last = start + int(np.maximum.reduce(offsets)) + 8
        return region if last <= region.end else None

    def _split(self, start: int, offsets: I64) -> Iterator[tuple[Region | None, I64 | slice, I64]]:
        """Yield for each region which words lie in it, and where in it; then, with None,
        those that lie in two regions or in none.
        """
        if not len(offsets):
            return
        last = start + int(np.maximum.reduce(offsets)) + 8
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
