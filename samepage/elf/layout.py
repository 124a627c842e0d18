"""The records of ELF files as NumPy structured types, for both classes.

A table of an ELF file is an array of C structures. A NumPy structured dtype is such a
structure's layout, so a table is *viewed* where it lies in the mapped file, and one
operation works on a whole column of it; no record ever becomes a Python object.

Both byte orders exist in the ABI; samepage reads little-endian files, which all its
architectures use. Source: System V ABI, chapters 4 and 5 ("Object Files", "Program
Loading and Dynamic Linking").
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samepage.records import record

Table = NDArray[Any]
"""A view of an ELF table: one structured record per entry."""

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _record(*fields: tuple[str, str]) -> np.dtype[np.void]:
    dtype: Any = np.dtype(list(fields))
    return dtype  # type: ignore[no-any-return]


@record(frozen=True)
class Layout:
    """The record layouts of one ELF class, and where `r_info` is cut."""

    bits: int
    phdr: np.dtype[np.void]
    shdr: np.dtype[np.void]
    dyn: np.dtype[np.void]
    sym: np.dtype[np.void]
    rel: np.dtype[np.void]
    rela: np.dtype[np.void]
    word: np.dtype[Any]
    symbol_shift: int
    """`r_info >> symbol_shift` is the symbol's index; the bits below are the type."""

    @property
    def word_size(self) -> int:
        return self.bits // 8


ELF64 = Layout(
    bits=64,
    phdr=_record(
        ("p_type", "<u4"),
        ("p_flags", "<u4"),
        ("p_offset", "<u8"),
        ("p_vaddr", "<u8"),
        ("p_paddr", "<u8"),
        ("p_filesz", "<u8"),
        ("p_memsz", "<u8"),
        ("p_align", "<u8"),
    ),
    shdr=_record(
        ("sh_name", "<u4"),
        ("sh_type", "<u4"),
        ("sh_flags", "<u8"),
        ("sh_addr", "<u8"),
        ("sh_offset", "<u8"),
        ("sh_size", "<u8"),
        ("sh_link", "<u4"),
        ("sh_info", "<u4"),
        ("sh_addralign", "<u8"),
        ("sh_entsize", "<u8"),
    ),
    dyn=_record(("d_tag", "<i8"), ("d_val", "<u8")),
    sym=_record(
        ("st_name", "<u4"),
        ("st_info", "u1"),
        ("st_other", "u1"),
        ("st_shndx", "<u2"),
        ("st_value", "<u8"),
        ("st_size", "<u8"),
    ),
    rel=_record(("r_offset", "<u8"), ("r_info", "<u8")),
    rela=_record(("r_offset", "<u8"), ("r_info", "<u8"), ("r_addend", "<i8")),
    word=np.dtype("<u8"),
    symbol_shift=32,
)

ELF32 = Layout(
    bits=32,
    phdr=_record(
        ("p_type", "<u4"),
        ("p_offset", "<u4"),
        ("p_vaddr", "<u4"),
        ("p_paddr", "<u4"),
        ("p_filesz", "<u4"),
        ("p_memsz", "<u4"),
        ("p_flags", "<u4"),
        ("p_align", "<u4"),
    ),
    shdr=_record(
        ("sh_name", "<u4"),
        ("sh_type", "<u4"),
        ("sh_flags", "<u4"),
        ("sh_addr", "<u4"),
        ("sh_offset", "<u4"),
        ("sh_size", "<u4"),
        ("sh_link", "<u4"),
        ("sh_info", "<u4"),
        ("sh_addralign", "<u4"),
        ("sh_entsize", "<u4"),
    ),
    dyn=_record(("d_tag", "<i4"), ("d_val", "<u4")),
    sym=_record(
        ("st_name", "<u4"),
        ("st_value", "<u4"),
        ("st_size", "<u4"),
        ("st_info", "u1"),
        ("st_other", "u1"),
        ("st_shndx", "<u2"),
    ),
    rel=_record(("r_offset", "<u4"), ("r_info", "<u4")),
    rela=_record(("r_offset", "<u4"), ("r_info", "<u4"), ("r_addend", "<i4")),
    word=np.dtype("<u4"),
    symbol_shift=8,
)
