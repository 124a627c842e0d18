"""Memory management, in modules named after their subject.

Types: `frames` (who uses which frame), `vma` (what a range of addresses means),
`address_space` (one process's VMAs, page tables and counters), `page_table`, `page_cache`
(which file page is in which frame) with `readahead` and `shmem`.

What happens to them: `mmap`, `mprotect`, `mremap`, `madvise`, `mlock`, `msync` (system
calls on ranges; `unmapped_area` finds a place, `vma_merge` splits and joins), `fault`
(giving memory when it is touched), `gup` (giving it beforehand), `fork` (copying an
address space), `uaccess` (the kernel's own reads and writes of user memory), `rmap` (who
maps a frame).

One file page mapped by two processes, drawn after each step:

    mmap by A           A: VMA 7f00-7f10 -> libz.so+0        no frame in A's table
    A reads 7f02        libz.so page 2 -> frame 900           A: 7f02 -> 900
    mmap by B, reads    libz.so page 2 -> frame 900 (found)   B: 7e52 -> 900
    A writes 7f02       frame 901 = copy of 900               A: 7f02 -> 901, B: 7e52 -> 900
"""
