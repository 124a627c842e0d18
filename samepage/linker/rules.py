"""What differs between versions of glibc's ld.so, one field per rule.

A program names its ld.so (PT_INTERP), and the file has its version in its text: `ld.so (...)
stable release version 2.36.` `rules_of` reads that, and `rules_for` gives the rules. The
linker asks a rule by its name and never compares versions itself. Each field states since
which version it holds, and the commit in glibc's repository that made it so.
"""

import re
from functools import cache, lru_cache

from samepage.elf.file import ElfFile
from samepage.records import record

_BANNER = re.compile(
    rb"(?:ld\.so|GNU C Library) \([^)]*\) (?:stable|development) release version (\d+)\.(\d+)"
)

Version = tuple[int, int]

HOST: Version = (2, 36)
"""What is assumed of an ld.so of unknown version."""


@record(frozen=True)
class LdsoRules:
    """The rules of one version of ld.so."""

    version: Version
    libc: str
    """"glibc", or "musl" for the rules of musl's loader (`samepage.linker.musl`)."""
    checks_p_align: bool
    """Before 2.35: p_align has to be a multiple of the page size, and p_vaddr and p_offset of
    a PT_LOAD agree modulo p_align. Since then only modulo the page size (163f625cf9)."""
    aligns_segments: bool
    """Since 2.35 an object lies at a multiple of its largest p_align (e22a4557eb)."""
    names_dynamic_section: bool
    """Since 2.35 an empty PT_DYNAMIC is refused, as one that is missing (ea32ec354c)."""
    sorts_depth_first: bool
    """Since 2.35 constructors are sorted by a depth-first search, unless
    glibc.rtld.dynamic_sort=1 (15a0c5730d)."""
    packs_relative: bool
    """Since 2.36 DT_RELR is applied (e895cff59a), and refused without the version
    GLIBC_ABI_DT_RELR (57292f5741)."""
    adjusts_zero_rela: bool
    """Before 2.36 the base is added to DT_RELA even if that is 0 (e895cff59a)."""
    refuses_indirect_access: bool
    """Since 2.35 NEEDED_INDIRECT_EXTERN_ACCESS of a library with a protected symbol is an
    error for a program that copies it or takes its address (349b0441da)."""
    warns_of_protected: bool
    """Since 2.36 such a program earns a warning without the property (7374c02b68)."""
    hwcaps_subdirectories: bool
    """Since 2.33 the search looks into glibc-hwcaps/* (dad90d5282), and ld.so.cache has
    an extension that names them (600d9e0c87)."""
    legacy_hwcaps: bool
    """Before 2.37 it looks into tls/, haswell/ and their like, too (6099908fb8)."""
    asserts_versions: bool
    """Before 2.41 a reference with a version of a library that has none ends in an assertion
    (bdaf500353)."""
    skips_no_directory: bool
    """Since 2.39 a search path with a file in place of a directory does not end the search
    (a8dcffb306)."""
    refuses_executable_stack: bool
    """Since 2.41 dlopen of a library that needs an executable stack fails (0ca8785a28)."""


@cache
def rules_for(version: Version) -> LdsoRules:
    """The rules of a version of glibc."""
    return LdsoRules(
        version=version,
        libc="glibc",
        checks_p_align=version < (2, 35),
        aligns_segments=version >= (2, 35),
        names_dynamic_section=version >= (2, 35),
        sorts_depth_first=version >= (2, 35),
        packs_relative=version >= (2, 36),
        adjusts_zero_rela=version < (2, 36),
        refuses_indirect_access=version >= (2, 35),
        warns_of_protected=version >= (2, 36),
        hwcaps_subdirectories=version >= (2, 33),
        legacy_hwcaps=version < (2, 37),
        asserts_versions=version < (2, 41),
        skips_no_directory=version >= (2, 39),
        refuses_executable_stack=version >= (2, 41),
    )


@lru_cache(maxsize=4)
def version_of(ldso: ElfFile) -> Version | None:
    """The version that an ld.so or libc states in its text; None if it states none.

    The file is searched once, however many programs name it.
    """
    found = _BANNER.search(ldso.buffer)
    return (int(found[1]), int(found[2])) if found else None


def rules_of(ldso: ElfFile) -> LdsoRules:
    """The rules of the ld.so in a file."""
    return rules_for(version_of(ldso) or HOST)
