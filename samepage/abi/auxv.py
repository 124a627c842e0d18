"""The auxiliary vector: what the kernel's exec passes to a new program beside its arguments.

An array of pairs of 64-bit words, key and value, that ends with AT_NULL
(include/uapi/linux/auxvec.h; System V ABI, "Auxiliary Vector"). /proc/PID/auxv has its bytes.
"""

import struct
from collections.abc import Iterable


class Aux:
    """`AT_*`: the keys."""

    NULL = 0
    PHDR = 3
    PHENT = 4
    PHNUM = 5
    PAGESZ = 6
    BASE = 7
    FLAGS = 8
    ENTRY = 9
    UID = 11
    EUID = 12
    GID = 13
    EGID = 14
    PLATFORM = 15
    HWCAP = 16
    CLKTCK = 17
    SECURE = 23
    RANDOM = 25
    HWCAP2 = 26
    RSEQ_FEATURE_SIZE = 27
    RSEQ_ALIGN = 28
    EXECFN = 31
    SYSINFO_EHDR = 33
    MINSIGSTKSZ = 51


_ENTRY = struct.Struct("<QQ")


def parse_auxv(data: bytes) -> dict[int, int]:
    """Return the values by key, up to AT_NULL. A last entry that is cut off is left out."""
    values: dict[int, int] = {}
    for key, value in _ENTRY.iter_unpack(data[: len(data) & -_ENTRY.size]):
        if key == Aux.NULL:
            break
        values[key] = value
    return values


def build_auxv(entries: Iterable[tuple[int, int]]) -> bytes:
    """Return the vector with these entries in their order, and AT_NULL behind them."""
    return b"".join(_ENTRY.pack(key, value) for key, value in (*entries, (Aux.NULL, 0)))
