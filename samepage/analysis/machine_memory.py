"""What the machine's memory is used for: everything that is not free, by kind.

MemTotal - MemFree of /proc/meminfo, in kinds that do not overlap
(Documentation/filesystems/proc.rst, "meminfo"; fs/proc/meminfo.c):

- *Page cache*: Cached is NR_FILE_PAGES less swap cache and Buffers, and has Shmem in it.
- *vmalloc* has the kernel's stacks in it on kernels with CONFIG_VMAP_STACK, where VmallocUsed is
  at least as large as KernelStack; they are one row.
- KReclaimable is SReclaimable and what drivers can give back; only the latter is a row, since the
  former is in Slab.
- Pages that are free but lie in a CPU's own list are not in MemFree.

**The rest** has no counter: pages that drivers and the kernel allocated directly, and those of the
swap cache that are not mapped (at most SwapCached). Lines that a kernel does not print are 0.
"""

from typing import NamedTuple

from samepage.analysis.cgroup_memory import all_were_read, mapped_shmem
from samepage.analysis.sharing import Sharing
from samepage.snapshot.columns import PAGE_SIZE


class MachineMemory(NamedTuple):
    """The memory of a machine in bytes.

    Invariant: `used = sum of the kinds that are known + rest`.
    """

    total: int
    used: int
    """What is not free."""
    kinds: tuple[tuple[str, str, int | None], ...]
    """A key, what it is called, and how much; None: not known, and a part of the kind before."""
    rest: int
    swap_total: int
    swap_used: int


def machine_memory(sharing: Sharing) -> MachineMemory | None:
    """Return what the machine's memory is used for; None if the snapshot does not have it."""
    counters = sharing.snapshot.machine
    if not {"MemTotal", "MemFree"} <= counters.keys():
        return None

    def get(name: str) -> int:
        return counters.get(name, 0)

    shmem = get("Shmem")
    cache = max(get("Cached") - shmem, 0)
    mapped = _mapped_files(sharing, get("Mapped"), shmem, cache)
    kinds: list[tuple[str, str, int | None]] = [
        ("anonymous", "anonymous", get("AnonPages")),
        *_cache_rows(cache, mapped),
        ("buffers", "page cache of block devices", get("Buffers")),
        ("shmem", "shared memory, tmpfs", shmem),
        ("slab", "kernel: slab", get("Slab")),
        ("vmalloc", "kernel: stacks, vmalloc", max(get("VmallocUsed"), get("KernelStack"))),
        ("page_tables", "kernel: page tables", get("PageTables") + get("SecPageTables")),
        ("percpu", "kernel: per-CPU data", get("Percpu")),
        ("reclaimable", "kernel: caches of drivers", get("KReclaimable") - get("SReclaimable")),
        ("compressed", "compressed (zram, zswap)", max(get("Zswap"), get("vmstat.nr_zspages"))),
        ("hugetlb", "hugetlb, used or not", get("Hugetlb")),
        ("writeback", "buffers of writeback", get("WritebackTmp") + get("Bounce")),
        ("free_of_cpus", "free, in the lists of CPUs", get("zoneinfo.count")),
    ]
    used = get("MemTotal") - get("MemFree")
    known = sum(value for key, _, value in kinds if value is not None and key not in _PARTS)
    swap = get("SwapTotal")
    return MachineMemory(
        get("MemTotal"), used, tuple(kinds), used - known, swap, swap - get("SwapFree")
    )


_PARTS = ("file_mapped", "file_unmapped")
"""Kinds that are a part of another one, the page cache of files."""


def _cache_rows(cache: int, mapped: int | None) -> list[tuple[str, str, int | None]]:
    return [
        ("file", "page cache of files", cache),
        ("file_mapped", "  of it mapped", mapped),
        ("file_unmapped", "  of it not mapped", None if mapped is None else cache - mapped),
    ]


def _mapped_files(sharing: Sharing, mapped: int, shmem: int, cache: int) -> int | None:
    """Return how much of the page cache of files is mapped: `Mapped` has shared memory in it."""
    if not shmem or not mapped:
        return min(mapped, cache)
    snapshot = sharing.snapshot
    if not all_were_read(snapshot) or not len(snapshot.frames):
        return None
    shared = min(int(mapped_shmem(sharing).sum()) * PAGE_SIZE, shmem, mapped)
    return min(mapped - shared, cache)
