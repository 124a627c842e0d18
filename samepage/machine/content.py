"""The content of files as guests would see it, read past the page cache: it takes no frame."""

from samepage.arch import PAGE_SHIFT
from samepage.kernel.boot import Kernel
from samepage.kernel.mm.mapped_file import MappedFile


class Contents:
    """The files of one machine. What is the host's never changes, so it is read once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._unchanging: dict[MappedFile, bytes] = {}

    def of(self, file: MappedFile) -> bytes:
        """All bytes of a file's mapping: what is in storage, with the pages that were
        written in memory over it. Raises `SysError`.
        """
        if not file.unchanging:
            return self._read(file)
        if file not in self._unchanging:
            self._unchanging[file] = self._read(file)
        return self._unchanging[file]

    def _read(self, file: MappedFile) -> bytes:
        data = bytearray(file.size)
        file.read_backing(0, [memoryview(data)])
        for index, pfn in file.pages.items():
            if pfn in self._kernel.cache.written:
                start = index << PAGE_SHIFT
                page = self._kernel.ram.frame(pfn)
                data[start : start + len(page)] = page[: file.size - start]
        return bytes(data)
