"""/proc/PID/smaps and smaps_rollup, counted from page tables and frames
(`smaps_account` in fs/proc/task_mmu.c)."""

from samepage.abi.pagemap import PSS_SHIFT
from samepage.arch import PAGE_SIZE, pte_dirty, pte_pfn, pte_young
from samepage.kernel.fs.procfs.maps import header_line, map_line
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.vma import Vma, VmFlags
from samepage.records import fields, record

MNEMONICS = {
    VmFlags.READ: "rd",
    VmFlags.WRITE: "wr",
    VmFlags.EXEC: "ex",
    VmFlags.SHARED: "sh",
    VmFlags.MAYREAD: "mr",
    VmFlags.MAYWRITE: "mw",
    VmFlags.MAYEXEC: "me",
    VmFlags.MAYSHARE: "ms",
    VmFlags.GROWSDOWN: "gd",
    VmFlags.PFNMAP: "pf",
    VmFlags.LOCKED: "lo",
    VmFlags.IO: "io",
    VmFlags.SEQ_READ: "sr",
    VmFlags.RAND_READ: "rr",
    VmFlags.DONTCOPY: "dc",
    VmFlags.DONTEXPAND: "de",
    VmFlags.LOCKONFAULT: "lf",
    VmFlags.ACCOUNT: "ac",
    VmFlags.NORESERVE: "nr",
    VmFlags.SYNC: "sf",
    VmFlags.WIPEONFORK: "wf",
    VmFlags.DONTDUMP: "dd",
    VmFlags.MIXEDMAP: "mm",
    VmFlags.HUGEPAGE: "hg",
    VmFlags.NOHUGEPAGE: "nh",
    VmFlags.MERGEABLE: "mg",
    VmFlags.DROPPABLE: "dp",
    VmFlags.SEALED: "sl",
}
"""`show_smap_vma_flags`, in the order of the bits."""


@record
class MemSizeStats:
    """`struct mem_size_stats`: bytes, the pss ones in 1/4096 bytes."""

    resident: int = 0
    pss: int = 0
    pss_dirty: int = 0
    pss_anon: int = 0
    pss_file: int = 0
    pss_shmem: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    referenced: int = 0
    anonymous: int = 0
    lazyfree: int = 0
    locked: int = 0

    def add(self, other: "MemSizeStats") -> None:
        """Add another VMA's figures."""
        for name in fields(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def gather(mm: AddressSpace, vma: Vma) -> MemSizeStats:
    """Count the present pages of a VMA; the zero page and vvar are no normal pages."""
    stats = MemSizeStats()
    if vma.flags & VmFlags.PFNMAP:
        return stats
    frames, dirty_frames = mm.frames, mm.cache.dirty
    for _, _, entry in mm.table.present(vma.start, vma.end):
        pfn = pte_pfn(entry)
        kind = frames.kinds[pfn]
        if kind == FrameKind.ZERO:
            continue
        anonymous = kind == FrameKind.ANONYMOUS
        dirty = pte_dirty(entry) or pfn in dirty_frames
        mapcount = max(frames.mapcount[pfn], 1)
        pss = (PAGE_SIZE << PSS_SHIFT) // mapcount
        stats.resident += PAGE_SIZE
        stats.pss += pss
        if pte_young(entry):
            stats.referenced += PAGE_SIZE
        if anonymous:
            stats.anonymous += PAGE_SIZE
            stats.pss_anon += pss
            if pfn in frames.lazy and not dirty:
                stats.lazyfree += PAGE_SIZE
        elif kind == FrameKind.SHMEM:
            stats.pss_shmem += pss
        else:
            stats.pss_file += pss
        if vma.flags & VmFlags.LOCKED:
            stats.locked += pss
        if dirty:
            stats.pss_dirty += pss
        if mapcount == 1:
            stats.private_dirty += PAGE_SIZE if dirty else 0
            stats.private_clean += 0 if dirty else PAGE_SIZE
        else:
            stats.shared_dirty += PAGE_SIZE if dirty else 0
            stats.shared_clean += 0 if dirty else PAGE_SIZE
    return stats


def _line(name: str, size: int) -> str:
    return f"{name + ':':<16}{size >> 10:8} kB\n"


def _figures(mm: AddressSpace, stats: MemSizeStats, *, rollup: bool) -> str:
    """`__show_smap`. With `rollup` it prints the kinds of PSS as well."""
    shown = [("Rss", stats.resident), ("Pss", stats.pss >> PSS_SHIFT)]
    shown += [("Pss_Dirty", stats.pss_dirty >> PSS_SHIFT)]
    if rollup:
        shown += [
            ("Pss_Anon", stats.pss_anon >> PSS_SHIFT),
            ("Pss_File", stats.pss_file >> PSS_SHIFT),
            ("Pss_Shmem", stats.pss_shmem >> PSS_SHIFT),
        ]
    shown += [
        ("Shared_Clean", stats.shared_clean),
        ("Shared_Dirty", stats.shared_dirty),
        ("Private_Clean", stats.private_clean),
        ("Private_Dirty", stats.private_dirty),
        ("Referenced", stats.referenced),
        ("Anonymous", stats.anonymous),
        # The model has none of the others: no KSM, no huge pages, no swap.
        *([("KSM", 0)] if mm.rules.smaps_shows_ksm else ()),
        ("LazyFree", stats.lazyfree),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
    ]
    text = "".join(_line(name, size) for name, size in shown)
    text += f"Private_Hugetlb: {0:7} kB\n"
    text += _line("Swap", 0) + _line("SwapPss", 0)
    return text + _line("Locked", stats.locked >> PSS_SHIFT)


def smaps_entry(mm: AddressSpace, vma: Vma) -> str:
    """The lines of one VMA in /proc/PID/smaps (`show_smap`)."""
    flags = "".join(f"{name} " for flag, name in MNEMONICS.items() if vma.flags & flag)
    parts = [
        map_line(mm, vma),
        _line("Size", vma.end - vma.start),
        _line("KernelPageSize", PAGE_SIZE),
        _line("MMUPageSize", PAGE_SIZE),
        _figures(mm, gather(mm, vma), rollup=False),
        f"{'THPeligible:':<16}{0:8}\n",
        f"VmFlags: {flags}\n",
    ]
    return "".join(parts)


def smaps_rollup(mm: AddressSpace) -> str:
    """The whole of /proc/PID/smaps_rollup."""
    total = MemSizeStats()
    start = end = 0
    for vma in mm.vmas:
        total.add(gather(mm, vma))
        start = start or vma.start
        end = vma.end
    header = header_line(start, end, "---p", 0, 0, 0, "[rollup]")
    return header + _figures(mm, total, rollup=True)
