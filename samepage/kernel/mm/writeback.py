"""Writeback: a dirty page of a file becomes clean (mm/page-writeback.c).

The model has no storage, so nothing is written; but programs can see that it was. Linux
takes the dirty bit from the page and from every entry of a shared mapping, and write-protects
these, so that the file system hears of the next write: that is a fault again
(`folio_clear_dirty_for_io`, `folio_mkclean`). tmpfs has no writeback, and its pages stay as
they are. Linux also writes back by itself, some seconds after a page was dirtied; here only
the programs ask for it.
"""

from __future__ import annotations

from samepage.arch import pte_mkclean, pte_pfn, pte_wrprotect
from samepage.kernel.mm import rmap
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.vma import VmFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile


ALL_PAGES = 1 << 52


def write_back(cache: PageCache, inode: MappedFile, first: int = 0, last: int = ALL_PAGES) -> None:
    """Clean the pages from `first` up to, not including, `last` of a file
    (`file_write_and_wait_range`)."""
    if inode.shmem:
        return
    cleaned = {
        pfn for index, pfn in inode.pages.items() if first <= index < last and pfn in cache.dirty
    }
    if not cleaned:
        return
    cache.dirty -= cleaned
    for mm, vma, start, end in rmap.file_vmas(cache.spaces, inode, first, last):
        if not vma.flags & VmFlags.SHARED:
            continue
        words = mm.frames.ram.words
        for _, slot, entry in list(mm.table.present(start, end)):
            if pte_pfn(entry) in cleaned:
                words[slot] = pte_wrprotect(pte_mkclean(entry))
        mm.context.flush_tlb_range(start, end)


def sync(cache: PageCache, dev: int | None = None) -> None:
    """Clean all pages, or those of one device (`ksys_sync`, `sync_filesystem`)."""
    for inode in {cache.owner[pfn][0] for pfn in cache.dirty if pfn in cache.owner}:
        if dev is None or inode.dev == dev:
            write_back(cache, inode)
