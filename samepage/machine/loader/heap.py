"""The loader's heap: memory that is only ever allocated (`__minimal_malloc`).

glibc's ld.so allocates from the free end of its own last data page, and maps more when
that is used up: one page more than is needed, so that the next mapping may follow it.
"""

from samepage.abi.mman import MapFlags, Prot
from samepage.arch import Sys
from samepage.linker.memory import PAGE
from samepage.machine.loader.user_side import UserSide

_ALIGN = 16
_NO_FILE = (1 << 64) - 1


class Heap:
    """Allocates zeroed memory; `start` to `end` is free from the beginning."""

    def __init__(self, user: UserSide, start: int = 0, end: int = 0) -> None:
        self._user = user
        self._at, self._end = start, end

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of zeros, aligned to 16 bytes."""
        address = -(-self._at // _ALIGN) * _ALIGN
        if not self._at or address + size >= self._end:
            length = (size + PAGE - 1 & -PAGE) + PAGE
            page = map_anonymous(self._user, length)
            if page != self._end:
                address = page
            self._end = page + length
        self._at = address + size
        return address

    def store(self, data: bytes) -> int:
        """Allocate memory with `data` in it."""
        address = self.allocate(len(data))
        self._user.store(address, data)
        return address


def map_anonymous(user: UserSide, length: int) -> int:
    """Map writable memory where there is room. Raises `OSError`."""
    flags = MapFlags.ANONYMOUS | MapFlags.PRIVATE
    return user.syscall(Sys.MMAP, 0, length, Prot.READ | Prot.WRITE, flags, _NO_FILE, 0)
