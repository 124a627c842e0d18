"""Readahead: which pages are read from storage together when the cache is cold.

Reading one page costs a disk about as much as reading thirty, so Linux guesses. Each open
file description keeps the last window (`FileRa`, `struct file_ra_state`). A page at its
far end is marked (PG_readahead): a task that reaches it starts the next window, in time. Two
guesses matter here: `read` sees a sequence grow and doubles the window
(`page_cache_sync_ra`), and a fault reads *around* its page, or, in an executable mapping,
onwards from it (`do_sync_mmap_readahead`). Source: mm/readahead.c and mm/filemap.c of
Linux 6.18.
"""

from __future__ import annotations

from samepage.arch import PAGE_SHIFT
from samepage.kernel.mm.vma import Vma, VmFlags
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile
    from samepage.kernel.mm.page_cache import PageCache

MMAP_LOTSAMISS = 100


@record(eq=False)
class FileRa:
    """The readahead state of one open file description; all numbers are in pages.

    The window is `size` pages from `start`, of which the last `async_size` begin with the
    marked page. `previous` is the last page that `read` returned.
    """

    start: int = 0
    size: int = 0
    async_size: int = 0
    mmap_miss: int = 0
    previous: int = -1


def _initial_size(wanted: int, limit: int) -> int:
    """`get_init_ra_size`."""
    size = 1 << max(wanted - 1, 0).bit_length()
    if size <= limit // 32:
        return size * 4
    return size * 2 if size <= limit // 4 else limit


def _next_size(size: int, limit: int) -> int:
    """`get_next_ra_size`."""
    if size < limit // 16:
        return 4 * size
    return 2 * size if size <= limit // 2 else limit


def _submit(cache: PageCache, inode: MappedFile, ra: FileRa) -> int:
    """Read the window's missing pages, and mark its far part (`page_cache_ra_order`). Does
    what it can where frames run out."""
    return _read(cache, inode, ra.start, ra.size, ra.async_size)


def _read(cache: PageCache, inode: MappedFile, start: int, size: int, ahead: int) -> int:
    end = min(start + size, (inode.size + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT)
    missing = [index for index in range(start, end) if not cache.resident(inode, index)]
    if not missing:
        return 0
    cache.load(inode, missing, -1)
    mark = start + size - ahead
    if ahead and mark in missing and mark in inode.pages:
        cache.marked.add(inode.pages[mark])
    return len(missing)


def read_miss(cache: PageCache, inode: MappedFile, ra: FileRa, index: int, wanted: int) -> None:
    """`read` found no page `index`; it wants `wanted` pages (`page_cache_sync_ra`)."""
    limit = cache.ra_pages
    limit = max(wanted, limit) if wanted <= limit else limit
    if not index or wanted > limit or 0 <= index - ra.previous <= 1:
        ra.start = index
        ra.size = _initial_size(wanted, limit)
        ra.async_size = ra.size - wanted if ra.size > wanted else ra.size >> 1
        _submit(cache, inode, ra)
        return
    miss = index - 1
    while miss >= 0 and index - miss <= limit and cache.resident(inode, miss):
        miss -= 1
    run = index - miss - 1
    if run <= wanted:
        _read(cache, inode, index, wanted, 0)
        return
    if miss < 0:
        run *= 2
    ra.start, ra.size, ra.async_size = index, min(run + wanted, limit), 1
    _submit(cache, inode, ra)


def reached_mark(cache: PageCache, inode: MappedFile, ra: FileRa, index: int, wanted: int) -> None:
    """A task reached the marked page `index`: read the next window
    (`page_cache_async_ra`)."""
    cache.marked.discard(inode.pages[index])
    limit = cache.ra_pages
    if index == ra.start + ra.size - ra.async_size:
        ra.start += ra.size
        ra.size = max(ra.size, _next_size(ra.size, limit))
    else:
        start = index + 1
        while start - index <= limit and cache.resident(inode, start):
            start += 1
        if start - index > limit:
            return
        ra.start = start
        ra.size = _next_size(start - index + wanted, limit)
    ra.async_size = ra.size
    _submit(cache, inode, ra)


def _file_of(vma: Vma) -> tuple[MappedFile, FileRa]:
    """The content that a file mapping shows, and its readahead state: the open file's, or a
    fresh one for a mapping without one."""
    assert vma.file is not None, "only file pages are read ahead"
    return vma.file, vma.filp.ra if vma.filp is not None else FileRa()


def fault_miss(cache: PageCache, vma: Vma, index: int) -> None:
    """A fault found no page `index`: read it and what is around it
    (`do_sync_mmap_readahead`)."""
    inode, ra = _file_of(vma)
    flags = vma.flags
    limit = cache.ra_pages
    if flags & (VmFlags.RAND_READ | VmFlags.EXEC) == VmFlags.RAND_READ:
        return
    if flags & VmFlags.SEQ_READ:
        read_miss(cache, inode, ra, index, limit)
        return
    if ra.mmap_miss < MMAP_LOTSAMISS * 10:
        ra.mmap_miss += 1
    if ra.mmap_miss > MMAP_LOTSAMISS:
        return
    if flags & VmFlags.EXEC:
        ra.start = max(index, vma.pgoff)
        ra.size = min(ra.start + limit, vma.pgoff + vma.pages) - ra.start
        ra.async_size = 0
    else:
        ra.start = max(0, index - limit // 2)
        ra.size = limit
        ra.async_size = limit // 4
    _submit(cache, inode, ra)


def fault_hit(cache: PageCache, vma: Vma, index: int) -> None:
    """A fault found its page, outside of fault-around (`do_async_mmap_readahead`)."""
    inode, ra = _file_of(vma)
    if vma.flags & VmFlags.RAND_READ:
        return
    if ra.mmap_miss:
        ra.mmap_miss -= 1
    if inode.pages[index] in cache.marked:
        reached_mark(cache, inode, ra, index, cache.ra_pages)
