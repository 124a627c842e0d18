"""The page cache: which page of which file is in which frame.

It belongs to the inode, not to a path or a process: `inode.pages` maps the index of a
file page to its frame. That is how a second mapping of the same file finds what the first
one brought in, whatever name it used. `read` and `write` use the same frames as `mmap`, so
the two always agree.

The host's page cache is warm for files that are in use, and so is the model's: a page
counts as cached already (`resident`) although its frame is filled only when it is
looked at. Exceptions: a machine booted `cold`; pages that the host itself does not have
(`residency`, where a comparison with the host wants that); and pages that the model's own
kernel has dropped. Those are read as Linux does it, with readahead and as major faults.
"""

from __future__ import annotations

from collections.abc import Callable

from samepage.arch import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.mm import readahead, rmap
from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.mm.frames import FrameKind, Frames, OutOfFrames
from samepage.kernel.mm.readahead import FileRa
from samepage.kernel.mm.shmem import ShmemDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.address_space import AddressSpace
    from samepage.kernel.mm.mapped_file import MappedFile

VM_READAHEAD_PAGES = 32
"""How many pages are read ahead at most, unless a device has another setting."""
BATCH = 256
"""Pages that are read from the host at once."""
_NOT_RECLAIMED = -(1 << 62)
_FILE = int(FrameKind.FILE)
_SHMEM = int(FrameKind.SHMEM)


