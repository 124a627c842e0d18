"""What the emulated CPU has, and what it lacks that programs ask for.

Unicorn's CPUID is that of its default model. RDPID is not in it, and Unicorn does not execute
it; but the host's vDSO, which programs get (`kernel/process/vdso.py`), has it in its `getcpu`.
"""

from samepage.arch.x86_64.registers import Reg

HWCAP = 0x078B_FBFD
"""CPUID leaf 1, EDX."""

HIDDEN_FEATURES = (
    "-AVX2,-AVX,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM,-BMI2,-SSE4_2,-SSE4_1,-SSSE3,-XSAVE,"
    "-XSAVEC,-AVX_Fast_Unaligned_Load,-MOVBE,-POPCNT,-LZCNT"
)
"""In the form of `glibc.cpu.hwcaps`: what a server's CPU may have and this one has not."""

_RDPID, _RDPID_MODRM = b"\xf3\x0f\xc7", 0xF8


def rdpid_target(code: bytes) -> int | None:
    """The register that an RDPID instruction at the start of `code` writes the CPU's number to
    (`Reg`); None if it is another one."""
    if not code.startswith(_RDPID) or len(code) < RDPID_SIZE:
        return None
    modrm = code[len(_RDPID)]
    return Reg.RAX + (modrm & 7) if modrm & 0xF8 == _RDPID_MODRM else None


RDPID_SIZE = len(_RDPID) + 1
"""Bytes of the instruction."""
