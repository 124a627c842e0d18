"""How an object is mapped: the exact system calls of `_dl_map_segments`.

A library of type ET_DYN is mapped whole by one call that lets the kernel choose the
place, with the first segment's protection and offset. Its length reserves the room for
the other segments, which are then mapped over it with MapFlags.FIXED. Holes between the
segments lose all access; zeros after a segment's file part are a store in its last page
and anonymous memory beyond. A program of type ET_EXEC is mapped at its own addresses.

The segments are taken in the order of the table, whatever their addresses. The program and
ld.so itself are mapped by the kernel, in the same way but for one thing: it clears the last
page of a writable segment up to the page's end (`padzero`), where ld.so clears only what the
segment has. Sources: `_dl_map_object_from_fd`,
`_dl_map_segments` of glibc 2.36; `load_elf_binary` of Linux.
"""

from typing import NamedTuple

from samepage.abi.elf import ElfType, SegmentFlags
from samepage.abi.mman import MapFlags, Prot
from samepage.arch import ADDRESS_LIMIT
from samepage.elf.header import ProgramHeader
from samepage.elf.object import DynamicObject
from samepage.linker.errors import Crash, LinkError
from samepage.linker.maps import LinkMap
from samepage.linker.memory import PAGE, Memory, OpenFile
from samepage.linker.rules import LdsoRules, rules_for
from samepage.records import record

