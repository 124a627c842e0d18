"""mremap: make a mapping longer or shorter, or move it. What moves are page-table entries,
never frames: the moved pages keep their frames, and their dirty and write bits.

Source: mm/mremap.c of Linux 6.18. The anonymous pages of a moved VMA keep the page offset
they were made with, so that a VMA which was written to no longer merges with what it
meets; one never written takes the offset of its new place, and does.
"""

import errno

from samepage.abi.mman import MremapFlags
from samepage.arch import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PMD_SIZE, TASK_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace, Event, EventKind
from samepage.kernel.mm.guards import move_guards
from samepage.kernel.mm.gup import mm_populate
from samepage.kernel.mm.mmap import do_munmap
from samepage.kernel.mm.unmapped_area import get_unmapped_area, page_align
from samepage.kernel.mm.vma import LOCKED_MASK, Vma, VmFlags
from samepage.kernel.mm.vma_merge import merge_new
from samepage.records import replace

_PLACED = MremapFlags.FIXED | MremapFlags.DONTUNMAP


def do_mremap(
    mm: AddressSpace, address: int, old_length: int, new_length: int, flags: int, target: int = 0
) -> int:
    """Resize or move a mapping; return where it is now.

    Raises `SysError` with EINVAL, EFAULT, EAGAIN or ENOMEM as `mremap(2)` does, and
    `OutOfFrames` before anything was moved.
    """
    flags = int(flags)
    old, new = page_align(old_length), page_align(new_length)
    _check_parameters(mm, address, old, new, flags, target)
    if flags & MremapFlags.FIXED and old == new and mm.rules.mremap_moves_many:
        place = _move_many(mm, address, old, flags, target)
    elif flags & _PLACED:
        place = _mremap_to(
            mm, _checked_vma(mm, address, old, new, flags), address, old, new, flags, target
        )
    else:
        place = _mremap_at(mm, address, old, new, flags)
    if mm.emit:
        mm.emit(Event(EventKind.MREMAP, place, new >> PAGE_SHIFT))
    return place


def _check_parameters(
    mm: AddressSpace, address: int, old: int, new: int, flags: int, target: int
) -> None:
    """`check_mremap_params`."""
    known = MremapFlags.MAYMOVE | MremapFlags.FIXED | MremapFlags.DONTUNMAP
    if flags & ~int(known) or address & ~PAGE_MASK or not new or new > TASK_SIZE:
        raise SysError(errno.EINVAL)
    if not flags & _PLACED:
        return
    if (
        target > TASK_SIZE - new
        or target & ~PAGE_MASK
        or not flags & MremapFlags.MAYMOVE
        or (flags & MremapFlags.DONTUNMAP and old != new)
        or (address + old > target and target + new > address)
    ):
        raise SysError(errno.EINVAL)
    if len(mm.vmas) + 2 >= mm.limits.max_map_count - 3:
        raise SysError(errno.ENOMEM)


def _checked_vma(mm: AddressSpace, address: int, old: int, new: int, flags: int) -> Vma:
    """The VMA at `address`, if the operation is possible with it (`check_prep_vma`)."""
    vma = mm.vmas.find(address)
    if vma is None:
        raise SysError(errno.EFAULT)
    if vma.flags & VmFlags.SEALED:
        raise SysError(errno.EPERM)
    if new <= old and old and not flags & _PLACED:
        return vma
    if not old and not vma.flags & (VmFlags.SHARED | VmFlags.MAYSHARE):
        raise SysError(errno.EINVAL)
    unmovable = VmFlags.DONTEXPAND | VmFlags.PFNMAP
    if flags & MremapFlags.DONTUNMAP and vma.flags & unmovable:
        raise SysError(errno.EINVAL)
    if min(old, new) > vma.end - address:
        raise SysError(errno.EFAULT)
    if new <= old:
        return vma
    if vma.index(address) + (new >> PAGE_SHIFT) >= 1 << 64:
        raise SysError(errno.EINVAL)
    if vma.flags & unmovable or old > vma.end - address:
        raise SysError(errno.EFAULT)
    if not mm.may_lock(vma.flags, new - old):
        raise SysError(errno.EAGAIN)
    if not mm.may_expand(vma.flags, (new - old) >> PAGE_SHIFT):
        raise SysError(errno.ENOMEM)
    return vma


def _move_many(mm: AddressSpace, address: int, length: int, flags: int, target: int) -> int:
    """Move all VMAs of a range, gaps between them included (`remap_move`)."""
    first = mm.vmas.find(address)
    if first is None:
        raise SysError(errno.EFAULT)
    pieces = [
        (max(vma.start, address), min(vma.end, address + length))
        for vma in mm.vmas.overlapping(address, address + length)
    ]
    for number, (start, end) in enumerate(pieces):
        vma = mm.vmas.find(start)
        alone = not number and end == address + length
        if vma is not None and vma.file is None and vma.has_file and not alone:
            # /dev/zero chooses addresses itself (`vma_multi_allowed`).
            raise SysError(errno.EFAULT)
        place = target + start - address
        vma = _checked_vma(mm, start, end - start, end - start, flags)
        _mremap_to(mm, vma, start, end - start, end - start, flags, place)
    return target


