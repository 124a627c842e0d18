"""The floating-point and SSE state as FXSAVE lays it out in memory (512 bytes).

Source: Intel SDM volume 1, table 10-2. Signal frames carry it, so that a handler may use
these registers and the interrupted code finds its own again.
"""

from __future__ import annotations

import struct

from samepage.cpu.registers import Reg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


FXSAVE_SIZE = 512
_HEAD = struct.Struct("<HHBxHQQII")
_MXCSR_MASK = 0xFFFF
_ST_AT = 32
_XMM_AT = 160


def fxsave(cpu: Any) -> bytearray:
    """The state of `cpu` (with `read`), as FXSAVE64 stores it."""
    area = bytearray(FXSAVE_SIZE)
    tags = cpu.read(Reg.FPTAG)
    abridged = sum(1 << i for i in range(8) if tags >> 2 * i & 3 != 3)
    control, status = cpu.read(Reg.FPCW), cpu.read(Reg.FPSW)
    mxcsr = cpu.read(Reg.MXCSR)
    _HEAD.pack_into(area, 0, control, status, abridged, 0, 0, 0, mxcsr, _MXCSR_MASK)
    for i in range(8):
        at = _ST_AT + 16 * i
        area[at : at + 10] = cpu.read(Reg.FP0 + i).to_bytes(10, "little")
    for i in range(16):
        area[_XMM_AT + 16 * i : _XMM_AT + 16 * i + 16] = cpu.read(Reg.XMM0 + i).to_bytes(
            16, "little"
        )
    return area


def fxrstor(cpu: Any, area: bytes) -> None:
    """Load the state that FXSAVE64 stored into `cpu` (with `write`)."""
    control, status, abridged, _, _, _, mxcsr, _ = _HEAD.unpack_from(area)
    cpu.write(Reg.FPCW, control)
    cpu.write(Reg.FPSW, status)
    tags = sum((0 if abridged >> i & 1 else 3) << 2 * i for i in range(8))
    cpu.write(Reg.FPTAG, tags)
    cpu.write(Reg.MXCSR, mxcsr & _MXCSR_MASK)
    for i in range(8):
        at = _ST_AT + 16 * i
        cpu.write(Reg.FP0 + i, int.from_bytes(area[at : at + 10], "little"))
    for i in range(16):
        at = _XMM_AT + 16 * i
        cpu.write(Reg.XMM0 + i, int.from_bytes(area[at : at + 16], "little"))
