"""The subdirectories that ld.so tries first, by what the CPU can do.

In each search directory, `glibc-hwcaps/x86-64-v4` to `-v2` come first, as far as the CPU
supports the level of the x86-64 psABI. Up to version 2.36 glibc then tries the legacy
subdirectories: all combinations of `tls`, the platform, and the names of hardware
capabilities. Sources: `_dl_important_hwcaps`, `_dl_hwcaps_subdirs_active` and (for the
platform) `update_active` in `cpu_features.c` of glibc 2.36.
"""

from collections.abc import Iterable
from functools import cache

from samepage.linker.rules import HOST, LdsoRules, rules_for
from samepage.records import record

_LEVELS = (
    (
        "x86-64-v2",
        ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"),
    ),
    (
        "x86-64-v3",
        ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    ),
    (
        "x86-64-v4",
        ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    ),
)
"""Levels with the flags of /proc/cpuinfo that each adds (pni is SSE3, abm is LZCNT)."""

_HASWELL = ("avx2", "bmi1", "bmi2", "abm", "movbe", "popcnt", "fma")
_AVX512_1 = ("avx512cd", "avx512bw", "avx512dq", "avx512vl")


@record(frozen=True)
class HardwareCapabilities:
    """What the search for libraries depends on.

    `levels` are the glibc-hwcaps subdirectories, best first; `platform` is $PLATFORM
    and a legacy subdirectory; `names` are the legacy names, highest bit first.
    """

    levels: tuple[str, ...] = ()
    platform: str = "x86_64"
    names: tuple[str, ...] = ("x86_64",)

    @classmethod
    def from_flags(cls, flags: Iterable[str], vendor: str = "") -> "HardwareCapabilities":
        """From the flags and the vendor of a CPU as /proc/cpuinfo names them."""
        present = set(flags)
        levels: list[str] = []
        for level, needed in _LEVELS:
            if not present.issuperset(needed):
                break
            levels.insert(0, level)
        platform = "x86_64"
        names: tuple[str, ...] = ("x86_64",)
        if vendor == "GenuineIntel":
            if present.issuperset(("avx512cd", "avx512er", "avx512pf")):
                platform = "xeon_phi"
            elif "avx512er" not in present and present.issuperset(_AVX512_1):
                names = ("avx512_1", *names)
            if platform == "x86_64" and present.issuperset(_HASWELL):
                platform = "haswell"
        return cls(tuple(levels), platform, names)

    @classmethod
    def host(cls, masked: Iterable[str] = ()) -> "HardwareCapabilities":
        """Those of the CPU that this process runs on, without some of its flags."""
        fields = _first_processor()
        present = set(fields.get("flags", "").split()).difference(masked)
        return cls.from_flags(present, fields.get("vendor_id", ""))

    def subdirectories(self, rules: LdsoRules | None = None) -> list[str]:
        """What is appended to a search directory, in order; the last is the empty string."""
        rules = rules or rules_for(HOST)
        return list(_subdirectories(self, rules.hwcaps_subdirectories, rules.legacy_hwcaps))


@cache
def _first_processor() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    with open("/proc/cpuinfo", encoding="ascii") as cpuinfo:
        for line in cpuinfo:
            name, _, value = line.partition(":")
            if not line.strip():
                break
            fields[name.strip()] = value.strip()
    return fields


@cache
def _subdirectories(
    capabilities: HardwareCapabilities, by_level: bool, legacy: bool
) -> tuple[str, ...]:
    levels = capabilities.levels if by_level else ()
    result = [f"glibc-hwcaps/{level}/" for level in levels]
    if not legacy:
        return (*result, "")
    # `tls` is the most significant name, then the platform, then the capabilities; every
    # subset of the names is a path, counted downwards in binary.
    names = ["tls", capabilities.platform, *capabilities.names]
    for mask in reversed(range(1 << len(names))):
        chosen = [
            name for place, name in enumerate(names) if mask & (1 << (len(names) - 1 - place))
        ]
        result.append("".join(f"{name}/" for name in chosen))
    return tuple(result)
