"""The floating-point and SSE registers as FXSAVE64 lays them out in memory (512 bytes).

Source: Intel SDM volume 1, table 10-2.
"""

import struct

from samepage.cpu.unicorn.emulator import Emulator
from samepage.cpu.unicorn.registers import UcReg

FXSAVE_SIZE = 512
_HEAD = struct.Struct("<HHBxHQQII")
_MXCSR_MASK = 0xFFFF
_ST_AT, _ST_SIZE, _N_ST = 32, 10, 8
_XMM_AT, _XMM_SIZE, _N_XMM = 160, 16, 16
_EMPTY = 3
"""Of a register of the x87 stack, in the tag word; the area has one bit for "not empty"."""


def fxsave(emulator: Emulator) -> bytes:
    """The registers of an emulator."""
    area = bytearray(FXSAVE_SIZE)

    def word(number: int, size: int) -> int:
        return int.from_bytes(emulator.read_wide(number, size), "little")

    tags = word(UcReg.FPTAG, 2)
    abridged = sum(1 << i for i in range(_N_ST) if tags >> 2 * i & 3 != _EMPTY)
    control, status, mxcsr = word(UcReg.FPCW, 2), word(UcReg.FPSW, 2), word(UcReg.MXCSR, 4)
    _HEAD.pack_into(area, 0, control, status, abridged, 0, 0, 0, mxcsr, _MXCSR_MASK)
    for i in range(_N_ST):
        at = _ST_AT + 16 * i
        area[at : at + _ST_SIZE] = emulator.read_wide(UcReg.FP0 + i, _ST_SIZE)
    for i in range(_N_XMM):
        at = _XMM_AT + 16 * i
        area[at : at + _XMM_SIZE] = emulator.read_wide(UcReg.XMM0 + i, _XMM_SIZE)
    return bytes(area)


def fxrstor(emulator: Emulator, area: bytes) -> None:
    """Load the registers from an area, whose first 512 bytes count. Bits of MXCSR that the CPU
    does not have are dropped."""
    control, status, abridged, _, _, _, mxcsr, _ = _HEAD.unpack_from(area)
    tags = sum((0 if abridged >> i & 1 else _EMPTY) << 2 * i for i in range(_N_ST))
    for number, value, size in (
        (UcReg.FPCW, control, 2),
        (UcReg.FPSW, status, 2),
        (UcReg.FPTAG, tags, 2),
        (UcReg.MXCSR, mxcsr & _MXCSR_MASK, 4),
    ):
        emulator.write_wide(number, value.to_bytes(size, "little"))
    for i in range(_N_ST):
        at = _ST_AT + 16 * i
        emulator.write_wide(UcReg.FP0 + i, area[at : at + _ST_SIZE])
    for i in range(_N_XMM):
        at = _XMM_AT + 16 * i
        emulator.write_wide(UcReg.XMM0 + i, area[at : at + _XMM_SIZE])
