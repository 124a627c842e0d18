"""A machine's memory without a CPU: frames, a page cache, address spaces."""

from samepage.cpu.ram import Ram
from samepage.kernel.debug import check_memory
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.frames import Frames
from samepage.kernel.mm.mapped_file import MappedFile
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.reclaim import shrink


class MemoryFile(MappedFile):
    """An inode whose storage is a bytes object; counts how often it is read."""

    _last = 100

    def __init__(self, data: bytes) -> None:
        MemoryFile._last += 1
        super().__init__(8, MemoryFile._last, len(data))
        self.data = data
        self.reads = 0

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int:
        self.reads += 1
        done = 0
        for buffer in buffers:
            part = self.data[offset + done : offset + done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
            if len(part) < len(buffer):
                break
        return done


class Memory:
    """Frames and page cache of one machine."""

    def __init__(self, size: int = 16 << 20, *, cold: bool = False) -> None:
        self.rewritten: list[int] = []
        self.frames = Frames(Ram(size), self.rewritten.append)
        self.cache = PageCache(self.frames, cold=cold)
        self.frames.reclaim = lambda: shrink(self.cache, self.frames)
        self.events: list[object] = []
        self.flushes = 0

    def new_context(self, _root: int) -> "Memory":
        return self

    def flush_tlb_range(self, start: int, end: int) -> None:
        assert start <= end
        assert not (start | end) & 0xFFF
        self.flushes += 1

    def activate(self) -> None:
        """No CPU executes in it."""

    def release(self) -> None:
        """Nothing was cached of it."""

    def space(self) -> AddressSpace:
        return AddressSpace(self.frames, self.cache, self, self.events.append)


def numbered(pages: int) -> bytes:
    """A file whose pages begin with their number."""
    return b"".join(n.to_bytes(4, "little") * 1024 for n in range(pages))


def check_invariants(memory: Memory) -> None:
    """Recount everything that is counted, over all address spaces of a machine."""
    check_memory(memory.frames, memory.cache)
