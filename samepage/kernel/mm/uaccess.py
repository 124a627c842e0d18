"""The kernel's own reads and writes of user memory, which fault pages in as the CPU does."""

from __future__ import annotations

import errno
import struct

from samepage.arch import (
    ADDRESS_LIMIT,
    FRAME_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PERMIT_MASK,
    PERMIT_VALUE,
    TOUCH,
    Access,
)
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OFFSET = PAGE_SIZE - 1


def _resolve(mm: AddressSpace, address: int, access: Access) -> int:
    """The physical address behind `address`. Raises `SysError(EFAULT)`."""
    if not 0 <= address < ADDRESS_LIMIT:
        raise SysError(errno.EFAULT)
    mask, permitted = PERMIT_MASK[access], PERMIT_VALUE[access]
    words = mm.frames.ram.words
    while True:
        slot = mm.table.slot(address)
        entry = words[slot] if slot else 0
        if entry & mask == permitted:
            words[slot] = entry | TOUCH[access]
            return (entry & FRAME_MASK) + (address & _OFFSET)
        if handle_mm_fault(mm, address, access) is not FaultResult.OK:
            raise SysError(errno.EFAULT)


def copy_from_user(mm: AddressSpace, address: int, length: int) -> bytes:
    """Read `length` bytes of user memory. Raises `SysError(EFAULT)`."""
    if 0 < length <= PAGE_SIZE - (address & _OFFSET):
        at = _resolve(mm, address, Access.READ)
        return bytes(mm.frames.ram.bytes[at : at + length])
    data = copy_from_user_partly(mm, address, length)
    if len(data) < length:
        raise SysError(errno.EFAULT)
    return data


def copy_from_user_partly(mm: AddressSpace, address: int, length: int) -> bytes:
    """Read user memory up to the first page that cannot be read."""
    ram = mm.frames.ram.bytes
    parts = []
    while length > 0:
        size = min(length, PAGE_SIZE - (address & _OFFSET))
        try:
            at = _resolve(mm, address, Access.READ)
        except SysError:
            break
        parts.append(bytes(ram[at : at + size]))
        address += size
        length -= size
    return b"".join(parts)


def copy_to_user(mm: AddressSpace, address: int, data: bytes) -> None:
    """Write `data` to user memory. Raises `SysError(EFAULT)`; what came before the bad
    page is written."""
    if copy_to_user_partly(mm, address, data) < len(data):
        raise SysError(errno.EFAULT)


def copy_to_user_partly(mm: AddressSpace, address: int, data: bytes) -> int:
    """Write `data` up to the first page that cannot be written; return how many bytes."""
    ram = mm.frames.ram.bytes
    rewrite = mm.frames.rewrite
    view = memoryview(data)
    position, length = 0, len(view)
    while position < length:
        here = address + position
        size = min(length - position, PAGE_SIZE - (here & _OFFSET))
        try:
            at = _resolve(mm, here, Access.WRITE)
        except SysError:
            break
        rewrite(at >> PAGE_SHIFT)
        ram[at : at + size] = view[position : position + size]
        position += size
    return position


def clear_user(mm: AddressSpace, address: int, length: int) -> None:
    """Write zeros to user memory (`clear_user`). Raises `SysError(EFAULT)`."""
    while length > 0:
        size = min(length, PAGE_SIZE - (address & _OFFSET))
        copy_to_user(mm, address, bytes(size))
        address += size
        length -= size


def get_u32(mm: AddressSpace, address: int) -> int:
    """Read an unsigned 32-bit word (`get_user`). Raises `SysError(EFAULT)`."""
    return int.from_bytes(copy_from_user(mm, address, 4), "little")


def get_u64(mm: AddressSpace, address: int) -> int:
    """Read an unsigned 64-bit word (`get_user`). Raises `SysError(EFAULT)`."""
    return int.from_bytes(copy_from_user(mm, address, 8), "little")


def put_u32(mm: AddressSpace, address: int, value: int) -> None:
    """Write the low 32 bits of `value` (`put_user`). Raises `SysError(EFAULT)`."""
    copy_to_user(mm, address, (value & (1 << 32) - 1).to_bytes(4, "little"))


def put_u64(mm: AddressSpace, address: int, value: int) -> None:
    """Write the low 64 bits of `value` (`put_user`). Raises `SysError(EFAULT)`."""
    copy_to_user(mm, address, (value & (1 << 64) - 1).to_bytes(8, "little"))


def get_struct(mm: AddressSpace, address: int, layout: struct.Struct | str) -> tuple[Any, ...]:
    """Read a C structure or an array, whose layout is a `struct` format; return its fields.

    Raises `SysError(EFAULT)`.
    """
    if isinstance(layout, str):
        layout = struct.Struct(layout)
    return layout.unpack(copy_from_user(mm, address, layout.size))


def put_struct(mm: AddressSpace, address: int, layout: struct.Struct | str, *fields: Any) -> None:
    """Write a C structure or an array with these fields. Raises `SysError(EFAULT)`."""
    if isinstance(layout, str):
        layout = struct.Struct(layout)
    copy_to_user(mm, address, layout.pack(*fields))


def get_array(
    mm: AddressSpace, address: int, element: struct.Struct, count: int
) -> list[tuple[Any, ...]]:
    """Read an array of `count` C structures; return the fields of each. Raises
    `SysError(EFAULT)`."""
    return list(element.iter_unpack(copy_from_user(mm, address, count * element.size)))


def get_bitmap(mm: AddressSpace, address: int, size: int) -> int:
    """Read a set of `size` bytes, in which bit 0 is the lowest of the first byte (`fd_set`,
    `cpu_set_t`). Raises `SysError(EFAULT)`."""
    return int.from_bytes(copy_from_user(mm, address, size), "little")


def put_bitmap(mm: AddressSpace, address: int, bits: int, size: int) -> None:
    """Write a set as `size` bytes, which must hold it. Raises `SysError(EFAULT)`."""
    copy_to_user(mm, address, bits.to_bytes(size, "little"))


def strncpy_from_user(mm: AddressSpace, address: int, limit: int = 4096) -> bytes:
    """Read a NUL-terminated string of fewer than `limit` bytes.

    Raises `SysError` with EFAULT, or ENAMETOOLONG if there is no NUL within the limit.
    """
    text = b""
    while len(text) < limit:
        size = min(limit - len(text), PAGE_SIZE - (address & _OFFSET))
        part = copy_from_user(mm, address, size)
        end = part.find(0)
        if end >= 0:
            return text + part[:end]
        text += part
        address += size
    raise SysError(errno.ENAMETOOLONG)