_MAP_COPY = MapFlags.PRIVATE | MapFlags.DENYWRITE
_KERNEL = rules_for((99, 0))
"""Linux maps what it starts by the same rules as the newest ld.so."""
PROTECTIONS = [
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


@record(frozen=True)
class MapPlan:
    """The load commands of an object in the order of its program headers, and the span that
    the first call maps. `align` is the largest power of two that any of them asks for.
    """

    commands: list[LoadCommand]
    has_holes: bool
    length: int
    align: int


def plan(dynamic_object: DynamicObject, rules: LdsoRules, name: str) -> MapPlan:
    """The load commands of a file; `name` is for messages.

    Raises `LinkError` with ld.so's words where that refuses the file.
    """
    commands: list[LoadCommand] = []
    has_holes = False
    align = 0
    for segment in dynamic_object.elf.loads:
        offset, vaddr = segment.offset, segment.vaddr
        _check_alignment(segment, rules, name)
        map_start = vaddr & -PAGE
        if commands:
            has_holes |= commands[-1].map_end != map_start
        if segment.align & (segment.align - 1) == 0:
            align = max(align, segment.align)
        command = LoadCommand(
            map_start,
            map_end=_page_up(vaddr + segment.filesz),
            data_end=vaddr + segment.filesz,
            alloc_end=vaddr + segment.memsz,
            offset=offset & -PAGE,
            prot=PROTECTIONS[segment.flags & (SegmentFlags.R | SegmentFlags.W | SegmentFlags.X)],
        )
        commands.append(command)
    if not commands:
        raise LinkError(f"{name}: object file has no loadable segments")
    length = commands[-1].alloc_end - commands[0].map_start
    if not rules.aligns_segments:
        align = PAGE
    return MapPlan(commands, has_holes, length, align)


def _check_alignment(segment: ProgramHeader, rules: LdsoRules, name: str) -> None:
    if not rules.checks_p_align:
        if (segment.vaddr - segment.offset) & (PAGE - 1):
            raise LinkError(f"{name}: ELF load command address/offset not page-aligned")
        return
    if segment.align & (PAGE - 1):
        raise LinkError(f"{name}: ELF load command alignment not page-aligned")
    if (segment.vaddr - segment.offset) & (segment.align - 1):
        raise LinkError(f"{name}: ELF load command address/offset not properly aligned")


def plan_of_kernel(dynamic_object: DynamicObject, name: str) -> MapPlan:
    """The load commands of a program or its interpreter, which the kernel maps.

    It makes room for all of them, in whatever order they are. Raises `LinkError` for a file
    with which `execve` ends the process (`load_elf_binary`).
    """
    for segment in dynamic_object.elf.loads:
        wrong = ""
        if segment.filesz and (segment.vaddr - segment.offset) & (PAGE - 1):
            wrong = "its offset and its address differ within a page"
        elif segment.filesz > segment.memsz:
            wrong = f"{segment.filesz} bytes of the file in {segment.memsz} of memory"
        elif segment.vaddr + segment.memsz > ADDRESS_LIMIT:
            wrong = f"{segment.memsz} bytes of memory"
        if wrong:
            address = f"PT_LOAD at address {segment.vaddr:#x}"
            raise LinkError(f"{name}: the kernel does not start it: {address}: {wrong}")
    found = plan(dynamic_object, _KERNEL, name)
    commands = sorted(found.commands, key=lambda command: command.map_start)
    length = max(command.alloc_end for command in commands) - commands[0].map_start
    return MapPlan(commands, found.has_holes, length, found.align)


def map_segments(memory: Memory, file: OpenFile, link_map: LinkMap, plan_: MapPlan) -> None:
    """Map the object of `file`; set `base`, `start` and `end` of its link map.

    Raises `LinkError` for segments that have no room, `OSError` where a call fails otherwise.
    """
    commands = plan_.commands
    first = commands[0]
    if file.object.elf.type == ElfType.DYN:
        _check_span(plan_, link_map)
        link_map.start = _map_span(memory, file, plan_, link_map)
        link_map.base = link_map.start - first.map_start
        if plan_.has_holes:
            hole = link_map.base + first.map_end
            memory.mprotect(hole, commands[-1].map_start - first.map_end, Prot.NONE)
        _zero_tail(memory, link_map, first)
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
        _zero_tail(memory, link_map, command)


def _check_span(plan_: MapPlan, link_map: LinkMap) -> None:
    """ld.so does not sort the segments: the last one in the table decides how much room there is.

    Below the first one there is room as a rule, above the last one there is none: the
    library that was mapped before is there, and ld.so maps the segment over it.
    """
    first, last = plan_.commands[0], plan_.commands[-1]
    name = link_map.requested or link_map.name
    if not 0 < plan_.length <= ADDRESS_LIMIT:
        raise LinkError(f"{name}: failed to map segment from shared object")
    if plan_.has_holes and last.map_start < first.map_end:
        raise LinkError(f"{name}: ELF load command address/offset not page-aligned")
    for command in plan_.commands:
        if max(command.map_end, _page_up(command.alloc_end)) > _page_up(last.alloc_end):
            raise Crash(
                f"{name}: PT_LOAD at address {command.map_start:#x} ends behind the last one of "
                "the table, for which ld.so makes room: it is mapped over what is there"
            )


def _map_span(memory: Memory, file: OpenFile, plan_: MapPlan, link_map: LinkMap) -> int:
    """Map an object's whole span where the kernel likes, aligned as it asks for.

    An alignment above the page size (`_dl_map_segment`, since glibc 2.35) takes a larger
    reservation, of which the ends are given back.
    """
    first, length, align = plan_.commands[0], plan_.length, plan_.align
    try:
        if align <= PAGE:
            return memory.mmap(0, length, first.prot, _MAP_COPY, file, first.offset)
        reserved = length + align if length >= align else 2 * align
        start = memory.mmap(0, reserved, Prot.NONE, MapFlags.ANONYMOUS | MapFlags.PRIVATE, file, 0)
    except OSError:
        name = link_map.requested or link_map.name
        raise LinkError(f"{name}: failed to map segment from shared object") from None
    aligned = (start + align - 1) & -align
    memory.mmap(aligned, length, first.prot, _MAP_COPY | MapFlags.FIXED, file, first.offset)
    if aligned > start:
        memory.munmap(start, aligned - start)
    end = _page_up(aligned + length)
    if start + reserved > end:
        memory.munmap(end, start + reserved - end)
    return aligned


def _zero_tail(memory: Memory, link_map: LinkMap, command: LoadCommand) -> None:
    """Zeros after the file's part: the rest of its last page, then anonymous pages."""
    if command.alloc_end <= command.data_end:
        return
    base, by_kernel = link_map.base, link_map.by_kernel
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