def _mremap_to(
    mm: AddressSpace, vma: Vma, address: int, old: int, new: int, flags: int, target: int
) -> int:
    """Move to where the caller, or DONTUNMAP, demands (`mremap_to`)."""
    if flags & MremapFlags.FIXED:
        do_munmap(mm, target, new)
    if new < old:
        do_munmap(mm, address + new, old - new)
        old = new
    found = mm.vmas.find(address)
    if found is None:
        raise SysError(errno.EFAULT)
    vma = found
    if flags & MremapFlags.DONTUNMAP and not mm.may_expand(vma.flags, old >> PAGE_SHIFT):
        raise SysError(errno.ENOMEM)
    if not flags & MremapFlags.FIXED:
        target = _new_address(mm, vma, address, new, target)
    return _move_vma(mm, vma, address, old, new, flags, target)


def _new_address(mm: AddressSpace, vma: Vma, address: int, new: int, hint: int = 0) -> int:
    """`vrm_set_new_addr`."""
    shared = bool(vma.flags & VmFlags.MAYSHARE)
    offset = vma.index(address) << PAGE_SHIFT
    zero = vma.file is None and vma.has_file
    return get_unmapped_area(mm, new, vma.file, offset, hint, shared=shared, zero_device=zero)


def _mremap_at(mm: AddressSpace, address: int, old: int, new: int, flags: int) -> int:
    """Resize in place if possible (`mremap_at`, `expand_vma`)."""
    vma = _checked_vma(mm, address, old, new, flags)
    if new == old:
        return address
    if new < old:
        do_munmap(mm, address + new, old - new)
        return address
    if vma.end - address == old and _expandable(mm, vma, new - old):
        _expand_in_place(mm, vma, new - old)
        if vma.flags & VmFlags.LOCKED:
            mm_populate(mm, address + old, new - old)
        return address
    if not flags & MremapFlags.MAYMOVE:
        raise SysError(errno.ENOMEM)
    return _move_vma(mm, vma, address, old, new, flags, _new_address(mm, vma, address, new))


def _expandable(mm: AddressSpace, vma: Vma, delta: int) -> bool:
    """`vma_expandable`."""
    end = vma.end + delta
    return end <= TASK_SIZE and not mm.vmas.overlapping(vma.end, end)


def _expand_in_place(mm: AddressSpace, vma: Vma, delta: int) -> None:
    """Let a VMA grow upwards, and join what it then touches (`vma_merge_extend`)."""
    if vma.flags & VmFlags.ACCOUNT and not mm.enough_memory(delta >> PAGE_SHIFT):
        raise SysError(errno.ENOMEM)
    extension = replace(vma, start=vma.end, end=vma.end + delta, pgoff=vma.index(vma.end))
    if merge_new(mm, extension) is None:
        # The VMA is one that never merges, but its own extension it can take.
        vma.end += delta


def _move_vma(
    mm: AddressSpace, vma: Vma, address: int, old: int, new: int, flags: int, target: int
) -> int:
    """`move_vma`: a new VMA, the entries moved into it, the old range unmapped."""
    if len(mm.vmas) >= mm.limits.max_map_count - 3:
        raise SysError(errno.ENOMEM)
    if vma.flags & VmFlags.ACCOUNT and not mm.enough_memory(new >> PAGE_SHIFT):
        raise SysError(errno.ENOMEM)
    for start, _, _ in mm.table.tables(address, address + old):
        # All tables first, so that running out of frames leaves nothing half moved.
        for page in (start, min((start | PMD_SIZE - 1) + 1, address + old) - PAGE_SIZE):
            mm.table.make_slot(page - address + target)
    locked = vma.flags & VmFlags.LOCKED
    peak = mm.peak_virtual  # that both places count at once does not show in VmPeak
    moved = _copy_vma(mm, vma, address, new, target)
    _move_page_tables(mm, address, old, target)
    if flags & MremapFlags.DONTUNMAP:
        vma.flags &= ~LOCKED_MASK
        if moved is not vma and vma.start == address and vma.end == address + old:
            vma.anon_vma, vma.anon_chain = None, 0
    elif old:
        do_munmap(mm, address, old)
    mm.peak_virtual = peak
    mm.context.flush_tlb_range(address, address + old)
    if locked and new > old:
        mm_populate(mm, target + old, new - old)
    return target


def _copy_vma(mm: AddressSpace, vma: Vma, address: int, new: int, target: int) -> Vma:
    """`copy_vma`: the VMA at its new place, merged with what is there if possible."""
    fresh = vma.anonymous and vma.anon_vma is None
    pgoff = target >> PAGE_SHIFT if fresh else vma.index(address)
    copy = replace(vma, start=target, end=target + new, pgoff=pgoff)
    merged = merge_new(mm, copy, copied_from=vma)
    if merged is None:
        mm.vmas.insert(copy)
        merged = copy
    return merged


def _move_page_tables(mm: AddressSpace, address: int, length: int, target: int) -> None:
    """`move_ptes`; the tables at the target are there."""
    words = mm.frames.ram.words
    if mm.guards:
        move_guards(mm, address, length, target)
    for page, slot, entry in mm.table.present(address, address + length):
        words[slot] = 0
        words[mm.table.slot(page - address + target)] = entry
