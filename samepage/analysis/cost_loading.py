"""Whether a library would be loaded at all, and what is lost where pages are larger.

ld.so maps each segment in whole pages of the machine, so `p_vaddr` and `p_offset` have to agree
modulo its page size: a library that was linked for pages of 4 KiB may not load where pages have
16 or 64. RELRO becomes read-only in whole pages, too, of which the last is left out. Sources:
`_dl_map_object_from_fd`, `_dl_protect_relro`, `_dl_check_map_versions` of glibc.
"""

from samepage.abi.elf import SegmentFlags
from samepage.elf.dynamic import Tag
from samepage.elf.object import DynamicObject
from samepage.elf.relocated_pages import text_relocations
from samepage.elf.versions import RELR_VERSION


def load_problems(library: DynamicObject, page_size: int) -> list[str]:
    """What keeps a library from being loaded with this page size, or is lost: a line each."""
    return [
        *_segments(library, page_size),
        *_relro(library, page_size),
        *_text(library, page_size),
        *_versions(library),
    ]


def _segments(library: DynamicObject, page_size: int) -> list[str]:
    bad = [load for load in library.elf.loads if (load.vaddr - load.offset) & (page_size - 1)]
    if not bad:
        return []
    return [
        f"cannot be loaded with pages of {page_size} bytes: PT_LOAD at address "
        f"{bad[0].vaddr:#x} has offset {bad[0].offset:#x} "
        f"(link with -Wl,-z,max-page-size={page_size})"
    ]


def _relro(library: DynamicObject, page_size: int) -> list[str]:
    relro = library.relro
    if relro is None or not relro.memsz:
        return []
    end = relro.vaddr + relro.memsz
    start = relro.vaddr & -page_size
    if end & -page_size > start:
        return []
    return [
        f"RELRO has no effect with pages of {page_size} bytes: its {relro.memsz} bytes do not "
        f"reach the end of a page (link with -Wl,-z,common-page-size={page_size})"
    ]


def _text(library: DynamicObject, page_size: int) -> list[str]:
    if not library.dynamic.textrel:
        return []
    places = text_relocations(library)
    pages = sorted({place & -page_size for place in places.tolist()})
    executable = [load for load in library.elf.loads if load.flags & SegmentFlags.X]
    in_code = sum(
        any(
            load.vaddr <= page + page_size - 1 and page < load.vaddr + load.memsz
            for load in executable
        )
        for page in pages
    )
    return [
        f"text relocations: {len(places)} words on {len(pages)} read-only pages, {in_code} of "
        "them code, are not shared (compile with -fPIC)"
    ]


def _versions(library: DynamicObject) -> list[str]:
    needed = set(library.needed)
    lines = []
    for file in dict.fromkeys(version.file for version in library.versions.needed):
        if file is not None and file not in needed:
            lines.append(
                f"versions of {file} are needed, which DT_NEEDED does not name: "
                "ld.so ends with an assertion unless it is loaded by others"
            )
    names = {version.name for version in library.versions.needed}
    of_libc = any(name.startswith("libc.so.") for name in needed)
    if library.dynamic.get(Tag.RELR) is not None and of_libc and RELR_VERSION not in names:
        lines.append(f"DT_RELR without {RELR_VERSION} dependency: glibc refuses it")
    return lines
