"""Mapping an ELF program and its interpreter (`load_elf_binary` in fs/binfmt_elf.c).

Nothing of the file is copied: each PT_LOAD segment becomes a private file mapping. The
only pages that become present here are those that the kernel itself writes to: the last
file page of a writable segment with a bss, whose tail must read as zeros (`padzero`).

Where a position-independent program goes is fixed: with an interpreter at
`ELF_ET_DYN_BASE`, without one (static PIE) like any other mapping, top-down.
"""

from __future__ import annotations

import errno

from samepage.abi.elf import EHDR64, PHDR64, ElfMachine, ElfType, SegmentFlags, SegmentType
from samepage.abi.mman import MapFlags, Prot
from samepage.arch import ARCH, ELF_ET_DYN_BASE, PAGE_MASK, PAGE_SIZE, TASK_SIZE
from samepage.elf.header import (
    ElfError,
    ElfHeader,
    ProgramHeader,
    parse_elf_header,
    parse_program_headers,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.mmap import do_mmap, do_munmap, vm_brk_flags
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.mm.unmapped_area import page_align
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.file import OpenFile
    from samepage.kernel.fs.mapping import Mapping


_MAX_TABLE = 65536
_MAX_INTERP = 4096
_WORD = (1 << 64) - 1


class BadExecutable(SysError):
    """The file cannot be executed; `reason` is the reason in words."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number)
        self.reason = reason


@record(frozen=True)
class ElfImage:
    """A file to map: its content, its path as it was opened, its headers, and the open file
    that its mappings have."""

    mapping: Mapping
    path: str
    header: ElfHeader
    segments: list[ProgramHeader]
    filp: OpenFile

    @property
    def loads(self) -> list[ProgramHeader]:
        """The PT_LOAD segments in their order."""
        return [s for s in self.segments if s.type == SegmentType.LOAD]


@record
class LoadedElf:
    """Where an image went (addresses in bytes)."""

    bias: int
    entry: int
    phdr: int
    start_code: int
    end_code: int
    start_data: int
    end_data: int
    end_bss: int


def read_elf(cache: PageCache, mapping: Mapping, path: str, filp: OpenFile) -> ElfImage:
    """Read the headers of a program or interpreter through the page cache.

    Raises `BadExecutable` (ENOEXEC) with the reason.
    """
    try:
        header = parse_elf_header(cache.read(mapping, 0, EHDR64.size))
    except ElfError as error:
        raise BadExecutable(errno.ENOEXEC, error.message) from None
    if header.machine != ARCH.elf_machine:
        known = {number: name for name, number in vars(ElfMachine).items() if name.isupper()}
        name = known.get(header.machine, f"machine {header.machine}")
        raise BadExecutable(errno.ENOEXEC, f"it is for another architecture ({name})")
    if header.type not in (ElfType.EXEC, ElfType.DYN):
        raise BadExecutable(errno.ENOEXEC, f"ELF type {header.type} is not a program")
    size = header.phnum * PHDR64.size
    if header.phentsize != PHDR64.size or not 0 < size <= _MAX_TABLE:
        raise BadExecutable(errno.ENOEXEC, "its program header table cannot be right")
    try:
        table = cache.read(mapping, header.phoff, size) if header.phoff < 1 << 62 else b""
        segments = parse_program_headers(table, header.phnum)
    except ElfError as error:
        raise BadExecutable(errno.ENOEXEC, error.message) from None
    return ElfImage(mapping, path, header, segments, filp)


def interpreter_path(cache: PageCache, image: ElfImage) -> bytes | None:
    """The PT_INTERP string; None if there is none. Raises `BadExecutable`."""
    for segment in image.segments:
        if segment.type != SegmentType.INTERP:
            continue
        if not 2 <= segment.filesz <= _MAX_INTERP or segment.offset >= 1 << 62:
            raise BadExecutable(errno.ENOEXEC, "its PT_INTERP cannot be right")
        path = cache.read(image.mapping, segment.offset, segment.filesz)
        if len(path) < segment.filesz:
            raise BadExecutable(errno.EIO, "its PT_INTERP lies beyond the end of the file")
        if path[-1:] != b"\0":
            raise BadExecutable(errno.ENOEXEC, "its PT_INTERP is not a string")
        return path.split(b"\0", 1)[0]
    return None


def load_program(mm: AddressSpace, image: ElfImage, has_interpreter: bool) -> LoadedElf:
    """Map the main program. Raises `SysError`: the new program cannot live then."""
    bias = 0
    if image.header.type == ElfType.DYN and has_interpreter:
        alignment = _maximum_alignment(image.loads)
        bias = ELF_ET_DYN_BASE & -alignment
        bias -= (image.loads[0].vaddr & PAGE_MASK) if image.loads else 0
        return _map_segments(mm, image, bias, reserve=True)
    if image.header.type == ElfType.DYN:
        return _map_segments(mm, image, None, reserve=True)
    return _map_segments(mm, image, bias, reserve=False)


def load_interpreter(mm: AddressSpace, image: ElfImage) -> LoadedElf:
    """Map the interpreter wherever there is room (`load_elf_interp`). Raises `SysError`."""
    fixed = image.header.type == ElfType.EXEC
    return _map_segments(mm, image, 0 if fixed else None, reserve=not fixed)


def _maximum_alignment(loads: list[ProgramHeader]) -> int:
    """The largest p_align that is a power of two, at least a page."""
    aligns = [s.align for s in loads if s.align and s.align & (s.align - 1) == 0]
    return max([PAGE_SIZE, *aligns])


def _map_segments(
    mm: AddressSpace, image: ElfImage, bias: int | None, *, reserve: bool
) -> LoadedElf:
    """Map each PT_LOAD at `bias` + its address; None lets the kernel choose the bias.

    With `reserve` the first mapping takes the length of all segments together, and the
    rest of it is given back at once: so the others surely fit.
    """
    loads = image.loads
    if not loads:
        raise BadExecutable(errno.ENOEXEC, "it has no segment to load")
    first = True
    result: LoadedElf | None = None
    for segment in loads:
        _check(segment)
        start = segment.vaddr & PAGE_MASK
        if first:
            total = _total_mapping_size(loads) if reserve else 0
            if bias is None:
                hint, fixed = 0, 0
            else:
                hint = bias + start
                fixed = MapFlags.FIXED_NOREPLACE
            address = _elf_map(mm, image, segment, hint, fixed, total)
            if bias is None:
                bias = address - start
            result = _describe(image, bias)
            first = False
        else:
            assert bias is not None
            address = _elf_map(mm, image, segment, bias + start, MapFlags.FIXED, 0)
        _load_bss(mm, segment, address)
    assert result is not None
    return result


def _check(segment: ProgramHeader) -> None:
    if segment.filesz > segment.memsz:
        raise BadExecutable(errno.EINVAL, "a segment has more bytes in the file than in memory")
    if segment.memsz > TASK_SIZE or segment.vaddr > TASK_SIZE - segment.memsz:
        raise BadExecutable(errno.EINVAL, "a segment lies outside of user space")
    if (segment.vaddr - segment.offset) & (PAGE_SIZE - 1):
        raise BadExecutable(errno.EINVAL, "a segment's address and offset disagree in the page")
    if segment.offset >= 1 << 62:
        raise BadExecutable(errno.EINVAL, "a segment's offset is out of range")


def _total_mapping_size(loads: list[ProgramHeader]) -> int:
    low = min(s.vaddr & PAGE_MASK for s in loads)
    return max(s.vaddr + s.memsz for s in loads) - low


def _prot(segment: ProgramHeader) -> int:
    prot = 0
    if segment.flags & SegmentFlags.R:
        prot |= Prot.READ
    if segment.flags & SegmentFlags.W:
        prot |= Prot.WRITE
    if segment.flags & SegmentFlags.X:
        prot |= Prot.EXEC
    return prot


def _elf_map(
    mm: AddressSpace,
    image: ElfImage,
    segment: ProgramHeader,
    address: int,
    fixed: int,
    total: int,
) -> int:
    """Map the file part of one segment; return where its first page is (`elf_map`)."""
    in_page = segment.vaddr & (PAGE_SIZE - 1)
    size = page_align(segment.filesz + in_page)
    if not segment.filesz:
        return address
    flags = MapFlags.PRIVATE | fixed
    offset = segment.offset - in_page
    length = max(page_align(total), size)
    place = do_mmap(
        mm,
        address,
        length,
        _prot(segment),
        flags,
        image.mapping,
        offset,
        path=image.path,
        filp=image.filp,
    )
    if length > size:
        do_munmap(mm, place + size, length - size)
    return place


def _load_bss(mm: AddressSpace, segment: ProgramHeader, address: int) -> None:
    """Make what lies past the file part read as zeros (`elf_load`)."""
    if segment.memsz == segment.filesz:
        return
    in_page = segment.vaddr & (PAGE_SIZE - 1)
    zero_start = address + in_page + segment.filesz
    zero_end = address + in_page + segment.memsz
    tail = -zero_start & (PAGE_SIZE - 1)
    if segment.filesz and tail:
        try:
            copy_to_user(mm, zero_start, bytes(tail))
        except SysError:
            if segment.flags & SegmentFlags.W:
                raise
    start = page_align(zero_start) if segment.filesz else zero_start & PAGE_MASK
    end = page_align(zero_end)
    if end > start:
        executable = bool(segment.flags & SegmentFlags.X)
        vm_brk_flags(mm, start, end - start, executable=executable)


def _describe(image: ElfImage, bias: int) -> LoadedElf:
    """Where everything is; sums wrap around as those of the kernel's `unsigned long`."""
    loads = image.loads
    code = [s for s in loads if s.flags & SegmentFlags.X] or loads[:1]
    phoff = image.header.phoff
    holder = next((s for s in loads if s.offset <= phoff < s.offset + s.filesz), None)
    last = max(loads, key=lambda s: s.vaddr + s.filesz)
    return LoadedElf(
        bias=bias,
        entry=(bias + image.header.entry) & _WORD,
        phdr=(bias + phoff - holder.offset + holder.vaddr) & _WORD if holder else 0,
        start_code=bias + min(s.vaddr for s in code),
        end_code=bias + max(s.vaddr + s.filesz for s in code),
        start_data=bias + max(s.vaddr for s in loads),
        end_data=bias + last.vaddr + last.filesz,
        end_bss=bias + max(s.vaddr + s.memsz for s in loads),
    )