class PageCache:
    """File pages in RAM. `owner` has for each cached frame the inode and the index.

    Invariants: `owner[pfn] == (inode, index)` if and only if `inode.pages[index] == pfn`;
    the cache holds one reference to each of its frames; `dirty`, `written` and `marked` are
    cached frames, and `dirty` ones are `written`.
    """

    def __init__(
        self, frames: Frames, *, cold: bool = False, ra_pages: int = VM_READAHEAD_PAGES
    ) -> None:
        self._frames = frames
        self.cold = cold
        self.ra_pages = ra_pages
        """The largest readahead window in pages (`read_ahead_kb` of the device)."""
        self.owner: dict[int, tuple[MappedFile, int]] = {}
        self.dirty: set[int] = set()
        """Frames with PG_dirty: Linux would have to write them back."""
        self.written: set[int] = set()
        """Frames whose content is nowhere else, since the model has no storage to write them
        to: they are never reclaimed."""
        self.marked: set[int] = set()
        """Frames with PG_readahead: fault-around leaves them out."""
        self.residency: dict[tuple[int, int], Callable[[int], bool]] = {}
        """By (dev, ino): which pages of the file the host has cached."""
        self.folios: dict[tuple[int, int], FolioMap] = {}
        """By (dev, ino): the file's large folios, where they are those of a host."""
        self.spaces: dict[AddressSpace, None] = {}
        """All address spaces, oldest first: the roots of the reverse map."""
        self.shmem = ShmemDevice()
        self.evictions = 0
        """How many pages reclaim has taken (`lruvec->nonresident_age`)."""
        self.refaults = 0
        """How many of them were wanted back within as many evictions as RAM has frames."""
        self._dropped: dict[MappedFile, dict[int, int]] = {}
        """Pages that are not in RAM, but were: the value of `evictions` when reclaim took
        them, or `_NOT_RECLAIMED` for another reason to go (shadow entries)."""
        self._holes: dict[MappedFile, set[int]] = {}
        """Pages whose content in storage no longer counts: truncated or punched out."""

    def lookup(self, inode: MappedFile, index: int) -> int:
        """The frame of a file page, or 0 if none is filled (`filemap_get_folio`)."""
        return inode.pages.get(index, 0)

    def resident(self, inode: MappedFile, index: int) -> bool:
        """Whether the page counts as cached: a look at it costs no major fault."""
        return index in inode.pages or self._warm(inode, index)

    def _warm(self, inode: MappedFile, index: int) -> bool:
        return bool(self._warm_among(inode, [index]))

    def _warm_among(self, inode: MappedFile, indices: list[int]) -> list[int]:
        """Those of the pages, which have no frame, that count as cached."""
        if self.cold or inode.shmem:
            return []
        dropped = self._dropped.get(inode, {})
        # What follows is a hole in a file of the guest's own, which was never looked at.
        backed = inode.backed
        known = self.residency.get((inode.dev, inode.ino))
        return [
            index
            for index in indices
            if index not in dropped
            and index << PAGE_SHIFT < backed
            and (known is None or known(index))
        ]

    def folio_end(self, inode: MappedFile, index: int) -> int:
        """The index after the folio that holds a page (`folio_next_index`)."""
        known = self.folios.get((inode.dev, inode.ino))
        return index + 1 if known is None else known.bounds(index)[1]

    def find(self, inode: MappedFile, index: int) -> int:
        """The frame of a page that counts as cached, else 0. Raises `OutOfFrames`."""
        pfn = inode.pages.get(index, 0)
        if not pfn and self._warm(inode, index):
            self.load(inode, [index], index)
            pfn = inode.pages[index]
        return pfn

    def fill(self, inode: MappedFile, first: int, last: int, needed: int) -> None:
        """Give frames to those pages from `first` up to, not including, `last` that count
        as cached. Raises `OutOfFrames` if there is none for the page `needed`."""
        pages = inode.pages
        missing = self._warm_among(inode, [i for i in range(first, last) if i not in pages])
        if missing:
            self.load(inode, missing, needed if needed in missing else -1)

    def get(self, inode: MappedFile, index: int) -> int:
        """The frame of a file page, read in if need be. Raises `OutOfFrames`."""
        pfn = inode.pages.get(index, 0)
        if not pfn:
            self.load(inode, [index], index)
            pfn = inode.pages[index]
        return pfn

    def load(self, inode: MappedFile, indices: list[int], needed: int) -> None:
        """Read pages that have no frame, given in rising order.

        When frames run out, the pages for which there is one are read, if `needed` is one
        of them, or is none of `indices`. Else raises `OutOfFrames`, and nothing changed.
        """
        kind = _SHMEM if inode.shmem else _FILE
        if needed in indices:  # it comes first
            indices = [needed, *(index for index in indices if index != needed)]
        frames = self._frames.allocate_many(kind, len(indices))
        if needed in indices and not frames:
            raise OutOfFrames
        placed = sorted(zip(indices, frames, strict=False))
        try:
            self._read_storage(inode, placed)
        except BaseException:
            for _, pfn in placed:
                self._frames.put(pfn)
            raise
        self._insert(inode, placed)

    def _insert(self, inode: MappedFile, placed: list[tuple[int, int]]) -> None:
        dropped = self._dropped.get(inode)
        for index, pfn in placed:
            inode.pages[index] = pfn
            self.owner[pfn] = (inode, index)
            if dropped:
                dropped.pop(index, None)

    def _read_storage(self, inode: MappedFile, placed: list[tuple[int, int]]) -> None:
        """Fill frames, one read for each run of file pages."""
        ram = self._frames.ram
        holes = self._holes.get(inode)
        if holes:
            for index, pfn in placed:
                if index in holes:
                    ram.clear(pfn)
            placed = [(index, pfn) for index, pfn in placed if index not in holes]
        at = 0
        while at < len(placed):
            stop = at + 1
            while stop < len(placed) and placed[stop][0] == placed[stop - 1][0] + 1:
                stop += 1
            buffers = [ram.frame(pfn, n) for pfn, n in _runs([p for _, p in placed[at:stop]])]
            _clear_after(buffers, inode.read_backing(placed[at][0] << PAGE_SHIFT, buffers))
            at = stop

    def read(self, inode: MappedFile, offset: int, length: int, ra: FileRa | None = None) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file.

        `ra` is the readahead state of the open file. Raises `OutOfFrames`.
        """
        end = min(offset + length, inode.size)
        parts = []
        while offset < end:
            stop = min(end, ((offset >> PAGE_SHIFT) + BATCH) << PAGE_SHIFT)
            parts.append(self._read_batch(inode, offset, stop, ra))
            offset = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_batch(self, inode: MappedFile, offset: int, end: int, ra: FileRa | None) -> bytes:
        first, last = offset >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT
        pages = inode.pages
        pfns: list[int] = []
        try:
            for index in range(first, last + 1):
                if index not in pages:
                    self._read_ahead(inode, index, last + 1, ra)
                elif self.marked and pages[index] in self.marked and ra is not None:
                    readahead.reached_mark(self, inode, ra, index, last + 1 - index)
                # Held: reading the next pages may reclaim.
                pfn = pages[index]
                self._frames.references[pfn] += 1
                pfns.append(pfn)
            if ra is not None:
                ra.previous = last
            parts = [self._frames.ram.frame(pfn, count) for pfn, count in _runs(pfns)]
            data = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
            start = offset - (first << PAGE_SHIFT)
            return bytes(data[start : start + end - offset])
        finally:
            for pfn in pfns:
                self._frames.put(pfn)

    def _read_ahead(self, inode: MappedFile, index: int, stop: int, ra: FileRa | None) -> None:
        """Get page `index` for `read`, which will continue up to `stop`."""
        if inode.shmem:
            self.load(inode, [index], index)
        elif self._warm(inode, index):
            self.fill(inode, index, stop, index)
        else:
            self.note_refault(inode, index)
            if ra is not None:
                readahead.read_miss(self, inode, ra, index, stop - index)
            self.get(inode, index)

    def write(self, inode: MappedFile, offset: int, data: bytes) -> int:
        """Write `data` at `offset`, growing the file; return the number of bytes.

        When frames run out, what was written before stays, and its length is returned;
        raises `OutOfFrames` if that is nothing.
        """
        position = 0
        ram = self._frames.ram.bytes
        view = memoryview(data)
        while position < len(view):
            at = offset + position
            start = at & (PAGE_SIZE - 1)
            size = min(PAGE_SIZE - start, len(view) - position)
            try:
                pfn = self._page_to_write(inode, at, size)
            except OutOfFrames:
                if position:
                    break
                raise
            self._frames.rewrite(pfn)
            target = (pfn << PAGE_SHIFT) + start
            ram[target : target + size] = view[position : position + size]
            self.mark_dirty(pfn)
            position += size
            inode.size = max(inode.size, at + size)
        return position

    def _page_to_write(self, inode: MappedFile, at: int, size: int) -> int:
        """The frame to write to; not read from storage if all of it is new."""
        index = at >> PAGE_SHIFT
        pfn = inode.pages.get(index, 0)
        if not pfn and (size == PAGE_SIZE or index << PAGE_SHIFT >= inode.size):
            kind = _SHMEM if inode.shmem else _FILE
            pfn = self._frames.allocate_zeroed(kind)
            self._insert(inode, [(index, pfn)])
        return pfn or self.get(inode, index)

    def mark_dirty(self, pfn: int) -> None:
        """A page was changed (`folio_mark_dirty`)."""
        self.dirty.add(pfn)
        self.written.add(pfn)

    def truncate(self, inode: MappedFile, size: int) -> None:
        """Set the size. Pages wholly past it go, also out of page tables and private
        copies; the rest of the last one is zeroed (`truncate_setsize`).

        Raises `OutOfFrames` before anything has changed.
        """
        tail = size & (PAGE_SIZE - 1)
        last = size >> PAGE_SHIFT
        hole = inode.shmem or last in self._holes.get(inode, ())
        if tail and size < inode.size and (last in inode.pages or not hole):
            pfn = self.get(inode, last)
            self._frames.rewrite(pfn)
            self._frames.ram.frame(pfn)[tail:] = bytes(PAGE_SIZE - tail)
            self.mark_dirty(pfn)
        if size < inode.size:
            first = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
            rmap.unmap_mapping_range(self.spaces, inode, first, 1 << 52, even_cows=True)
            self._drop_range(inode, first, 1 << 52)
        elif inode.size & (PAGE_SIZE - 1) and inode.size >> PAGE_SHIFT in inode.pages:
            # A mapping may have written past the end: that must not show up now.
            start = inode.size & (PAGE_SIZE - 1)
            pfn = inode.pages[inode.size >> PAGE_SHIFT]
            self._frames.rewrite(pfn)
            self._frames.ram.frame(pfn)[start:] = bytes(PAGE_SIZE - start)
        inode.size = size

    def punch(self, inode: MappedFile, first: int, last: int) -> None:
        """Make a hole from page `first` up to, not including, `last`: it reads as zeros,
        and is taken out of all page tables. Private copies stay
        (`truncate_pagecache_range`)."""
        rmap.unmap_mapping_range(self.spaces, inode, first, last, even_cows=False)
        self._drop_range(inode, first, last)

    def _drop_range(self, inode: MappedFile, first: int, last: int) -> None:
        for index in [i for i in inode.pages if first <= i < last]:
            self.drop(inode, index)
        if not inode.shmem:
            inside = range(first, min(last, (inode.size + PAGE_SIZE - 1) >> PAGE_SHIFT))
            self._holes.setdefault(inode, set()).update(inside)
            self._dropped.setdefault(inode, {}).update(dict.fromkeys(inside, _NOT_RECLAIMED))

    def drop(self, inode: MappedFile, index: int) -> None:
        """Take a page out of the cache; its frame is freed once no entry maps it."""
        pfn = inode.pages.pop(index)
        del self.owner[pfn]
        self.dirty.discard(pfn)
        self.written.discard(pfn)
        self.marked.discard(pfn)
        self._frames.put(pfn)

    def evict(self, inode: MappedFile, index: int) -> None:
        """Drop a page that is read from storage when it is next wanted."""
        self.drop(inode, index)
        self._dropped.setdefault(inode, {})[index] = _NOT_RECLAIMED

    def forget(self, inode: MappedFile) -> None:
        """The inode is deleted and no longer open or mapped (`evict_inode`)."""
        for index in list(inode.pages):
            self.drop(inode, index)
        key = inode.dev, inode.ino
        self.residency.pop(key, None)
        self.folios.pop(key, None)
        self._dropped.pop(inode, None)
        self._holes.pop(inode, None)

    def release(self, inode: MappedFile) -> None:
        """A mapping, a name or an open file is gone: after the last one of a file that only
        the model has, its content goes too (`iput_final`)."""
        if inode.handles:
            return
        if next(rmap.file_vmas(self.spaces, inode, 0, 1 << 62), None) is None:
            self.forget(inode)

    def reclaimed(self, pfn: int) -> None:
        """Reclaim takes a page, and leaves a note of when (`workingset_eviction`)."""
        inode, index = self.owner[pfn]
        self.drop(inode, index)
        self.evictions += 1
        self._dropped.setdefault(inode, {})[index] = self.evictions

    def note_refault(self, inode: MappedFile, index: int) -> None:
        """A page is about to be read from storage: was it wanted back so soon that some more
        RAM would have kept it (`workingset_refault`)?"""
        taken = self._dropped.get(inode, {}).get(index, _NOT_RECLAIMED)
        if self.evictions - taken <= self._frames.ram.n_frames:
            self.refaults += 1


def _runs(pfns: list[int]) -> list[tuple[int, int]]:
    """Frames that follow each other, as (first, count)."""
    runs = []
    first = previous = pfns[0]
    for pfn in pfns[1:]:
        if pfn != previous + 1:
            runs.append((first, previous - first + 1))
            first = pfn
        previous = pfn
    runs.append((first, previous - first + 1))
    return runs


def _clear_after(buffers: list[memoryview], done: int) -> None:
    """Zero what a read that ended after `done` bytes has not filled."""
    for buffer in buffers:
        if done < len(buffer):
            start = max(done, 0)
            buffer[start:] = bytes(len(buffer) - start)
        done -= len(buffer)
