"""How an object is mapped: the exact system calls of `_dl_map_segments`.

A library of type ET_DYN is mapped whole by one call that lets the kernel choose the
place, with the first segment's protection and offset. Its length reserves the room for
the other segments, which are then mapped over it with MapFlags.FIXED. Holes between the
segments lose all access; zeros after a segment's file part are a store in its last page
and anonymous memory beyond. A program of type ET_EXEC is mapped at its own addresses.

The program and ld.so itself are mapped by the kernel, in the same way but for one thing:
it clears the last page of a writable segment up to the page's end (`padzero`), where
ld.so clears only what the segment has. Sources: `_dl_map_object_from_fd`,
`_dl_map_segments` of glibc 2.36; `load_elf_binary` of Linux.
"""

from dataclasses import dataclass
from typing import NamedTuple

from samepage.abi.elf import ElfType, SegmentFlags
from samepage.abi.mman import MapFlags, Prot
from samepage.elf.object import DynamicObject
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE, Memory, OpenFile

_MAP_COPY = MapFlags.PRIVATE | MapFlags.DENYWRITE
_ADDRESS_LIMIT = 1 << 47
_PROTECTIONS = [
    (Prot.READ if flags & SegmentFlags.R else Prot.NONE)
    | (Prot.WRITE if flags & SegmentFlags.W else 0)
    | (Prot.EXEC if flags & SegmentFlags.X else 0)
    for flags in range(8)
]
"""By `p_flags`."""


class LoadCommand(NamedTuple):
    """One PT_LOAD, rounded to pages: `struct loadcmd`. Addresses are the file's own."""

    map_start: int
    map_end: int
    data_end: int
    alloc_end: int
    offset: int
    prot: int
    align: int


@dataclass(frozen=True, slots=True)
class MapPlan:
    """The load commands of an object, and the span of all of them.

    Invariant: the commands ascend and do not overlap. `align` is the largest alignment
    that any of them asks for.
    """

    commands: list[LoadCommand]
    has_holes: bool
    length: int
    align: int


def plan(dynamic_object: DynamicObject) -> MapPlan:
    """The load commands of a file.

    Raises `ElfError` where glibc refuses the file ("ELF load command ...") and where its
    segments overlap or leave the address space.
    """
    elf = dynamic_object.elf
    commands: list[LoadCommand] = []
    has_holes = False
    end = map_end = 0  # of the segment before
    for segment in elf.loads:
        offset, vaddr, align = segment.offset, segment.vaddr, segment.align
        filesz, memsz = segment.filesz, segment.memsz
        if align & (PAGE - 1) or align & (align - 1):
            raise elf.error("ELF load command alignment not page-aligned")
        if (vaddr - offset) & (align - 1):
            raise elf.error("ELF load command address/offset not properly aligned")
        map_start, data_end, alloc_end = vaddr & -PAGE, vaddr + filesz, vaddr + memsz
        if filesz > memsz or alloc_end > _ADDRESS_LIMIT:
            raise elf.error(f"PT_LOAD at address {vaddr:#x}: {filesz} of {memsz} bytes")
        if commands:
            # ld.so would map the later one over the earlier; no linker makes such files.
            if end > map_start:
                raise elf.error(f"PT_LOAD at address {vaddr:#x} overlaps the one before")
            has_holes |= map_end != map_start
        end, map_end = (alloc_end + PAGE - 1) & -PAGE, (data_end + PAGE - 1) & -PAGE
        prot = _PROTECTIONS[segment.flags & (SegmentFlags.R | SegmentFlags.W | SegmentFlags.X)]
        commands.append(
            LoadCommand(map_start, map_end, data_end, alloc_end, offset & -PAGE, prot, align)
        )
    if not commands:
        raise elf.error("object file has no loadable segments")
    length = alloc_end - commands[0].map_start
    return MapPlan(commands, has_holes, length, max(PAGE, *[c.align for c in commands]))


def map_segments(
    memory: Memory, file: OpenFile, link_map: LinkMap, by_kernel: bool = False
) -> None:
    """Map the object of `file`; set `base`, `start` and `end` of its link map."""
    plan_ = plan(file.object)
    commands = plan_.commands
    first = commands[0]
    if file.object.elf.type == ElfType.DYN:
        link_map.start = _map_span(memory, file, plan_)
        link_map.base = link_map.start - first.map_start
        if plan_.has_holes:
            hole = link_map.base + first.map_end
            memory.mprotect(hole, commands[-1].map_start - first.map_end, Prot.NONE)
        _zero_tail(memory, link_map.base, first, by_kernel)
        commands = commands[1:]
    else:
        link_map.start = first.map_start
        link_map.base = 0
    link_map.end = link_map.start + plan_.length
    for command in commands:
        if command.map_end > command.map_start:
            memory.mmap(
                link_map.base + command.map_start,
                command.map_end - command.map_start,
                command.prot,
                _MAP_COPY | MapFlags.FIXED,
                file,
                command.offset,
            )
        _zero_tail(memory, link_map.base, command, by_kernel)


def _map_span(memory: Memory, file: OpenFile, plan_: MapPlan) -> int:
    """Map an object's whole span where the kernel likes, aligned as it asks for.

    An alignment above the page size (`_dl_map_segment`, since glibc 2.35) takes a larger
    reservation, of which the ends are given back.
    """
    first, length, align = plan_.commands[0], plan_.length, plan_.align
    if align <= PAGE:
        return memory.mmap(0, length, first.prot, _MAP_COPY, file, first.offset)
    reserved = length + align if length >= align else 2 * align
    start = memory.mmap(0, reserved, Prot.NONE, MapFlags.ANONYMOUS | MapFlags.PRIVATE, file, 0)
    aligned = (start + align - 1) & -align
    memory.mmap(aligned, length, first.prot, _MAP_COPY | MapFlags.FIXED, file, first.offset)
    if aligned > start:
        memory.munmap(start, aligned - start)
    end = _page_up(aligned + length)
    if start + reserved > end:
        memory.munmap(end, start + reserved - end)
    return aligned


def _zero_tail(memory: Memory, base: int, command: LoadCommand, by_kernel: bool) -> None:
    """Zeros after the file's part: the rest of its last page, then anonymous pages."""
    if command.alloc_end <= command.data_end:
        return
    zero, zero_end = base + command.data_end, base + command.alloc_end
    zero_page = _page_up(zero) if by_kernel else min(_page_up(zero), zero_end)
    if zero_page > zero and (command.prot & Prot.WRITE or not by_kernel):
        page = zero & -PAGE
        if not command.prot & Prot.WRITE:
            memory.mprotect(page, PAGE, command.prot | Prot.WRITE)
        memory.zero(zero, zero_page - zero)
        if not command.prot & Prot.WRITE:
            memory.mprotect(page, PAGE, command.prot)
    if zero_end > zero_page:
        memory.mmap(
            zero_page,
            zero_end - zero_page,
            command.prot,
            MapFlags.ANONYMOUS | MapFlags.PRIVATE | MapFlags.FIXED,
            None,
            0,
        )


def _page_up(address: int) -> int:
    return (address + PAGE - 1) & -PAGE
