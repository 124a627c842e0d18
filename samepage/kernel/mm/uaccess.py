"""The kernel's own reads and writes of user memory, which fault pages in as the CPU does."""

import errno

from samepage.hardware.paging import Access, Pte
from samepage.hardware.ram import PAGE_SIZE
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault


def _resolve(mm: AddressSpace, address: int, access: Access) -> int:
    """The physical address behind `address`. Raises `SysError(EFAULT)`."""
    if not 0 <= address < 1 << 47:
        raise SysError(errno.EFAULT)
    needed = Pte.PRESENT | (Pte.WRITE if access is Access.WRITE else 0)
    words = mm.frames.ram.words
    while True:
        slot = mm.table.slot(address)
        entry = words[slot] if slot else 0
        if entry & needed == needed:
            words[slot] = entry | Pte.ACCESSED | (Pte.DIRTY if access is Access.WRITE else 0)
            return (entry & Pte.FRAME) + (address & (PAGE_SIZE - 1))
        if handle_mm_fault(mm, address, access) is not FaultResult.OK:
            raise SysError(errno.EFAULT)


def copy_from_user(mm: AddressSpace, address: int, length: int) -> bytes:
    """Read `length` bytes of user memory. Raises `SysError(EFAULT)`."""
    ram = mm.frames.ram.bytes
    parts = []
    while length > 0:
        size = min(length, PAGE_SIZE - (address & (PAGE_SIZE - 1)))
        at = _resolve(mm, address, Access.READ)
        parts.append(bytes(ram[at : at + size]))
        address += size
        length -= size
    return b"".join(parts)


def copy_to_user(mm: AddressSpace, address: int, data: bytes) -> None:
    """Write `data` to user memory. Raises `SysError(EFAULT)`; what came before the bad
    page is written."""
    ram = mm.frames.ram.bytes
    position = 0
    while position < len(data):
        here = address + position
        size = min(len(data) - position, PAGE_SIZE - (here & (PAGE_SIZE - 1)))
        at = _resolve(mm, here, Access.WRITE)
        mm.frames.rewrite(at >> 12)
        ram[at : at + size] = data[position : position + size]
        position += size


def strncpy_from_user(mm: AddressSpace, address: int, limit: int = 4096) -> bytes:
    """Read a NUL-terminated string of fewer than `limit` bytes.

    Raises `SysError` with EFAULT, or ENAMETOOLONG if there is no NUL within the limit.
    """
    text = b""
    while len(text) < limit:
        size = min(limit - len(text), PAGE_SIZE - (address & (PAGE_SIZE - 1)))
        part = copy_from_user(mm, address, size)
        end = part.find(0)
        if end >= 0:
            return text + part[:end]
        text += part
        address += size
    raise SysError(errno.ENAMETOOLONG)
