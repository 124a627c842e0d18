r"""/proc/PID/maps of many processes, parsed at once.

A line is `start-end perms offset dev inode name` (`show_map_vma` in fs/proc/task_mmu.c).
All of it but the addresses is the same text in every process that maps the same library,
so each distinct text is parsed once (`MapsText`), and a VMA is two addresses and the
number of its mapping. That makes the work per line two dictionary look-ups, and the file of a
mapping something that is looked at once for the whole system.

What a name may hide: the kernel writes a newline as `\012` and nothing else specially (a file
named `a\012b` with a real backslash looks the same); a deleted file's name ends with
` (deleted)`, as may the name of one that is not. `samepage.live.inodes` decides
both by looking at the file itself. Bytes that are not UTF-8 become lone surrogates (PEP
383), as elsewhere in Python.
"""

import functools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.live.procfs import Tally

DELETED = " (deleted)"
MINOR_BITS = 20

_PERMS = frozenset(
    read + write + execute + kind
    for read in (b"r", b"-")
    for write in (b"w", b"-")
    for execute in (b"x", b"-")
    for kind in (b"p", b"s")
)
_WIDTH = 12
_HEAD = 2 * _WIDTH + 2
"""The length of two addresses of `_WIDTH` digits, with the dash and the space."""
_NO_DIGIT = 16
_DIGITS = bytes(
    b"0123456789abcdef".find(bytes([character])) % (_NO_DIGIT + 1) for character in range(256)
)
"""The value of each character as a digit of an address."""

Addresses = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int32]


class MapsText(NamedTuple):
    """All of a line of maps but its addresses. `offset` is in bytes."""

    perms: str
    offset: int
    dev: int
    """As `st_dev` of the kernel: major << 20 | minor."""
    ino: int
    """0 if no file is mapped."""
    name: str


_NO_VMAS = (
    np.zeros(0, dtype=np.int32),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.int32),
)


class MapsParser:
    """Turns the bytes of maps files into VMAs; remembers each mapping that it has seen."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.mappings: list[MapsText] = []
        self._known: dict[bytes, int] = {}
        self._parts: list[tuple[Ids, Addresses, Addresses, Ids]] = []
        self._malformed: set[int] = set()

    def add(self, processes: Sequence[tuple[int, bytes]]) -> None:
        """Take (number, maps) pairs, with ascending numbers, also from one call to the next."""
        if not processes:
            return
        texts = [
            data if data.endswith(b"\n") or not data else data + b"\n" for _, data in processes
        ]
        numbers = np.array([number for number, _ in processes], dtype=np.int32)
        text = b"".join(texts)
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        bounds = np.searchsorted(ends, np.cumsum([0, *map(len, texts)]))
        process = np.repeat(numbers, np.diff(bounds))
        start, end, rests = _split_addresses(text, ends)
        found = list(map(self._known.get, rests))
        if None in found:
            for rest in dict.fromkeys(rests):
                if rest not in self._known:
                    self._learn(rest)
            found = list(map(self._known.get, rests))
        mapping = np.array(found, dtype=np.int32)
        good = (mapping >= 0) & (start < end) & ((start | end) & np.uint64(HOST_PAGE_SIZE - 1) == 0)
        if len(good) > 1:
            good[1:] &= (process[1:] != process[:-1]) | (start[1:] >= end[:-1])
        part = (process, start, end, mapping)
        if not good.all():
            self._malformed.update(process[~good].tolist())
            good = _without_overlaps(*part)
            part = (process[good], start[good], end[good], mapping[good])
        self._parts.append(part)

    def vmas(self, dropped: Collection[int] = ()) -> tuple[Ids, Addresses, Addresses, Ids]:
        """Return process, start, end and mapping of all VMAs but those of these processes.

        They are sorted by process and start, and do not overlap; a mapping is a position in
        `mappings`.

        Lines that did not have the kernel's form, or that overlapped one before them, are left
        out, and their processes are counted in `tally.malformed`.
        """
        self.tally.malformed += len(self._malformed.difference(dropped))
        process, start, end, mapping = (
            np.concatenate(column) for column in zip(_NO_VMAS, *self._parts, strict=True)
        )
        if not dropped:
            return process, start, end, mapping
        kept = ~np.isin(process, list(dropped))
        return process[kept], start[kept], end[kept], mapping[kept]

    def _learn(self, rest: bytes) -> None:
        """Remember the number of a mapping seen for the first time, -1 if it is none."""
        mapping = parse_mapping(rest)
        number = -1
        if mapping is not None:
            number = len(self.mappings)
            self.mappings.append(mapping)
        self._known[rest] = number


def parse_mapping(rest: bytes) -> MapsText | None:
    """Return the mapping of a line without its addresses, None if it is not a kernel's."""
    words = rest.split(b" ", 4)
    if len(words) < 4:
        return None
    perms, offset, device, ino = words[:4]
    major, _, minor = device.partition(b":")
    if (
        perms not in _PERMS
        or not (_is_hex(offset, 16) and _is_hex(major, 8) and _is_hex(minor, 8))
        or not (ino.isdigit() and len(ino) <= 20)
    ):
        return None
    return MapsText(
        perms.decode(),
        int(offset, 16),
        int(major, 16) << MINOR_BITS | int(minor, 16),
        int(ino),
        words[4].lstrip(b" ").decode("utf-8", "surrogateescape") if len(words) > 4 else "",
    )


