"""System calls that make and remove mappings: mmap, munmap, brk.

None of them gives memory; they only define what a range means, unless the memory is locked or
MAP_POPULATE asks for it. Checks come in Linux's order (mm/mmap.c and mm/vma.c of 6.18),
since the errno depends on it.
"""

from __future__ import annotations

import errno

from samepage.abi.mman import MAP_HUGE_SHIFT, MapFlags
from samepage.abi.resource import RLIM_INFINITY
from samepage.arch import ADDRESS_LIMIT, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace, Event, EventKind
from samepage.kernel.mm.gup import mm_populate
from samepage.kernel.mm.unmapped_area import gap_end, get_unmapped_area, page_align
from samepage.kernel.mm.vma import (
    ACCESS_FLAGS,
    DATA_FLAGS,
    LOCKED_MASK,
    MAY_FLAGS,
    SPECIAL_FLAGS,
    Vma,
    VmFlags,
)
from samepage.kernel.mm.vma_merge import merge_new, split_vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile, OpenedFile


_LEGACY = (
    MapFlags.SHARED_VALIDATE
    | MapFlags.FIXED
    | MapFlags.ANONYMOUS
    | MapFlags.LOW_32BIT
    | MapFlags.ABOVE4G
    | MapFlags.GROWSDOWN
    | MapFlags.DENYWRITE
    | MapFlags.EXECUTABLE
    | MapFlags.LOCKED
    | MapFlags.NORESERVE
    | MapFlags.POPULATE
    | MapFlags.NONBLOCK
    | MapFlags.STACK
    | MapFlags.HUGETLB
    | MapFlags.UNINITIALIZED
    | (21 | 30) << MAP_HUGE_SHIFT
)
"""`LEGACY_MAP_MASK`: the flags that MAP_SHARED_VALIDATE knows."""


def do_mmap(
    mm: AddressSpace,
    address: int,
    length: int,
    prot: int,
    flags: int,
    file: MappedFile | None = None,
    offset: int = 0,
    *,
    path: str = "",
    may_read: bool = True,
    may_write: bool = True,
    filp: OpenedFile | None = None,
    zero_device: bool = False,
) -> int:
    """Map `length` bytes and return the address; no page becomes present.

    `prot` and `flags` are `Prot` and `MapFlags` bits. `file` is the content of a file, `offset`
    its byte offset, `path` what /proc/PID/maps shows; `may_read` and `may_write` are what it
    was opened for. `filp` is the open file description: only mappings through the same one
    merge. One without a `file` cannot be mapped, except with `zero_device`: that is /dev/zero.
    Without both the memory is anonymous.

    Raises `SysError` with EINVAL, ENOMEM, EAGAIN, EEXIST, EPERM, EACCES, ENODEV, EOPNOTSUPP or
    EOVERFLOW as `mmap(2)` does.
    """
    prot, flags = int(prot), int(flags)
    kind = flags & MapFlags.TYPE
    if not length or offset & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    length = page_align(length)
    if length > TASK_SIZE or len(mm.vmas) > mm.limits.max_map_count:
        raise SysError(errno.ENOMEM)
    if offset + length > 1 << 64:
        raise SysError(errno.EOVERFLOW)
    vm_flags = prot & ACCESS_FLAGS | MAY_FLAGS | mm.default_flags | _flag_bits(mm, flags)
    address = _place(mm, address, length, flags, file, offset, zero_device)
    if flags & MapFlags.LOCKED and not mm.limits.privileged and not mm.limits.memlock:
        raise SysError(errno.EPERM)
    if not mm.may_lock(vm_flags, length):
        raise SysError(errno.EAGAIN)
    if file is None and filp is None:
        vm_flags |= _anonymous_flags(mm, kind, flags)
        offset = 0 if kind == MapFlags.SHARED else address
    else:
        if offset + length > (1 << 63) - 1:
            raise SysError(errno.EOVERFLOW)
        vm_flags = _file_flags(kind, flags, vm_flags, may_read, may_write)
        if file is None and not zero_device:
            raise SysError(errno.ENODEV)
        if vm_flags & VmFlags.GROWSDOWN:
            raise SysError(errno.EINVAL)
        if filp is not None and filp.write_sealed and vm_flags & VmFlags.SHARED:
            if vm_flags & VmFlags.WRITE:
                raise SysError(errno.EPERM)
            vm_flags &= ~VmFlags.MAYWRITE
    if vm_flags & VmFlags.SHARED and vm_flags & VmFlags.GROWSDOWN:
        raise SysError(errno.EINVAL)
    if flags & MapFlags.NORESERVE:
        vm_flags |= VmFlags.NORESERVE
    vma = Vma(address, address + length, vm_flags, file, offset >> PAGE_SHIFT, path, filp=filp)
    mmap_region(mm, vma)
    if flags & (MapFlags.POPULATE | MapFlags.NONBLOCK) == MapFlags.POPULATE or (
        vm_flags & VmFlags.LOCKED
    ):
        mm_populate(mm, address, length)
    return address


