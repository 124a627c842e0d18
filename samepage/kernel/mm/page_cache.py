"""The page cache: which page of which file is in which frame.

It belongs to the inode, not to a path or a process: `inode.pages` maps the index of a
file page to its frame. That is how a second mapping of the same file finds what the first
one brought in, whatever name it used. `read` and `write` use the same frames as `mmap`, so
the two always agree.

The host's page cache is warm for files that are in use. The model has the same rule: a
page that is not yet in a frame is brought in without a major fault, unless the machine
was booted cold.
"""

from samepage.hardware.ram import PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.mm.frames import FrameKind, Frames
from samepage.kernel.mm.vma import MappedFile


class PageCache:
    """File pages in RAM. `owner` tells for each cached frame the inode and the index.

    Invariant: `owner[pfn] == (inode, index)` if and only if `inode.pages[index] == pfn`;
    the cache holds one reference to each of its frames.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.owner: dict[int, tuple[MappedFile, int]] = {}
        self.dirty: set[int] = set()
        """Frames whose content differs from the storage; they are never reclaimed."""

    def lookup(self, inode: MappedFile, index: int) -> int:
        """The frame of a file page, or 0 if it is not cached (`filemap_get_folio`)."""
        return inode.pages.get(index, 0)

    def get(self, inode: MappedFile, index: int) -> int:
        """The frame of a file page, read in if need be. Raises `OutOfFrames`."""
        return inode.pages.get(index, 0) or self._read_page(inode, index)

    def _read_page(self, inode: MappedFile, index: int) -> int:
        pfn = self._frames.allocate(FrameKind.FILE)
        view = self._frames.ram.frame(pfn)
        done = inode.read_backing(index << PAGE_SHIFT, [view])
        if done < PAGE_SIZE:
            view[done:] = bytes(PAGE_SIZE - done)
        inode.pages[index] = pfn
        self.owner[pfn] = (inode, index)
        return pfn

    def read(self, inode: MappedFile, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file."""
        end = min(offset + length, inode.size)
        if offset >= end:
            return b""
        parts = []
        while offset < end:
            start = offset & (PAGE_SIZE - 1)
            size = min(PAGE_SIZE - start, end - offset)
            view = self._frames.ram.frame(self.get(inode, offset >> PAGE_SHIFT))
            parts.append(view[start : start + size])
            offset += size
        return b"".join(parts)

    def write(self, inode: MappedFile, offset: int, data: bytes) -> int:
        """Write `data` at `offset`, growing the file; return the number of bytes."""
        position = 0
        while position < len(data):
            at = offset + position
            start = at & (PAGE_SIZE - 1)
            size = min(PAGE_SIZE - start, len(data) - position)
            pfn = self.get(inode, at >> PAGE_SHIFT)
            self._frames.rewrite(pfn)
            self._frames.ram.frame(pfn)[start : start + size] = data[position : position + size]
            self.dirty.add(pfn)
            position += size
        inode.size = max(inode.size, offset + position)
        return position

    def truncate(self, inode: MappedFile, size: int) -> None:
        """Drop the pages wholly past `size` and zero the rest of the last one."""
        for index in [i for i in inode.pages if i << PAGE_SHIFT >= size]:
            self.drop(inode, index)
        tail = size & (PAGE_SIZE - 1)
        if tail:
            pfn = self.get(inode, size >> PAGE_SHIFT)
            self._frames.ram.frame(pfn)[tail:] = bytes(PAGE_SIZE - tail)
            self.dirty.add(pfn)
        inode.size = size

    def drop(self, inode: MappedFile, index: int) -> None:
        """Take a page out of the cache; its frame is freed once nobody maps it."""
        pfn = inode.pages.pop(index)
        del self.owner[pfn]
        self.dirty.discard(pfn)
        self._frames.put(pfn)

    def reclaim(self) -> int:
        """Free every clean page that nobody maps; return how many (`shrink_folio_list`)."""
        clean = [
            place
            for pfn, place in self.owner.items()
            if pfn not in self.dirty and not self._frames.mapcount[pfn]
        ]
        for inode, index in clean:
            self.drop(inode, index)
        return len(clean)
