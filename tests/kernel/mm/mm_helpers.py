"""A machine's memory without a CPU: frames, a page cache, address spaces."""

from collections import Counter
from collections.abc import Iterator

from samepage.cpu.paging import Pte
from samepage.cpu.ram import Ram
from samepage.kernel.mm.address_space import RSS_OF_KIND, AddressSpace
from samepage.kernel.mm.frames import FrameKind, Frames
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

    def flush_tlb(self) -> None:
        self.flushes += 1

    def flush_tlb_page(self, _address: int) -> None:
        self.flushes += 1

    def space(self) -> AddressSpace:
        return AddressSpace(self.frames, self.cache, self, self.events.append)


def numbered(pages: int) -> bytes:
    """A file whose pages begin with their number."""
    return b"".join(n.to_bytes(4, "little") * 1024 for n in range(pages))


def check_invariants(memory: Memory) -> None:
    """Recount everything that is counted, over all address spaces of a machine."""
    frames, cache = memory.frames, memory.cache
    references = Counter({frames.zero_pfn: 1})
    mapped: Counter[int] = Counter()
    for mm in cache.spaces:
        rss = [0, 0, 0]
        end = 0
        for vma in mm.vmas:
            assert end <= vma.start < vma.end
            assert (vma.anon_chain == 0) == (vma.anon_vma is None)
            end = vma.end
        for address, _, entry in mm.table.present(0, 1 << 47):
            assert mm.vmas.find(address) is not None, hex(address)
            pfn = (entry & Pte.FRAME) >> 12
            references[pfn] += 1
            mapped[pfn] += 1
            if entry & Pte.WRITE and frames.kinds[pfn] == FrameKind.ANONYMOUS:
                assert frames.exclusive[pfn]
            kind = RSS_OF_KIND[frames.kinds[pfn]]
            if kind >= 0:
                rss[kind] += 1
        assert rss == mm.rss
        tables = list(_tables(frames.ram.words, mm.table.root, 3))
        assert len(tables) == mm.table.n_tables
        references.update([mm.table.root, *tables])
    for pfn, (inode, index) in cache.owner.items():
        assert inode.pages[index] == pfn
        references[pfn] += 1
    assert cache.dirty <= cache.written
    assert cache.written <= cache.owner.keys() | mapped.keys()
    assert cache.marked <= cache.owner.keys()
    for pfn in range(1, frames.ram.n_frames):
        assert frames.references[pfn] == references[pfn], pfn
        assert frames.mapcount[pfn] == mapped[pfn], pfn
        assert (frames.kinds[pfn] == FrameKind.FREE) == (references[pfn] == 0), pfn
        if frames.exclusive[pfn]:
            assert frames.kinds[pfn] == FrameKind.ANONYMOUS
            assert mapped[pfn] <= 1
    assert frames.n_used == len(references)


def _tables(words: memoryview, table: int, level: int) -> Iterator[int]:
    for entry in words[table << 9 : (table + 1) << 9].tolist():
        if entry:
            pfn = (entry & Pte.FRAME) >> 12
            yield pfn
            if level > 1:
                yield from _tables(words, pfn, level - 1)
