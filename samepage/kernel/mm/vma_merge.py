"""Splitting VMAs and merging them with their neighbours (mm/vma.c of Linux 6.18).

A program that maps ten pages one by one has one VMA in the end, and one that protects a
page in the middle has three. `/proc/PID/maps` shows it, fork copies by it, and a limit
counts it, so the rule must be Linux's exactly. Two neighbours become one if flags, open
file and offset continue, and if their anon_vmas allow it:

- one of them has none: yes, unless the other came from a parent by fork
  (`vma_is_fork_child`): its chain of anon_vmas is longer than one (older kernels let only a
  range without one join: `KernelRules.written_parts_join_unwritten`);
- both have one: only if it is the same.

Two neighbours do get the same one where possible: the first private write into a VMA asks
the neighbours for theirs (`find_mergeable_anon_vma`).
"""

import errno

from samepage.arch import PAGE_SHIFT
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.vma import ACCESS_FLAGS, SPECIAL_FLAGS, AnonVma, Vma
from samepage.records import record


@record
class MergeRequest:
    """What a range would be if it were alone (`vma_merge_struct`).

    `vma` has the flags, file, offset and anon_vma of the range; it is not, or not yet, in
    the address space unless `middle` names the VMA that it is a part of. `copied_from` is
    the VMA that mremap moves.
    """

    vma: Vma
    middle: Vma | None = None
    copied_from: Vma | None = None


def _is_fork_child(vma: Vma | None) -> bool:
    return vma is not None and vma.anon_chain > 1


def _anon_vma_allows(mm: AddressSpace, target: Vma, request: MergeRequest) -> bool:
    """`is_mergeable_anon_vma`."""
    source = request.vma.anon_vma
    if target.anon_vma is None and source is not None:
        if not mm.rules.written_parts_join_unwritten:
            return False
        return not _is_fork_child(request.middle) and not _is_fork_child(request.copied_from)
    if target.anon_vma is not None and source is None:
        return not _is_fork_child(target)
    return source is target.anon_vma


def _continues(lower: Vma, upper: Vma) -> bool:
    """Flags, file and offset continue from one to the other."""
    return (
        lower.end == upper.start
        and lower.flags == upper.flags
        and lower.file is upper.file
        and lower.filp is upper.filp
        and lower.pgoff + lower.pages == upper.pgoff
        and not lower.special
        and not upper.special
    )


def _neighbours(
    mm: AddressSpace, request: MergeRequest, *, left: bool, right: bool
) -> tuple[Vma | None, Vma | None]:
    """The neighbours below and above that the range merges with."""
    vma = request.vma
    if vma.flags & SPECIAL_FLAGS:
        return None, None
    below = mm.vmas.before(vma.start) if left else None
    if below is not None and not (_continues(below, vma) and _anon_vma_allows(mm, below, request)):
        below = None
    above = mm.vmas.find(vma.end) if right else None
    if above is not None and not (_continues(vma, above) and _anon_vma_allows(mm, above, request)):
        above = None
    if (
        below is not None
        and above is not None
        and below.anon_vma is not above.anon_vma
        and below.anon_vma is not None
        and above.anon_vma is not None
    ):
        above = None
    return below, above


def _take_anon_vma(target: Vma, source: Vma) -> None:
    """`dup_anon_vma`."""
    if target.anon_vma is None and source.anon_vma is not None:
        target.anon_vma = source.anon_vma
        target.anon_chain = source.anon_chain


def merge_new(
    mm: AddressSpace, vma: Vma, *, copied_from: Vma | None = None, only_left: bool = False
) -> Vma | None:
    """Put a new range into the neighbours it continues (`vma_merge_new_range`).

    `vma` describes the range and is not in the address space. Returns the VMA that
    contains the range now, or None if there is no such neighbour.
    """
    request = MergeRequest(vma, None, copied_from)
    below, above = _neighbours(mm, request, left=True, right=not only_left)
    if below is not None:
        end = vma.end
        if above is not None:
            mm.vmas.remove(above)
            _take_anon_vma(below, above)
            end = above.end
        _take_anon_vma(below, vma)
        below.end = end
        return below
    if above is not None:
        mm.vmas.set_start(above, vma.start)
        _take_anon_vma(above, vma)
    return above


def split_vma(mm: AddressSpace, vma: Vma, address: int) -> Vma:
    """Cut a VMA; return the upper part. Raises `SysError(ENOMEM)` at `max_map_count`."""
    if len(mm.vmas) >= mm.limits.max_map_count:
        raise SysError(errno.ENOMEM)
    return mm.vmas.split(vma, address)


def modify_flags(mm: AddressSpace, vma: Vma, start: int, end: int, flags: int) -> Vma:
    """Give the part [start, end) of a VMA other flags (`vma_modify_flags`).

    The part goes over to a neighbour that has these flags already, or is split off.
    Returns the VMA that contains it. Raises `SysError(ENOMEM)` at `max_map_count`.
    """
    at_start, at_end = start == vma.start, end == vma.end
    if at_start or at_end:
        part = Vma(
            start,
            end,
            flags,
            vma.file,
            vma.index(start),
            vma.path,
            vma.special,
            vma.anon_vma,
            vma.anon_chain,
            vma.filp,
        )
        merged = _merge_part(mm, vma, part, at_start, at_end)
        if merged is not None:
            return merged
    if not at_start:
        vma = split_vma(mm, vma, start)
    if not at_end:
        split_vma(mm, vma, end)
    vma.flags = flags
    return vma


def _merge_part(mm: AddressSpace, vma: Vma, part: Vma, at_start: bool, at_end: bool) -> Vma | None:
    """`vma_merge_existing_range`: move the part of `vma` over to its neighbours."""
    below, above = _neighbours(mm, MergeRequest(part, vma), left=at_start, right=at_end)
    if below is not None:
        end = part.end
        if at_end:
            mm.vmas.remove(vma)
        else:
            mm.vmas.set_start(vma, part.end)
        if above is not None:
            mm.vmas.remove(above)
            _take_anon_vma(below, above)
            end = above.end
        _take_anon_vma(below, part)
        below.end = end
        return below
    if above is not None:
        if at_start:
            mm.vmas.remove(vma)
        else:
            vma.end = part.start
        mm.vmas.set_start(above, part.start)
        _take_anon_vma(above, part)
    return above


def anon_vma_prepare(mm: AddressSpace, vma: Vma) -> None:
    """Give a VMA its anon_vma before the first private page goes into it.

    A neighbour's is taken where the two could become one VMA if only their rights were
    the same (`find_mergeable_anon_vma`): the one above is asked first.
    """
    if vma.anon_vma is not None:
        return
    above = mm.vmas.find(vma.end)
    if above is not None and above.anon_chain == 1 and _compatible(vma, above):
        vma.anon_vma = above.anon_vma
    else:
        below = mm.vmas.before(vma.start)
        if below is not None and below.anon_chain == 1 and _compatible(below, vma):
            vma.anon_vma = below.anon_vma
    if vma.anon_vma is None:
        vma.anon_vma = AnonVma()
    vma.anon_chain = 1


def _compatible(lower: Vma, upper: Vma) -> bool:
    """`anon_vma_compatible`."""
    return (
        lower.end == upper.start
        and lower.file is upper.file
        and lower.filp is upper.filp
        and not (lower.flags ^ upper.flags) & ~ACCESS_FLAGS
        and upper.pgoff == lower.pgoff + ((upper.start - lower.start) >> PAGE_SHIFT)
    )
