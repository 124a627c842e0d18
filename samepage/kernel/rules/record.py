"""`KernelRules`: the rules by which one version of Linux differs from another.

True is what 6.18 does. `changes.CHANGES` lists for each field what it was before, since when it is
so, and by which commit.
"""

from samepage.records import record


@record(frozen=True)
class KernelRules:
    """The rules of one kernel. The defaults are those of 6.18."""

    # --- mappings ---
    heap_is_what_overlaps: bool = True
    aligns_anonymous_memory: bool = True
    alignment_keeps_top_down: bool = True
    zero_device_is_placed_as_file: bool = True
    stacks_refuse_huge_pages: bool = True
    droppable_memory: bool = True
    written_parts_join_unwritten: bool = True
    mremap_moves_many: bool = True
    guard_regions: bool = True
    # --- faults ---
    fault_around_maps_whole_folios: bool = True
    no_huge_entry_at_end_of_file: bool = True
    # --- exec ---
    rseq_in_auxv: bool = True
    comm_of_a_descriptor_is_its_file: bool = True
    # --- what programs are shown ---
    smaps_shows_ksm: bool = True
    # --- system calls ---
    last_syscall: int = 469
    """The highest number that the kernel has: all above are ENOSYS."""


NEWEST = KernelRules()
