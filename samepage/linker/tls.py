"""Static thread-local storage: where each object's TLS block lies.

On x86-64 the thread pointer addresses the thread's control block, and the TLS blocks of
the objects that are loaded at start lie below it (TLS variant II), each at a fixed
distance, so that code can address a variable by a constant. Modules are numbered in
load order. Blocks are put down one after the other, each aligned; a gap that an
alignment leaves is used for a later block that fits. Source: `_dl_determine_tlsoffset`,
`_dl_process_pt_tls` of glibc.
"""

from samepage.linker.maps import LinkMap
from samepage.records import record

TCB_ALIGN = 64
TCB_SIZE = 2368
"""sizeof (struct pthread) in glibc 2.36 on x86-64."""


@record(frozen=True)
class TlsLayout:
    """The static TLS area. Sizes in bytes; the blocks lie below the thread pointer."""

    used: int
    size: int
    align: int
    modules: int


def assign_modules(maps: list[LinkMap], first: int = 1) -> int:
    """Number the objects with TLS in load order; return the next free number."""
    for link in maps:
        if link.object.tls is not None and link.tls_module == 0:
            link.tls_module = first
            first += 1
    return first


def layout_static_tls(maps: list[LinkMap], surplus: int) -> TlsLayout:
    """Set `tls_offset` of all objects with TLS; return the area's size and alignment."""
    max_align = TCB_ALIGN
    offset = free_top = free_bottom = modules = 0
    for link in maps:
        tls = link.object.tls
        if tls is None:
            continue
        modules += 1
        align = max(tls.align, 1)
        max_align = max(max_align, align)
        first_byte = -(tls.vaddr & (align - 1)) & (align - 1)
        if free_bottom - free_top >= tls.memsz:
            place = _round_up(free_top + tls.memsz - first_byte, align) + first_byte
            if place <= free_bottom:
                free_top = place
                link.tls_offset = place
                continue
        place = _round_up(offset + tls.memsz - first_byte, align) + first_byte
        if place > offset + tls.memsz + (free_bottom - free_top):
            free_top = offset
            free_bottom = place - tls.memsz
        offset = place
        link.tls_offset = place
    size = _round_up(offset + surplus, max_align) + TCB_SIZE
    return TlsLayout(offset, size, max_align, modules)


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) // align * align
