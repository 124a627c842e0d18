"""The floating-point and vector registers: the area that XSAVE writes in its standard format,
with what Linux puts into the bytes that are left to software (`struct _fpx_sw_bytes` in
arch/x86/include/uapi/asm/sigcontext.h). Layout: Intel SDM volume 1, 13.4.
"""

from __future__ import annotations

import struct

LEGACY_SIZE = 512
_SOFTWARE = slice(464, 512)
_HEADER = slice(512, 576)
_MAGIC1 = 0x4650_5853
_SW_BYTES = struct.Struct("<IIQI")
"""magic1, extended_size, xfeatures, xstate_size."""
_U64 = struct.Struct("<Q")
_MXCSR = struct.Struct("<II")
_MXCSR_AT = 24
_LEGACY_FEATURES = 3
"""x87 and SSE: what the first 512 bytes hold."""
_INITIAL_FCW, _INITIAL_MXCSR = 0x37F, 0x1F80


class XState:
    """The format of this host, read from an area that its kernel has written."""

    def __init__(self, area: memoryview) -> None:
        magic, _, self.features, self.size = _SW_BYTES.unpack_from(area, _SOFTWARE.start)
        if magic != _MAGIC1:
            raise ValueError("the host's kernel saves no extended state")
        self._software = bytes(area[_SOFTWARE])
        _, self._mxcsr_mask = _MXCSR.unpack_from(area, _MXCSR_AT)
        initial = bytearray(self.size)
        struct.pack_into("<H", initial, 0, _INITIAL_FCW)
        _MXCSR.pack_into(initial, _MXCSR_AT, _INITIAL_MXCSR, self._mxcsr_mask)
        initial[_SOFTWARE] = self._software
        self.initial = bytes(initial)
        """After FNINIT, and with all vector registers 0."""

    def sanitize(self, area: bytes) -> bytes:
        """An area from the guest's memory as the host's kernel accepts it
        (`fpu__restore_sig`): without its magic only the first 512 bytes count, and bits that
        the processor does not have are dropped."""
        result = bytearray(area[: self.size].ljust(self.size, b"\0"))
        magic, extended, features, size = _SW_BYTES.unpack_from(result, _SOFTWARE.start)
        (present,) = _U64.unpack_from(result, _HEADER.start)
        if (magic, size) == (_MAGIC1, self.size) and extended >= size:
            present &= self.features & features
        else:
            result[LEGACY_SIZE:] = bytes(self.size - LEGACY_SIZE)
            present = _LEGACY_FEATURES
        result[_HEADER] = _U64.pack(present).ljust(_HEADER.stop - _HEADER.start, b"\0")
        result[_SOFTWARE] = self._software
        mxcsr, _ = _MXCSR.unpack_from(result, _MXCSR_AT)
        _MXCSR.pack_into(result, _MXCSR_AT, mxcsr & self._mxcsr_mask, self._mxcsr_mask)
        return bytes(result)