def _flag_bits(mm: AddressSpace, flags: int) -> int:
    """`calc_vm_flag_bits`. Stacks of threads are not for huge pages."""
    bits = 0
    if flags & MapFlags.GROWSDOWN:
        bits |= VmFlags.GROWSDOWN
    if flags & MapFlags.LOCKED:
        bits |= VmFlags.LOCKED
    if flags & MapFlags.STACK and mm.rules.stacks_refuse_huge_pages:
        bits |= VmFlags.NOHUGEPAGE
    return bits


def _anonymous_flags(mm: AddressSpace, kind: int, flags: int) -> int:
    """The flags by the kind of anonymous memory (`do_mmap`). Droppable memory may be taken
    away at any time, so it is never charged, inherited or locked."""
    if kind == MapFlags.SHARED:
        return VmFlags.SHARED | VmFlags.MAYSHARE
    droppable = kind == MapFlags.DROPPABLE and mm.rules.droppable_memory
    if droppable and not flags & (MapFlags.LOCKED | MapFlags.GROWSDOWN):
        return VmFlags.DROPPABLE | VmFlags.NORESERVE | VmFlags.WIPEONFORK | VmFlags.DONTDUMP
    if kind != MapFlags.PRIVATE:
        raise SysError(errno.EINVAL)
    return 0


def _place(
    mm: AddressSpace,
    address: int,
    length: int,
    flags: int,
    file: MappedFile | None,
    offset: int,
    zero_device: bool,
) -> int:
    """The address the mapping gets (`__get_unmapped_area` and the MAP_FIXED rules)."""
    if not flags & (MapFlags.FIXED | MapFlags.FIXED_NOREPLACE):
        shared = flags & MapFlags.TYPE == MapFlags.SHARED
        low = bool(flags & MapFlags.LOW_32BIT)
        return get_unmapped_area(
            mm,
            length,
            file,
            offset,
            address,
            low=low,
            shared=shared,
            zero_device=zero_device,
        )
    if address > TASK_SIZE - length:
        raise SysError(errno.ENOMEM)
    if address & ~PAGE_MASK:
        raise SysError(errno.EINVAL)
    if address < mm.limits.min_address:  # `cap_mmap_addr`
        raise SysError(errno.EPERM)
    if flags & MapFlags.FIXED_NOREPLACE and mm.vmas.overlapping(address, address + length):
        raise SysError(errno.EEXIST)
    return address


def _file_flags(kind: int, flags: int, vm_flags: int, may_read: bool, may_write: bool) -> int:
    """The flags of a mapping of a file, and whether it was opened for that (`do_mmap`)."""
    if kind == MapFlags.SHARED_VALIDATE and flags & ~_LEGACY:
        raise SysError(errno.EOPNOTSUPP)
    if kind in (MapFlags.SHARED, MapFlags.SHARED_VALIDATE):
        if vm_flags & VmFlags.WRITE and not may_write:
            raise SysError(errno.EACCES)
        vm_flags |= VmFlags.SHARED | VmFlags.MAYSHARE
        if not may_write:
            vm_flags &= ~(VmFlags.MAYWRITE | VmFlags.SHARED)
    elif kind != MapFlags.PRIVATE:
        raise SysError(errno.EINVAL)
    if not may_read:
        raise SysError(errno.EACCES)
    return vm_flags


def mmap_region(mm: AddressSpace, vma: Vma) -> Vma:
    """Put a VMA in place of what is mapped there; return the one it became part of
    (`__mmap_region`). Raises `SysError(ENOMEM)` where a limit forbids it."""
    replaced = mm.vmas.overlapping(vma.start, vma.end)
    if not mm.may_expand(vma.flags, vma.pages - _pages_inside(replaced, vma.start, vma.end)):
        raise SysError(errno.ENOMEM)
    accountable = VmFlags.NORESERVE | VmFlags.SHARED | VmFlags.WRITE
    if vma.flags & accountable == VmFlags.WRITE:
        charged = [old for old in replaced if old.flags & VmFlags.ACCOUNT]
        if not mm.enough_memory(vma.pages - _pages_inside(charged, vma.start, vma.end)):
            raise SysError(errno.ENOMEM)
        vma.flags |= VmFlags.ACCOUNT
    if replaced:
        _unmap(mm, vma.start, vma.end)
    whole = merge_new(mm, vma)
    if whole is None:
        if vma.flags & VmFlags.SHARED and vma.file is None:
            memory = mm.cache.shmem.create(vma.end - vma.start)
            vma.file, vma.path, vma.filp = memory, memory.path, None  # `shmem_zero_setup`
        mm.vmas.insert(vma)
        whole = vma
    if whole.flags & VmFlags.LOCKED and whole.flags & SPECIAL_FLAGS:
        whole.flags &= ~LOCKED_MASK
    if mm.emit:
        mm.emit(Event(EventKind.MMAP, vma.start, vma.pages, file=vma.path, index=vma.pgoff))
    return whole