def _is_hex(text: bytes, length: int) -> bool:
    # int() would take signs, prefixes and underscores too.
    return 0 < len(text) <= length and not text.strip(b"0123456789abcdef")


def _split_addresses(
    text: bytes, ends: npt.NDArray[np.int64]
) -> tuple[Addresses, Addresses, list[bytes]]:
    """Return start, end and the rest of each line; (0, 0) if it does not begin with a range.

    `ends` is where the lines end. Nearly all addresses have 12 digits (0x7f... and 0x55...):
    those are decoded all at once. The rest is taken one by one.
    """
    begins = np.zeros_like(ends)
    begins[1:] = ends[:-1] + 1
    heads = _heads(text, begins)
    form = (heads[:, _WIDTH] == ord("-")) & (heads[:, _HEAD - 1] == ord(" "))
    digits = np.frombuffer(bytearray(heads).translate(_DIGITS), dtype=np.uint8)
    digits = digits.reshape(-1, 2, _WIDTH + 1)
    digits[:, :, _WIDTH] = 0
    digits[~form] = 0
    if digits.max(initial=0) == _NO_DIGIT:
        # No kernel wrote this.
        form &= digits.max(axis=(1, 2)) < _NO_DIGIT
    pairs = np.zeros((len(ends), 2, 8), dtype=np.uint8)
    np.bitwise_or(digits[:, :, :_WIDTH:2] << 4, digits[:, :, 1::2], out=pairs[:, :, 2:])
    addresses = pairs.view(">u8").reshape(-1, 2)
    start, end = addresses[:, 0].astype(np.uint64), addresses[:, 1].astype(np.uint64)
    bounds = zip((begins + _HEAD).tolist(), ends.tolist(), strict=True)
    rests = [text[low:high] for low, high in bounds]
    for number in np.flatnonzero(~form).tolist():
        line = text[begins[number] : ends[number]]
        start[number], end[number], rests[number] = _split_line(line)
    return start, end, rests


@functools.lru_cache(maxsize=256)
def _split_line(line: bytes) -> tuple[int, int, bytes]:
    """Do the same for one line. The cache is for `[vsyscall]`, which every process has."""
    head, _, rest = line.partition(b" ")
    low, _, high = head.partition(b"-")
    good = _is_hex(low, 16) and _is_hex(high, 16)
    return (int(low, 16), int(high, 16), rest) if good else (0, 0, rest)


def _heads(text: bytes, begins: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return `_HEAD` characters from each place on, one row each; spaces after the text's end."""
    if len(begins) and int(begins[-1]) + _HEAD > len(text):
        text += b" " * _HEAD
    places = max(len(text) - _HEAD + 1, 0)
    windows = np.ndarray((places,), dtype=f"V{_HEAD}", buffer=text, strides=(1,))
    return windows[begins].view(np.uint8).reshape(-1, _HEAD)


def _without_overlaps(
    process: Ids, start: Addresses, end: Addresses, mapping: Ids
) -> npt.NDArray[np.bool_]:
    """Return which rows may stay: the slow way, for maps that no kernel wrote."""
    keep = np.zeros(len(start), dtype=bool)
    owner, last = -1, 0
    columns = (process.tolist(), start.tolist(), end.tolist(), mapping.tolist())
    for row, (number, low, high, known) in enumerate(zip(*columns, strict=True)):
        if number != owner:
            owner, last = number, 0
        if known >= 0 and last <= low < high and (low | high) & HOST_PAGE_SIZE - 1 == 0:
            keep[row] = True
            last = high
    return keep
