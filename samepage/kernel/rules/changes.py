"""Each rule that changed: since which version, by which commit, and what it was before.

Source: the trees of Linux 6.1 and 6.12 as Debian 12 builds them; the commits, and the versions
between these two and after them, are still to be checked against Linux's repository.
A version is that of the release; where a stable series has the change as well, `backported`
names the series. A commit is "" where only the trees were compared: then the version is the
first one that is known to have it.
"""

from samepage.records import record

Version = tuple[int, int]


@record(frozen=True)
class Change:
    """When a rule became what its field of `KernelRules` describes."""

    since: Version
    commit: str
    what: str
    """The rule, and what was done before."""
    backported: tuple[Version, ...] = ()


CHANGES: dict[str, Change] = {
    "heap_is_what_overlaps": Change(
        (6, 7),
        "",
        "`[heap]` is a VMA that overlaps the heap (`vma_is_initial_heap`); before, also one that "
        "ends where the heap begins or begins where it ends, such as a program's bss.",
    ),
    "aligns_anonymous_memory": Change(
        (6, 7),
        "efa7df3e3bb5",
        "Anonymous memory of a multiple of 2 MiB (before 6.12 and in no stable series any more: "
        "of 2 MiB or more) is placed as huge pages want it; before, in the highest gap.",
    ),
    "alignment_keeps_top_down": Change(
        (6, 8),
        "96204e15310c",
        "Where the place found for an aligned mapping is aligned already, its upper end is taken; "
        "before, the lower one, which left 2 MiB above.",
    ),
    "zero_device_is_placed_as_file": Change(
        (6, 18),
        "",
        "A private mapping of /dev/zero is aligned by its offset, as those of files are; before, "
        "it went into the highest gap (`get_unmapped_area_zero`).",
    ),
    "stacks_refuse_huge_pages": Change(
        (6, 7),
        "c4608d1bf7c6",
        "MAP_STACK sets VM_NOHUGEPAGE; before, it did nothing.",
    ),
    "droppable_memory": Change(
        (6, 11),
        "9651fcedf7b9",
        "mmap knows MAP_DROPPABLE; before, EINVAL.",
    ),
    "written_parts_join_unwritten": Change(
        (6, 16),
        "879bca0a2c4f",
        "A range that has an anon_vma joins a neighbour that has none; before, it did not: only "
        "one without an anon_vma joined a neighbour that has one (`is_mergeable_anon_vma`).",
    ),
    "mremap_moves_many": Change(
        (6, 17),
        "d23cb648e365",
        "mremap moves several VMAs at once if the length stays; before, EFAULT beyond the first.",
    ),
    "guard_regions": Change(
        (6, 13),
        "662df3e5c376",
        "madvise knows MADV_GUARD_INSTALL and MADV_GUARD_REMOVE; before, EINVAL.",
    ),
    "fault_around_maps_whole_folios": Change(
        (6, 18),
        "357b92761d94",
        "Fault-around maps the whole of a large folio that reaches into its window; before, the "
        "part inside of the window (`filemap_map_folio_range`).",
    ),
    "no_huge_entry_at_end_of_file": Change(
        (6, 18),
        "74207de2ba10",
        "At a file's last folio fault-around does not try a huge entry, and so does not make the "
        "page table that it would need; before, it did.",
        backported=((6, 12),),
    ),
    "rseq_in_auxv": Change(
        (6, 3),
        "317c8194e6ae",
        "The auxiliary vector ends with AT_RSEQ_FEATURE_SIZE and AT_RSEQ_ALIGN; before, without.",
    ),
    "comm_of_a_descriptor_is_its_file": Change(
        (6, 14),
        "543841d18060",
        "A program that execveat gets by a descriptor is called after its file; before, after "
        "the number of the descriptor.",
    ),
    "smaps_shows_ksm": Change(
        (6, 8),
        "",
        "smaps has a line KSM.",
    ),
}
"""By the name of the field."""

LAST_SYSCALLS: dict[Version, int] = {
    (5, 15): 448,  # process_mrelease
    (5, 16): 449,  # futex_waitv
    (5, 17): 450,  # set_mempolicy_home_node
    (6, 5): 451,  # cachestat
    (6, 6): 453,  # fchmodat2, map_shadow_stack
    (6, 7): 456,  # futex_wake, futex_wait, futex_requeue
    (6, 8): 461,  # statmount, listmount, lsm_get_self_attr, lsm_set_self_attr, lsm_list_modules
    (6, 10): 462,  # mseal
    (6, 13): 466,  # setxattrat, getxattrat, listxattrat, removexattrat
    (6, 15): 467,  # open_tree_attr
    (6, 17): 469,  # file_getattr, file_setattr
}
"""The highest number of x86-64's table from a version on (arch/x86/entry/syscalls)."""
