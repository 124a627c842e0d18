"""GLIBC_TUNABLES, as far as it decides how a program is linked.

The variable is a list of `name=value` with colons between. Of the names, these matter here:

- `glibc.cpu.hwcaps`: `-AVX2` and its like take a feature of the CPU away, and with it the
  subdirectories of the search that need it;
- `glibc.rtld.dynamic_sort`: 1 for the older order of constructors;
- `glibc.rtld.nns`, `glibc.rtld.optional_static_tls`: the surplus of static TLS.

A value that is no number, or outside of what a tunable allows, leaves the default. In secure
mode none counts. Source: elf/dl-tunables.list, sysdeps/x86/cpu-tunables.c and
`_dl_tls_static_surplus_init` of glibc 2.36.
"""

from samepage.records import record

_LEGACY_TLS = 144
_LIBC_TLS = _OTHER_TLS = 144

_FLAGS = {"CMPXCHG16B": "cx16", "LZCNT": "abm", "SSE3": "pni"}
"""Features that /proc/cpuinfo calls otherwise."""

_OFF = (
    "AVX",
    "CX8",
    "FMA",
    "HTT",
    "IBT",
    "RTM",
    "AVX2",
    "BMI1",
    "BMI2",
    "CMOV",
    "ERMS",
    "FMA4",
    "SSE2",
    "LZCNT",
    "MOVBE",
    "SHSTK",
    "SSSE3",
    "XSAVE",
    "POPCNT",
    "SSE4_1",
    "SSE4_2",
    "AVX512F",
    "OSXSAVE",
    "AVX512CD",
    "AVX512BW",
    "AVX512DQ",
    "AVX512ER",
    "AVX512PF",
    "AVX512VL",
)
"""What can be taken away."""


@record(frozen=True)
class Tunables:
    """The tunables of a program. `masked` are flags of /proc/cpuinfo that it does not use."""

    dynamic_sort: int = 2
    static_tls_surplus: int = 1664
    masked: frozenset[str] = frozenset()


def parse_tunables(text: str) -> Tunables:
    """Read the variable's value."""
    values = dict(part.split("=", 1) for part in text.split(":") if "=" in part)
    sort = _number(values, "glibc.rtld.dynamic_sort", 2, 1, 2)
    namespaces = _number(values, "glibc.rtld.nns", 4, 1, 16)
    optional = _number(values, "glibc.rtld.optional_static_tls", 512, 0, 1 << 63)
    surplus = (namespaces - 1) * _LIBC_TLS + namespaces * _OTHER_TLS + optional + _LEGACY_TLS
    features = values.get("glibc.cpu.hwcaps", "").split(",")
    masked = {name[1:] for name in features if name[:1] == "-" and name[1:] in _OFF}
    flags = frozenset(_FLAGS.get(name, name.lower()) for name in masked)
    return Tunables(sort, surplus, flags)


def _number(values: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    try:
        value = int(values.get(name, ""), 0)
    except ValueError:
        return default
    return value if low <= value <= high else default
