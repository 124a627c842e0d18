"""Virtual memory areas: what a range of addresses of one process means.

A `Vma` is plain data; the set of them is kept sorted by address in `VmaSet`. What Linux
does to neighbours, splitting and merging, is in `vma_merge`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from samepage.arch import PAGE_SHIFT
from samepage.records import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile, OpenedFile


class VmFlags:
    """`vm_flags`, with Linux's values (include/linux/mm.h), as plain ints: an `IntFlag`
    costs a microsecond for each `&`, on the path of every fault."""

    READ = 0x1
    WRITE = 0x2
    EXEC = 0x4
    SHARED = 0x8
    MAYREAD = 0x10
    MAYWRITE = 0x20
    MAYEXEC = 0x40
    MAYSHARE = 0x80
    GROWSDOWN = 0x100
    PFNMAP = 0x400
    LOCKED = 0x2000
    IO = 0x4000
    SEQ_READ = 0x8000
    RAND_READ = 0x10000
    DONTCOPY = 0x20000
    DONTEXPAND = 0x40000
    LOCKONFAULT = 0x80000
    ACCOUNT = 0x100000
    NORESERVE = 0x200000
    SYNC = 0x800000
    WIPEONFORK = 0x2000000
    DONTDUMP = 0x4000000
    MIXEDMAP = 0x10000000
    HUGEPAGE = 0x20000000
    NOHUGEPAGE = 0x40000000
    MERGEABLE = 0x80000000
    DROPPABLE = 1 << 40
    SEALED = 1 << 42


ACCESS_FLAGS = VmFlags.READ | VmFlags.WRITE | VmFlags.EXEC
MAY_FLAGS = VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
LOCKED_MASK = VmFlags.LOCKED | VmFlags.LOCKONFAULT
SPECIAL_FLAGS = VmFlags.IO | VmFlags.DONTEXPAND | VmFlags.PFNMAP | VmFlags.MIXEDMAP
"""`VM_SPECIAL`: such a VMA is neither merged nor locked."""
DATA_FLAGS = VmFlags.READ | VmFlags.WRITE | MAY_FLAGS
"""`VM_DATA_DEFAULT_FLAGS`: the rights of heap and stack."""


def flag_names(flags: int) -> list[str]:
    """The names of the set bits of `vm_flags`, for display."""
    bits = {name: value for name, value in vars(VmFlags).items() if name.isupper()}
    return [name for name, value in bits.items() if flags & value]


class AnonVma:
    """The identity that ties private pages to the VMAs which may hold them (`anon_vma`).

    Two VMAs that have one each merge only if it is the same.
    """

    __slots__ = ()


@record(eq=False)
class Vma:
    """Addresses from `start` up to `end` (bytes, page-aligned).

    `file` and `pgoff` (pages) are what backs it; without a file it is anonymous, and
    `pgoff` is the page number of its first address when it was made. `filp` is the
    open file description: mappings of one inode by two `open`s do not merge.
    `special` names pages that the kernel installs: `[vdso]`, `[vvar]`. `anon_vma` is set
    once a page of it was written privately: from then on fork copies its page tables.
    `anon_chain` counts the anon_vmas it is linked to: more than one after a fork.

    Invariants: start < end; VMAs of one address space never overlap; `anon_chain` is 0 if
    and only if `anon_vma` is None.
    """

    start: int
    end: int
    flags: int
    file: MappedFile | None = None
    pgoff: int = 0
    path: str = ""
    special: str = ""
    anon_vma: AnonVma | None = None
    anon_chain: int = 0
    filp: OpenedFile | None = None

    @property
    def pages(self) -> int:
        """The length in pages."""
        return (self.end - self.start) >> PAGE_SHIFT

    @property
    def shown_path(self) -> str:
        """`path`, as the open file is called by now: it may be renamed, or removed."""
        return self.path if self.filp is None else self.filp.shown_name

    @property
    def shared(self) -> bool:
        """Writes go to the file (or to the shared anonymous memory) itself."""
        return bool(self.flags & VmFlags.SHARED)

    @property
    def anonymous(self) -> bool:
        """Private memory without a file behind it (`vma_is_anonymous`)."""
        return self.file is None and not self.special

    @property
    def has_file(self) -> bool:
        """Whether there is a `vm_file`: also for private memory of /dev/zero, which has
        the path only."""
        return self.file is not None or bool(self.path)

    @property
    def shmem(self) -> bool:
        """Backed by shared anonymous memory (`vma_is_shmem`)."""
        return self.file is not None and self.file.shmem

    def index(self, address: int) -> int:
        """The file page that `address` shows."""
        return self.pgoff + ((address - self.start) >> PAGE_SHIFT)

    def address(self, index: int) -> int:
        """Where the file page `index` is, or would be if the VMA reached so far."""
        return self.start + ((index - self.pgoff) << PAGE_SHIFT)


class VmaSet:
    """The VMAs of one address space, sorted, without overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def find(self, address: int) -> Vma | None:
        """The VMA that contains `address` (`vma_lookup`)."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            vma = self._vmas[at]
            if address < vma.end:
                return vma
        return None

    def next_from(self, address: int) -> Vma | None:
        """The first VMA that ends above `address` (`find_vma`)."""
        at = bisect_right(self._starts, address)
        if at and address < self._vmas[at - 1].end:
            return self._vmas[at - 1]
        return self._vmas[at] if at < len(self._vmas) else None

    def before(self, address: int) -> Vma | None:
        """The last VMA that starts below `address`."""
        at = bisect_left(self._starts, address)
        return self._vmas[at - 1] if at else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs that have an address in [start, end)."""
        first = bisect_right(self._starts, start)
        if first and self._vmas[first - 1].end > start:
            first -= 1
        return self._vmas[first : bisect_left(self._starts, end)]

    def downwards(self, address: int) -> Iterator[Vma]:
        """The VMAs that start below `address`, the highest first."""
        for at in range(bisect_left(self._starts, address) - 1, -1, -1):
            yield self._vmas[at]

    def insert(self, vma: Vma) -> None:
        """Add a VMA to a free range, without merging."""
        at = bisect_left(self._starts, vma.start)
        self._starts.insert(at, vma.start)
        self._vmas.insert(at, vma)

    def remove(self, vma: Vma) -> None:
        """Take a VMA out."""
        at = bisect_left(self._starts, vma.start)
        del self._starts[at], self._vmas[at]

    def set_start(self, vma: Vma, start: int) -> None:
        """Move a VMA's start, within its neighbours' bounds; what each of its addresses
        shows stays the same, so `pgoff` moves along."""
        self._starts[bisect_left(self._starts, vma.start)] = start
        vma.pgoff += (start - vma.start) >> PAGE_SHIFT
        vma.start = start

    def split(self, vma: Vma, address: int) -> Vma:
        """Cut `vma` in two at `address`; return the upper part (`__split_vma`)."""
        upper = replace(vma, start=address, pgoff=vma.index(address))
        vma.end = address
        self.insert(upper)
        return upper
