"""Where functions begin and end in a file without symbols: the unwind tables.

Compilers describe every function in `.eh_frame`, exceptions or not, and `strip` keeps it. The
PT_GNU_EH_FRAME segment (`.eh_frame_hdr`) is a table, sorted by address, of (first instruction,
frame description entry); the entry has the length. So an address in a stripped library
belongs to a function with known bounds, though it has lost its name. Entries are of code
ranges: a function whose unlikely part the compiler moved away (`.cold`) has two.

Sources: Linux Standard Base Core 5.0, sections 10.5 and 10.6 (`.eh_frame`, `.eh_frame_hdr`,
DWARF extensions: pointer encodings).
"""

import numpy as np
import numpy.typing as npt

from samepage.abi.elf import SegmentType
from samepage.elf.file import ElfFile

_PE_ABSPTR, _PE_UDATA4, _PE_SDATA4, _PE_SDATA8, _PE_UDATA8 = 0x00, 0x03, 0x0B, 0x0C, 0x04
_PE_PCREL, _PE_DATAREL, _PE_OMIT = 0x10, 0x30, 0xFF
_SORTED_TABLE = _PE_DATAREL | _PE_SDATA4
_U1, _I4, _U4 = np.dtype("u1"), np.dtype("<i4"), np.dtype("<u4")
_SIZES = {_PE_UDATA4: 4, _PE_SDATA4: 4, _PE_SDATA8: 8, _PE_UDATA8: 8}
_LONGEST_ENTRY = 1 << 20


class CodeRanges:
    """The ranges of code that a file's unwind table describes.

    Addresses are the file's. Invariant: `starts` ascends.
    """

    def __init__(self, elf: ElfFile) -> None:
        """Raises `ElfError` if there is a table that cannot be read. A file without one has
        no ranges."""
        self._elf = elf
        self.starts: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._entries = self.starts
        self._cie_sizes: dict[int, int] = {}
        segment = elf.segment(SegmentType.GNU_EH_FRAME)
        if segment is not None:
            self._read_header(segment.vaddr)

    def at(self, address: int) -> tuple[int, int] | None:
        """The range (start, end) that holds an address, or None. Raises `ElfError` if its
        description does not lie in the file."""
        position = int(np.searchsorted(self.starts, address, "right")) - 1
        if position < 0:
            return None
        start = int(self.starts[position])
        end = start + self._length(int(self._entries[position]))
        return (start, end) if address < end else None

    def _read_header(self, address: int) -> None:
        version, frame, count, table = self._elf.table_at(".eh_frame_hdr", address, _U1, 4).tolist()
        if version != 1:
            raise self._elf.error(f".eh_frame_hdr: version {version}")
        if count == _PE_OMIT or table == _PE_OMIT:
            return
        if table != _SORTED_TABLE or count != _PE_UDATA4 or frame & 0x0F not in _SIZES:
            raise self._elf.error(
                f".eh_frame_hdr: encodings {frame:#x}, {count:#x}, {table:#x} are not supported"
            )
        at = address + 4 + _SIZES[frame & 0x0F]
        rows = int(self._elf.table_at(".eh_frame_hdr", at, _U4, 1)[0])
        pairs = self._elf.table_at(".eh_frame_hdr", at + 4, _I4, 2 * rows).reshape(-1, 2)
        absolute = pairs.astype(np.int64) + address
        order = np.argsort(absolute[:, 0], kind="stable")
        self.starts, self._entries = absolute[order, 0], absolute[order, 1]

    def _length(self, entry: int) -> int:
        """The `pc_range` of a frame description entry, in bytes."""
        length, cie_pointer = self._elf.table_at(".eh_frame", entry, _U4, 2).tolist()
        if length == 0xFFFF_FFFF:
            raise self._elf.error(".eh_frame: 64-bit entries are not supported")
        size = self._pointer_size(entry + 4 - cie_pointer)
        kind = np.dtype(f"<u{size}")
        return int(self._elf.table_at(".eh_frame", entry + 8 + size, kind, 1)[0])

    def _pointer_size(self, cie: int) -> int:
        """The size of `pc_begin` and `pc_range` in the entries of a common information entry:
        its augmentation has an `R` with the encoding (10.6.1.1.1)."""
        known = self._cie_sizes.get(cie)
        if known is not None:
            return known
        length = int(self._elf.table_at(".eh_frame", cie, _U4, 1)[0])
        if not 9 <= length <= _LONGEST_ENTRY:
            raise self._elf.error(f".eh_frame: a common entry of {length} bytes")
        body = self._elf.table_at(".eh_frame", cie + 8, _U1, length - 4).tobytes()
        try:
            size = self._encoded_size(body)
        except (IndexError, ValueError):
            raise self._elf.error(f".eh_frame: the common entry at {cie:#x} is damaged") from None
        self._cie_sizes[cie] = size
        return size

    def _encoded_size(self, body: bytes) -> int:
        end = body.index(b"\0", 1)
        augmentation = body[1:end].decode("ascii", "replace")
        at = end + 1
        absolute = self._elf.layout.word.itemsize
        if not augmentation.startswith("z"):
            return absolute
        for _ in range(2):  # code and data alignment factors
            at = _skip_leb128(body, at)
        at = at + 1 if body[0] == 1 else _skip_leb128(body, at)  # return address register
        at = _skip_leb128(body, at)  # length of the augmentation data
        for letter in augmentation[1:]:
            if letter == "R":
                return _SIZES.get(body[at] & 0x0F, absolute)
            if letter == "L":
                at += 1
            elif letter == "P":
                at += 1 + _SIZES.get(body[at] & 0x0F, absolute)
            elif letter not in "SB":
                raise ValueError(letter)
        return absolute


def _skip_leb128(body: bytes, at: int) -> int:
    while body[at] & 0x80:
        at += 1
    return at + 1