def _pages_inside(vmas: list[Vma], start: int, end: int) -> int:
    return sum(min(vma.end, end) - max(vma.start, start) for vma in vmas) >> PAGE_SHIFT


def do_munmap(mm: AddressSpace, address: int, length: int) -> None:
    """Unmap [address, address + length); holes are no error (`do_vmi_munmap`).

    Page tables that served nothing else are given back. Raises `SysError` with EINVAL,
    EPERM (sealed), or ENOMEM if a split would exceed `max_map_count`.
    """
    end = address + page_align(length)
    if address & ~PAGE_MASK or end > TASK_SIZE or end == address:
        raise SysError(errno.EINVAL)
    _unmap(mm, address, end)
    if mm.emit:
        mm.emit(Event(EventKind.MUNMAP, address, (end - address) >> PAGE_SHIFT))


def _unmap(mm: AddressSpace, start: int, end: int) -> None:
    """`do_vmi_align_munmap`. Raises `SysError(EPERM)` if a part of it is sealed."""
    if any(vma.flags & VmFlags.SEALED for vma in mm.vmas.overlapping(start, end)):
        raise SysError(errno.EPERM)
    first = mm.vmas.find(start)
    if first is not None and first.start < start:
        if end < first.end and len(mm.vmas) >= mm.limits.max_map_count:
            raise SysError(errno.ENOMEM)
        mm.vmas.split(first, start)
    last = mm.vmas.find(end)
    if last is not None and last.start < end:
        split_vma(mm, last, end)
    gone = mm.vmas.overlapping(start, end)
    if not gone:
        return
    below, above = mm.vmas.before(start), mm.vmas.next_from(end)
    mm.peak_virtual = max(mm.peak_virtual, mm.virtual_pages)
    mm.zap(gone[0].start, gone[-1].end)
    if mm.guards:
        mm.guards = {page for page in mm.guards if not start <= page < end}
    for vma in gone:
        mm.vmas.remove(vma)
        mm.release_file(vma)
    mm.table.free_tables(
        gone[0].start,
        gone[-1].end,
        below.end if below else 0,
        above.start if above else ADDRESS_LIMIT,
    )


def do_brk(mm: AddressSpace, address: int) -> int:
    """Move the end of the heap; return the end as it then is (`brk`).

    As in Linux there is no error: a request that cannot be met changes nothing.
    """
    brk = mm.brk
    if address < brk.start or not _data_limit_allows(mm, address):
        return brk.end
    old, new = page_align(brk.end), page_align(address)
    try:
        if new < old:
            heap = mm.vmas.next_from(new)
            if heap is None or heap.start >= old:
                return brk.end
            _unmap(mm, new, old)
        elif new > old:
            following = mm.vmas.next_from(old)
            blocked = following is not None and new + PAGE_SIZE > gap_end(following)
            if new > TASK_SIZE or blocked or not mm.may_lock(mm.default_flags, new - old):
                return brk.end
            _expand_heap(mm, old, new, mm.vmas.before(old), brk.start)
    except SysError:
        return brk.end
    brk.end = address
    if mm.emit:
        mm.emit(Event(EventKind.BRK, address))
    if new > old and mm.default_flags & VmFlags.LOCKED:
        mm_populate(mm, old, new - old)
    return address


def _data_limit_allows(mm: AddressSpace, address: int) -> bool:
    """`check_data_rlimit`."""
    limit = mm.limits.data
    data = mm.layout.end_data - mm.layout.start_data
    return limit == RLIM_INFINITY or address - mm.brk.start + data <= limit


def vm_brk_flags(mm: AddressSpace, address: int, length: int, *, executable: bool = False) -> None:
    """Map zeroed private memory at a fixed, free place: the bss of a program that exec
    loads (`vm_brk_flags`). Raises `SysError(ENOMEM)`."""
    end = address + page_align(length)
    if end > address:
        if mm.vmas.overlapping(address, end):
            _unmap(mm, address, end)
        flags = VmFlags.EXEC if executable else 0
        _expand_heap(mm, address, end, mm.vmas.before(address), 0, flags)


def _expand_heap(
    mm: AddressSpace, start: int, end: int, below: Vma | None, floor: int, extra: int = 0
) -> None:
    """Map anonymous memory, as a part of the VMA below if that is a part of the heap, or
    ends above `floor` (`do_brk_flags`)."""
    flags = DATA_FLAGS | VmFlags.ACCOUNT | mm.default_flags | extra
    pages = (end - start) >> PAGE_SHIFT
    if (
        not mm.may_expand(flags, pages)
        or len(mm.vmas) > mm.limits.max_map_count
        or not mm.enough_memory(pages)
    ):
        raise SysError(errno.ENOMEM)
    vma = Vma(start, end, flags, pgoff=start >> PAGE_SHIFT)
    if below is None or below.end <= floor or merge_new(mm, vma, only_left=True) is None:
        mm.vmas.insert(vma)
